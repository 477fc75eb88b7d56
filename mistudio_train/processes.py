"""Starts the processes that train together and joins them: the leader is the job's worker, the others follow.

A follower is `python -m mistudio_train.processes`, told what to do over its standard input, which the
leader holds open: when it closes, the follower ends, however the leader ended. CPU only.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mistudio_core.artifacts import ArtifactReader, ArtifactRecord
from mistudio_core.errors import Failed, Unsupported
from mistudio_core.jobs.context import JobContext
from mistudio_train import job
from mistudio_train.config import TrainConfig
from mistudio_train.following import FollowingContext
from mistudio_train.hub_dataset import DatasetOptions, is_dataset
from mistudio_train.parallel import World
from mistudio_train.result import TrainResult
from mistudio_train.variants import Sweep

_LOOPBACK = "127.0.0.1"
_LAST_WORDS = 2000


def lead(config: TrainConfig, ctx: JobContext) -> TrainResult:
    """The job in `config.processes` processes, this one the leader.

    Raises what job.run does; Unsupported on a GPU and for a data set of the hub; Failed (WORKER_DIED)
    where a follower ends.
    """
    check(config, on_gpu=not ctx.device.startswith("cpu"))
    threads = config.threads or max(1, (os.cpu_count() or 1) // config.processes)
    config = replace(config, threads=threads)
    torch.set_num_threads(threads)
    with socket.create_server((_LOOPBACK, 0)) as free:
        port = int(free.getsockname()[1])
    followers = [_started(config, ctx, rank, port) for rank in range(1, config.processes)]
    try:
        with _group(0, config.processes, port):
            result = job.take_part(config, ctx, World(rank=0, size=config.processes))
    except RuntimeError as error:
        raise _follower_failed(followers, ctx, error) from error
    finally:
        for follower in followers:
            follower.kill()
            follower.communicate()
    if result is None:
        raise ValueError("the leader has a result")
    return result


def check(config: TrainConfig, *, on_gpu: bool) -> None:
    """Raises Unsupported for what several processes cannot do."""
    if config.processes > 1 and on_gpu:
        raise Unsupported(
            f"processes = {config.processes} on a GPU", why="several processes share the CPU only", instead="Use 1."
        )
    if config.processes > 1 and is_dataset(config.corpus_name):
        raise Unsupported(
            f"processes = {config.processes} with a data set of the hub",
            why="every process reads the corpus from this machine",
            instead="Upload the data first, or use 1 process.",
        )


def _started(config: TrainConfig, ctx: JobContext, rank: int, port: int) -> subprocess.Popen[bytes]:
    """A follower, told everything."""
    scratch = ctx.scratch / f"rank{rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    checkpoint = ctx.latest_checkpoint()
    secret = ctx.secret("huggingface_token")
    told = {
        "rank": rank,
        "port": port,
        "config": asdict(config),
        "corpus": _reference(ctx.input("corpus")),
        "checkpoint": None if checkpoint is None else _reference(checkpoint),
        "scratch": str(scratch),
        "device": ctx.device,
        "job_id": ctx.job_id,
        "token": None if secret is None else secret.reveal(),
    }
    with (scratch / "log").open("wb") as log:
        follower = subprocess.Popen(
            [sys.executable, "-m", "mistudio_train.processes"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": str(config.threads)},
        )
    if follower.stdin is None:
        raise ValueError("standard input is a pipe")
    follower.stdin.write(json.dumps(told, default=str).encode() + b"\n")
    follower.stdin.flush()
    return follower


def _reference(reader: ArtifactReader) -> dict[str, str]:
    return {
        "root": str(reader.root),
        "folder": reader.record.folder,
        "manifest": reader.record.manifest().decode(),
    }


def _opened(reference: Mapping[str, str]) -> ArtifactReader:
    record = ArtifactRecord.parse(reference["manifest"].encode(), reference["folder"])
    return ArtifactReader(Path(reference["root"]), record)


@contextmanager
def _group(rank: int, size: int, port: int) -> Iterator[None]:
    """The process group, made by accelerate from the variables that torchrun sets as well."""
    from accelerate import PartialState

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # without it accelerate sets a number of its own
    }
    state = PartialState(cpu=True, backend="gloo")
    try:
        yield
    finally:
        state.destroy_process_group()
        PartialState._reset_state()


def _follower_failed(followers: list[subprocess.Popen[bytes]], ctx: JobContext, error: RuntimeError) -> Exception:
    """What to raise once the processes lost each other: the first words of one that ended, else the error itself."""
    for rank, follower in enumerate(followers, 1):
        try:
            code = follower.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        log = ctx.scratch / f"rank{rank}" / "log"
        words = log.read_text(errors="replace")[-_LAST_WORDS:] if log.exists() else ""
        ctx.log(f"Process {rank} of {len(followers) + 1} ended with code {code}: {words}", level="error")
        return Failed(
            f"Process {rank} of {len(followers) + 1} ended with code {code}. The job goes on from its last checkpoint "
            "when it is started again; its log has the reason.",
            reason="WORKER_DIED",
            facts={"rank": rank, "code": code},
        )
    return error


def _follow(told: Mapping[str, Any]) -> None:
    """One follower's whole life."""
    from mistudio_core.secret import Secret

    raw = dict(told["config"])
    raw["sweep"] = Sweep(**{name: tuple(values) for name, values in raw["sweep"].items()})
    raw["dataset"] = DatasetOptions()
    for name in ("model_root", "cache_dir"):
        raw[name] = None if raw[name] is None else Path(raw[name])
    config = TrainConfig(**raw)
    ctx = FollowingContext(
        job_id=told["job_id"],
        device=told["device"],
        scratch=Path(told["scratch"]),
        corpus=_opened(told["corpus"]),
        checkpoint=None if told["checkpoint"] is None else _opened(told["checkpoint"]),
        token=None if told["token"] is None else Secret(told["token"]),
    )
    with _group(told["rank"], config.processes, told["port"]):
        job.take_part(config, ctx, World(rank=told["rank"], size=config.processes))


def _main() -> None:
    told = json.loads(sys.stdin.buffer.readline())

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _follow(told)
    os._exit(0)  # the watching thread holds standard input: an orderly exit would wait for it


if __name__ == "__main__":
    _main()
