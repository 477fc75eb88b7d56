"""The machine's NVIDIA GPUs, as NVML reports them, numbered as CUDA numbers them.

Reads memory, load, name, compute capability, temperature and power. What cannot be read (no
driver, no library, no permission, MIG, a lost card) is left out or named in `problem`, never an
error. Knows no jobs and no leases. NVML is the C library behind nvidia-smi; the module `pynvml`
speaks to it, and callers may pass another object with the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from mistudio_core.errors import InvalidInput, Unsupported

_T = TypeVar("_T")
GB = 1e9
LEAST_CAPABILITY = (7, 5)
"""Oldest generation (Turing) that current CUDA builds of torch have kernels for."""
BFLOAT16_CAPABILITY = (8, 0)
"""Oldest generation (Ampere) that computes in bfloat16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReading:
    """One GPU, or the first instance of one that is split with MIG."""

    index: int
    """Number of the GPU as CUDA counts, from 0; `cuda:<index>`."""
    name: str
    """Product name."""
    total_bytes: int
    """Memory in all; 0 where it may not be read."""
    used_bytes: int
    """Memory in use."""
    utilization: float
    """Share of time that it was busy, 0..1; 0 where it cannot be read."""
    uuid: str = ""
    """NVML's id: the same in every process, whatever CUDA_VISIBLE_DEVICES says."""
    compute_capability: tuple[int, int] | None = None
    """Generation, for example (8, 9); None where it cannot be read."""
    temperature_c: float | None = None
    """Degrees Celsius; None where it cannot be read."""
    power_w: float | None = None
    """Watts drawn now; None where it cannot be read."""
    mig: bool = False
    """Whether this is an instance of a GPU that is split with MIG."""
    problem: str = ""
    """What could not be read and why; empty where all could."""

    @property
    def free_bytes(self) -> int:
        """Memory free."""
        return self.total_bytes - self.used_bytes

    @property
    def compatible(self) -> bool:
        """Whether its generation is supported; an unknown one is."""
        return self.compute_capability is None or self.compute_capability >= LEAST_CAPABILITY


def read_gpus(nvml: Any = None) -> list[GpuReading]:
    """The GPUs that CUDA would see here, by index; empty where there is no driver or library.

    `nvml` stands in for `pynvml`. CUDA must count by bus (CUDA_DEVICE_ORDER=PCI_BUS_ID), as NVML does.
    """

    def read(nvml: Any) -> list[GpuReading]:
        units = _visible(list(_units(nvml)), os.environ.get("CUDA_VISIBLE_DEVICES"))
        return [_read(nvml, index, unit) for index, unit in enumerate(units)]

    return _asked(nvml, read, [])


def read_energy(nvml: Any = None) -> dict[str, int]:
    """Millijoules since the driver's start by the id of each GPU that counts them; empty without driver or library.

    `nvml` stands in for `pynvml`.
    """

    def read(nvml: Any) -> dict[str, int]:
        found: dict[str, int] = {}
        for number in range(nvml.nvmlDeviceGetCount()):
            with suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                found[_text(nvml.nvmlDeviceGetUUID(handle))] = int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        return found

    return _asked(nvml, read, {})


def _asked(nvml: Any, read: Callable[[Any], _T], nothing: _T) -> _T:
    """What `read` gets of an open NVML; `nothing` without driver or library."""
    if nvml is None:
        try:
            import pynvml as nvml  # type: ignore[no-redef]
        except ImportError:
            return nothing
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError):
        return nothing
    try:
        return read(nvml)
    except nvml.NVMLError:
        return nothing
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Unit:
    """What CUDA can run on: a whole GPU or a MIG instance."""

    number: int
    parent: Any
    handle: Any
    uuid: str
    mig: bool
    problem: str = ""


def _units(nvml: Any) -> Iterator[_Unit]:
    """Every GPU, or the first instance of one that is split: a CUDA process sees no more of it."""
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
        except nvml.NVMLError as error:
            yield _Unit(number=number, parent=None, handle=None, uuid="", mig=False, problem=_why("the GPU", error))
            continue
        instance = _first_instance(nvml, handle)
        target = handle if instance is None else instance
        yield _Unit(
            number=number,
            parent=handle,
            handle=target,
            uuid=_text(_try(nvml, partial(nvml.nvmlDeviceGetUUID, target)) or ""),
            mig=instance is not None,
            problem="" if instance is not None or not _is_split(nvml, handle) else "MIG is on and has no instance",
        )


