"""`python -m mistudio_torch.lm.pickles`: a model that is published as pickles, converted to safetensors.

Finds the files (a folder or a hub repository), has each one read by a process of its own that can
do nothing but read tensors (`unpickle`), and puts the finished folder under the model root in one
step. Imports no torch itself. Reads a job as JSON from stdin, writes JSON lines.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.artifacts.files import fsync_path, hash_file
from mistudio_core.errors import Conflict, Failed, InvalidInput, LimitReached, MistudioError
from mistudio_core.secret import Secret
from mistudio_torch.lm.facts import invalid
from mistudio_torch.lm.source import INDEX, SINGLE, TOKENIZER_FILES, ModelSource, inspect_model, not_found, resolve
from mistudio_torch.lm.unpickle import RESULT

RECORD = "mistudio_conversion.json"
"""What was converted, from which bytes."""
_PICKLE_INDEX = "pytorch_model.bin.index.json"
_SINGLE_PICKLE = "pytorch_model.bin"
_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "random_states")
_BESIDE = ("config.json", "generation_config.json", *TOKENIZER_FILES)
_LIBRARY_BYTES = 12 << 30
"""Address space that torch takes before it has read anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """One conversion that is asked for."""

    source: str
    """A folder of this machine, or what StartTraining takes as model_name."""
    model_root: Path
    """Where the new folder goes."""
    name: str = ""
    """Name of the new model, a path under the model root; empty: the source's own."""
    token: Secret | None = None
    """Hub token."""
    timeout_s: float = 1800.0
    """Longest time for one file, seconds of clock and of processor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A finished conversion."""

    name: str
    """What StartTraining takes as model_name."""
    folder: Path
    """Where it is."""
    files: tuple[str, ...]
    """Weight files written."""
    tensors: int
    """Tensors in them."""
    weight_bytes: int
    """Their bytes."""


def convert(job: Conversion, say: Callable[[str], None] = lambda _: None) -> Converted:
    """Converts a model; nothing is left of a conversion that fails.

    Raises what `resolve` does; InvalidInput (MODEL_UNSAFE_FORMAT) for pickles that hold more than
    tensors; LimitReached on timeout or memory; Conflict where the name is taken.
    """
    source = _source(job)
    name = job.name or _own_name(source, job.model_root.resolve())
    target = _target(job.model_root, name)
    pickles = pickle_files(source)
    job.model_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=job.model_root) as place:
        staged = Path(place) / "model"
        staged.mkdir()
        tensors, size, written = 0, 0, {}
        for number, (file, names) in enumerate(sorted(pickles.items())):
            say(f"Converting {file} ({number + 1} of {len(pickles)})")
            path, out = source.path(file), _name_of(file, number, len(pickles))
            answer = convert_file(path, staged / out, timeout_s=job.timeout_s, model=job.source)
            tensors, size = tensors + answer["tensors"], size + answer["bytes"]
            written[out] = (names, file, hash_file(path).sha256)
        _describe(staged, source, written, size)
        inspect_model("model", model_root=Path(place))
        _publish(staged, target)
    return Converted(name=name, folder=target, files=tuple(written), tensors=tensors, weight_bytes=size)


def _source(job: Conversion) -> ModelSource:
    folder = Path(job.source).expanduser()
    if folder.is_dir():
        return ModelSource(name=job.source, folder=folder.resolve(), repo=None, token=None, cache_dir=None)
    return resolve(job.source, token=job.token, model_root=job.model_root)


def _own_name(source: ModelSource, root: Path) -> str:
    """The hub id itself, so that the same name finds the converted folder; a folder's own name elsewhere."""
    if source.folder is None:
        return source.name
    if source.folder.is_relative_to(root):
        return f"{source.folder.relative_to(root)}-safetensors"
    return source.folder.name


def _target(root: Path, name: str) -> Path:
    """Where the model goes. Raises InvalidInput, Conflict."""
    target = (root / name).resolve()
    if target == root.resolve() or not target.is_relative_to(root.resolve()) or ":" in name:
        raise InvalidInput.field("name", name, "a relative path under the model root")
    if target.exists():
        raise Conflict(
            f"There is a model {name} under the model root. Choose another --name, or remove its folder first.",
            facts={"name": name},
        )
    return target


def pickle_files(source: ModelSource) -> dict[str, list[str] | None]:
    """Weight files -> the tensors wanted of each (None: all). Raises InvalidInput where there is nothing to convert."""
    files = source.files
    if SINGLE in files or INDEX in files:
        raise InvalidInput(
            f"Model {source.name} has safetensors weights already: use it as it is.", facts={"model_name": source.name}
        )
    if _PICKLE_INDEX in files:
        return _indexed(source)
    if _SINGLE_PICKLE in files:
        return {_SINGLE_PICKLE: None}
    candidates = [f for f in sorted(files) if f.endswith(_SUFFIXES) and not f.startswith(_NOT_WEIGHTS)]
    if len(candidates) != 1:
        there = ", ".join(candidates[:5]) or "none"
        raise not_found(source.name, f"it has no {_SINGLE_PICKLE} and not exactly one other weight file ({there})")
    return {candidates[0]: None}


