"""What a scratch job does in its worker process: an exact, resumable count."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time

from mistudio_core.errors import DiskFull, InvalidInput
from mistudio_core.jobs.context import JobContext
from tests.support.scratch import scratch_pb2


def run(request: bytes, ctx: JobContext) -> bytes:
    """Counts `steps`, chaining a hash; a checkpoint every 5 steps (or one, if patient); the result is the hash."""
    config = scratch_pb2().StartScratchRequest.FromString(request)
    digest, step = "", 0
    checkpoint = ctx.latest_checkpoint()
    if checkpoint is not None:
        state = json.loads(checkpoint.read_bytes("state.json"))
        digest, step = state["digest"], state["step"]
        ctx.log(f"resumed at step {step}")
    if config.mode == "secret":
        secret = ctx.secret("token")
        return b"none" if secret is None else hashlib.sha256(secret.reveal().encode()).hexdigest().encode()
    while step < config.steps:
        if config.mode == "crash" and step >= 2:
            os._exit(3)
        if config.mode == "fail" and step >= 2:
            raise InvalidInput.field("mode", "fail", "something else")
        if config.mode == "bug" and step >= 2:
            raise RuntimeError("/secret/host/path")
        if config.mode == "diskfull" and step >= 2 and not (ctx.home.root / "space").exists():
            raise DiskFull("Disk full while writing a checkpoint: 0 MB free.")
        if config.mode == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        step += 1
        digest = hashlib.sha256(f"{digest}{step}".encode()).hexdigest()
        time.sleep(config.step_seconds)
        ctx.check_cancelled()
        if config.mode == "chat":
            ctx.log(f"line {step}")
            continue
        ctx.progress("counting", fraction=step / config.steps, current=step, total=config.steps, unit="steps")
        ctx.metrics(step, {"loss": 1.0 / step})
        due = step == 5 if config.mode == "patient" else step % 5 == 0
        if due or ctx.checkpoint_wanted():
            writer = ctx.stage_artifact(f"checkpoints/step_{step:08d}", "checkpoint", step=step)
            writer.write("state.json", json.dumps({"digest": digest, "step": step}).encode())
            ctx.commit(writer)
    return digest.encode()