def _is_split(nvml: Any, handle: Any) -> bool:
    mode = _try(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle))
    return bool(mode and mode[0])


def _first_instance(nvml: Any, handle: Any) -> Any:
    """The first MIG instance; None where MIG is off or there is none."""
    if not _is_split(nvml, handle):
        return None
    for place in range(_try(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0):
        found = _try(nvml, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place))
        if found is not None:
            return found
    return None


def _visible(units: Sequence[_Unit], names: str | None) -> list[_Unit]:
    """The units that CUDA_VISIBLE_DEVICES leaves, in its order; like CUDA it stops at a name that is none."""
    if names is None:
        return list(units)
    chosen: list[_Unit] = []
    for name in (n.strip() for n in names.split(",")):
        found = [u for u in units if (name.isdigit() and u.number == int(name)) or _names(name, u.uuid)]
        if len(found) != 1 or found[0] in chosen:
            break
        chosen += found
    return chosen


def _names(name: str, uuid: str) -> bool:
    return name.startswith(("GPU-", "MIG-")) and uuid.startswith(name)


def _read(nvml: Any, index: int, unit: _Unit) -> GpuReading:
    """One reading; each figure that fails leaves the others."""
    problems = [unit.problem] if unit.problem else []

    def ask(what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError as error:
            problems.append(_why(what, error))
            return None

    if unit.handle is None or unit.problem:
        return GpuReading(
            index=index, name="unknown", total_bytes=0, used_bytes=0, utilization=0.0, uuid=unit.uuid,
            problem="; ".join(problems),
        )  # fmt: skip
    handle, parent = unit.handle, unit.parent
    memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    busy = ask("utilization", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    name = ask("name", lambda: nvml.nvmlDeviceGetName(handle))
    capability = ask("compute capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(parent))
    temperature = ask("temperature", lambda: nvml.nvmlDeviceGetTemperature(parent, nvml.NVML_TEMPERATURE_GPU))
    milliwatts = ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(parent))
    return GpuReading(
        index=index,
        name=_text(name or "unknown"),
        total_bytes=int(memory.total) if memory else 0,
        used_bytes=int(memory.used) if memory else 0,
        utilization=min(max(float(busy or 0) / 100, 0.0), 1.0),
        uuid=unit.uuid,
        compute_capability=(int(capability[0]), int(capability[1])) if capability else None,
        temperature_c=None if temperature is None else float(temperature),
        power_w=None if milliwatts is None else milliwatts / 1000,
        mig=unit.mig,
        problem="; ".join(problems),
    )


def _try(nvml: Any, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except nvml.NVMLError:
        return None


def _why(what: str, error: Exception) -> str:
    return f"{what}: {str(error)[:80] or type(error).__name__}"


def _text(value: Any) -> str:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def gpu_of(gpus: Sequence[GpuReading], gpu_id: int) -> GpuReading:
    """The GPU that was asked for. Raises InvalidInput (GPU_NOT_FOUND) with those that are there, Unsupported."""
    found = next((g for g in gpus if g.index == gpu_id), None)
    if found is None:
        raise InvalidInput.field(
            "gpu_id", gpu_id, _there(gpus), "Leave it out to let miStudio choose the device.", reason="GPU_NOT_FOUND"
        )
    if not found.compatible:
        raise Unsupported(
            f"GPU {gpu_id} ({found.name})",
            why=f"its compute capability is {_dotted(found.compute_capability)}, below {_dotted(LEAST_CAPABILITY)}",
            instead="Choose another gpu_id, or leave it out.",
        )
    return found


def _dotted(capability: tuple[int, int] | None) -> str:
    return "unknown" if capability is None else f"{capability[0]}.{capability[1]}"


def _there(gpus: Sequence[GpuReading]) -> str:
    if not gpus:
        return "none: this machine has no NVIDIA GPU"
    each = "; ".join(f"{g.index}: {g.name}, {g.total_bytes / GB:.1f} GB" for g in gpus[:16])
    return f"0 to {len(gpus) - 1} ({each})"


def best_first(gpus: Sequence[GpuReading], *, free_bytes: float = 0.0, gpu_id: int | None = None) -> list[GpuReading]:
    """The GPUs that a job could take, most free memory first, then the lower index.

    Only compatible ones with at least `free_bytes` free; `gpu_id` allows that one alone.
    """
    fitting = [g for g in gpus if g.compatible and g.total_bytes and g.free_bytes >= free_bytes]
    return sorted((g for g in fitting if gpu_id in (None, g.index)), key=lambda g: (-g.free_bytes, g.index))