def _indexed(source: ModelSource) -> dict[str, list[str] | None]:
    try:
        weight_map = json.loads(source.path(_PICKLE_INDEX).read_bytes())["weight_map"]
        shards: dict[str, list[str] | None] = {}
        for tensor, file in weight_map.items():
            if file not in source.files or not file.endswith(_SUFFIXES):
                raise invalid(source.name, f"{_PICKLE_INDEX} names files that the model does not have")
            names = shards.setdefault(str(file), [])
            if names is not None:
                names.append(str(tensor))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise invalid(source.name, f"{_PICKLE_INDEX} cannot be read") from error
    return shards


def _name_of(file: str, number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def convert_file(path: Path, target: Path, *, timeout_s: float, model: str) -> dict[str, int]:
    """Has one file converted by an isolated process; its counts. Raises InvalidInput, LimitReached, Failed."""
    size = path.stat().st_size
    with tempfile.TemporaryDirectory(prefix=".isolated-", dir=target.parent.parent) as place:
        out = Path(place) / "out.safetensors"
        arguments = [str(path), str(out), str(_LIBRARY_BYTES + 4 * size), str(max(1, round(timeout_s)))]
        finished = _run_isolated(arguments, Path(place), timeout_s)
        answer = _answer(Path(place) / RESULT)
        if not finished:
            raise LimitReached(
                f"{path.name} of {model} was not converted in {timeout_s:.0f} s and its process was ended. "
                "Raise --timeout.",
                facts={"file": path.name, "timeout_s": timeout_s},
            )
        if "refused" in answer:
            raise InvalidInput(
                f"{path.name} of {model} holds more than tensors: {answer['refused']}. Nothing of it was run or kept. "
                "Use another copy of the model.",
                reason="MODEL_UNSAFE_FORMAT",
                facts={"model_name": model, "file": path.name},
            )
        if "tensors" not in answer:
            why = answer.get("failed", "its process ended without an answer")
            raise Failed(f"{path.name} of {model} cannot be converted: {why}.", reason="MODEL_INVALID")
        out.replace(target)
    return {"tensors": int(answer["tensors"]), "bytes": int(answer["bytes"])}


def _run_isolated(arguments: list[str], folder: Path, timeout_s: float) -> bool:
    """Whether the process ended by itself; a late one is killed with what it started."""
    environment = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mistudio_torch.lm.unpickle", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout_s)
        return True
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answer(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _describe(
    staged: Path, source: ModelSource, written: Mapping[str, tuple[list[str] | None, str, str]], size: int
) -> None:
    """Index, config, vocabularies, and the record of what was converted."""
    if len(written) > 1:
        weight_map = {tensor: out for out, (names, _, _) in written.items() for tensor in names or ()}
        body = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (staged / INDEX).write_text(json.dumps(body, sort_keys=True, indent=1))
    for file in sorted(source.files.intersection(_BESIDE)):
        shutil.copyfile(source.path(file), staged / file)
    record = {
        "source": source.name,
        "revision": source.repo.revision if source.repo else "",
        "files": {out: {"from": file, "sha256": digest} for out, (_, file, digest) in written.items()},
    }
    (staged / RECORD).write_text(json.dumps(record, sort_keys=True, indent=1))


def _publish(staged: Path, target: Path) -> None:
    """Makes the folder visible in one step, durably."""
    for file in staged.iterdir():
        fsync_path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    staged.rename(target)
    fsync_path(target.parent)


def main() -> int:
    """Reads one job from stdin; JSON lines `{"message"}`, then `{"converted"}` or `{"error"}`. 0 where it worked."""

    def tell(**line: object) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    given = json.load(sys.stdin)
    token = given.pop("token", "")
    root = Path(given.pop("model_root"))
    try:
        done = convert(
            Conversion(**given, model_root=root, token=Secret(token) if token else None),
            say=lambda message: tell(message=message),
        )
    except MistudioError as error:
        tell(error={"reason": error.reason, "message": error.message, "facts": error.facts})
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Free some space." if full else "Choose another place."
        what = f"{error.strerror or type(error).__name__}: {error.filename or root}. {remedy}"
        tell(error={"reason": "DISK_FULL" if full else "FORBIDDEN", "message": what, "facts": {}})
        return 1
    tell(
        converted={
            "model_name": done.name,
            "folder": str(done.folder),
            "files": list(done.files),
            "tensors": done.tensors,
            "weight_bytes": done.weight_bytes,
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
