"""The isolated half of a conversion: one pickled weight file in, one safetensors file out.

Run by `pickles` as a process of its own and by nobody else. It first gives up what a hostile file
could use (network, other programs, files outside of its folder, memory and time without end), then
reads tensors only: `weights_only` refuses every global that a pickle may call.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULT = "result.json"
_CLONE_NEWUSER, _CLONE_NEWNET, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.",
    "ctypes.",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
)
"""Audit events that no reading of tensors has."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_GLOBAL = re.compile(r"GLOBAL ([A-Za-z0-9_.<>]{1,100})")


class NotTensors(Exception):
    """The file holds something else than tensors; the message says what."""


def main() -> int:
    """`SOURCE TARGET MEMORY_BYTES CPU_SECONDS`: 0 where TARGET was written; RESULT beside it says how it went."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    out = target.parent
    try:
        _leave_network()  # before torch has threads: the kernel asks for a process with one
        import torch

        torch.set_num_threads(1)
        _give_up(out, memory_bytes=int(sys.argv[3]), cpu_seconds=int(sys.argv[4]))
        tensors = read_tensors(source)
        _save(tensors, target)
        answer = {"tensors": len(tensors), "bytes": sum(t.numel() * t.element_size() for t in tensors.values())}
    except NotTensors as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"failed": "it needs more memory than is allowed"}
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    (out / RESULT).write_text(json.dumps(answer))
    return 0 if "tensors" in answer else 1


def _leave_network() -> None:
    """An empty network of its own, where the kernel allows it; the audit hook stands in any case."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _give_up(out: Path, *, memory_bytes: int, cpu_seconds: int) -> None:
    """Takes away what is not needed: sockets, programs, files elsewhere, endless time, memory and disk."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(limit, (value, value))
    folder = str(out.resolve()) + "/"

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and _writes(arguments) and not str(arguments[0]).startswith(folder):
            raise PermissionError("writing outside of the folder is not allowed here")

    sys.addaudithook(refuse)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    return bool(set(str(mode or "")) & set("wax+")) or (isinstance(flags, int) and bool(flags & 0o3))


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, each with memory of its own. Raises NotTensors for whatever else is in it."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        named = _GLOBAL.search(str(error))
        raise NotTensors(f"it names {named.group(1)}" if named else "it is no plain checkpoint") from error
    if isinstance(loaded, Mapping) and len(loaded) == 1 and next(iter(loaded)) in _WRAPPERS:
        loaded = next(iter(loaded.values()))
    if not isinstance(loaded, Mapping) or not loaded:
        raise NotTensors(f"it holds a {type(loaded).__name__}, not named tensors")
    tensors = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise NotTensors(f"its entry {str(name)[:80]!r} is a {type(value).__name__}")
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise NotTensors(f"its entry {name[:80]!r} is a sparse, quantised or complex tensor")
        tensors[name] = value.detach()
    return _apart(tensors)


def _apart(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors that share memory (tied weights, views) become copies, because a safetensors file has no sharing."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        if not whole or storage.data_ptr() in seen:
            tensors[name] = tensor.contiguous().clone()
        seen.add(storage.data_ptr())
    return tensors


def _save(tensors: dict[str, Any], target: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, target, metadata={"format": "pt"})


if __name__ == "__main__":
    sys.exit(main())
