"""The memory of this machine: free, in all, and what this process holds.

Honours the limit of a container (cgroup) where that is less than the machine's. Reads /proc and
/sys; knows no GPUs and no jobs.
"""

from __future__ import annotations

from pathlib import Path

_UNLIMITED = 1 << 60
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Limit, use, statistics and the use that the kernel gives back at need: version 2, then version 1."""


def available_bytes(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that processes could still take: the machine's, or the container's where that is less."""
    free = _meminfo(proc, "MemAvailable")
    limit, used = _limit(cgroup)
    return max(0, min(free, limit - used))


def total_bytes(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory in all, or the container's limit where that is less."""
    return min(_meminfo(proc, "MemTotal"), _limit(cgroup)[0])


def resident_bytes() -> int:
    """What this process holds now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """The most that this process ever held, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Lets the peak of this process begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def has_fast_bfloat16(*, proc: Path = Path("/proc")) -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware, as far as Linux says."""
    try:
        text = (proc / "cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


def _meminfo(proc: Path, name: str) -> int:
    return _kilobytes(proc / "meminfo", name) or _UNLIMITED


def _status(name: str) -> int:
    return _kilobytes(Path("/proc/self/status"), name) or 0


def _kilobytes(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _limit(cgroup: Path) -> tuple[int, int]:
    """(limit, use that cannot be given back) of the container; an endless limit where there is none."""
    for limit_file, used_file, stat_file, cache in _CGROUPS:
        try:
            text, used = (cgroup / limit_file).read_text().strip(), int((cgroup / used_file).read_text())
            given_back = [
                line.split()[1]
                for line in (cgroup / stat_file).read_text().splitlines()
                if line.startswith(f"{cache} ")
            ]
        except (OSError, ValueError):
            continue
        if text == "max" or int(text) >= _UNLIMITED:
            return _UNLIMITED, 0
        return int(text), max(0, used - int(given_back[0] if given_back else 0))
    return _UNLIMITED, 0
