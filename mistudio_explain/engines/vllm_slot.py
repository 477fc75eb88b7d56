"""One device of a managed engine: keeps one process running on it, as asyncio work.

Start, readiness, warm-up, restart with backoff, giving up with the last log lines, drain. Which
devices an engine has and when it runs is the pool's; what is done to a process is vllm_process.py's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mistudio_core import clock, ids
from mistudio_core.engine_records import DRAINING, FAILED, READY, STARTING, STOPPED, EngineRecord
from mistudio_core.gpus import GpuReading
from mistudio_core.home import Home
from mistudio_core.processes import ProcessName, resident_bytes_of, session_members
from mistudio_core.secret import Secret
from mistudio_explain.engines import vllm_process
from mistudio_explain.engines.vllm_process import Plan

log = logging.getLogger("mistudio.engines")
_WARM_UP_SECONDS = 300.0
_LARGEST_LOG = 50_000_000
_MISSES = 3
"""Questions in a row without an answer: one may be lost while the machine sleeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How often a pool looks and how long it waits, seconds."""

    poll: float = 2.0
    """Between questions to a process that serves."""
    ready_poll: float = 0.25
    """Between questions to a process that starts."""
    pauses: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
    """Before the first, second ... restart in a row."""
    healthy: float = 30.0
    """A process that served this long has not died quickly."""
    ask: float = 5.0
    """For an answer about health or load."""
    hung: float = 120.0
    """A process that serves and is silent for so long is killed."""
    stop: float = 10.0
    """From SIGTERM to SIGKILL."""
    lease: float = 1.0
    """Between tries to lease a device that another process has."""
    tick: float = 0.5
    """Between looks for wishes and idle engines."""
    give_way: float = 10.0
    """An engine without a request for so long gives its GPU to a job that waits for one."""
    switch_idle: float = 5.0
    """An engine without a request for so long may be switched to another model that a job asks for."""


class Lessor(Protocol):
    """The machine's devices, leased by the kernel: whoever holds the open file has the device."""

    def gpus(self) -> list[GpuReading]:
        """The GPUs as they are now."""
        ...

    def lease(self, device: str) -> list[int] | None:
        """Open files that hold `cuda:0` or `cpu:0-3`; None where another process has some of it."""
        ...

    def wanted(self) -> bool:
        """Whether a job waits for a GPU now."""
        ...


class Slot:
    """Keeps a process of an engine on its device."""

    def __init__(
        self, home: Home, plan: Plan, lessor: Lessor, timing: Timing, digest: str, changed: Callable[[bool], None]
    ) -> None:
        """Starts nothing yet. `changed(durable)` is called whenever `record` is another one."""
        self._home, self.plan, self._lessor, self._timing = home, plan, lessor, timing
        self._changed = changed
        self._wanted = True
        self._key = Secret("")
        self._task: asyncio.Task[None] | None = None
        self._log_from = 0
        self._answered = 0
        self._how = "ended"
        self.last_active = clock.monotonic()
        self.record = EngineRecord(
            engine=plan.settings.name, device=plan.device, state=STOPPED, model=plan.model, digest=digest,
            log_file=plan.log.name, key_file=plan.key_file.name,
        )  # fmt: skip

    def start(self, adopted: EngineRecord | None = None) -> None:
        """Begins to keep a process here: an adopted one first, else a fresh one."""
        if adopted is not None:
            self.record = replace(adopted, message="found again after a restart of the service")
            self._key = vllm_process.read_key(self._home, adopted.key_file)
        else:
            self._stand(STARTING, "starts")
        self._task = asyncio.create_task(self._keep(adopted is not None), name=f"engine-{self.record.engine}")

    @property
    def running(self) -> bool:
        """Whether it is kept running: neither stopped nor given up."""
        return self._task is not None and not self._task.done() and self._wanted

    def begin_drain(self) -> None:
        """No new requests from now on."""
        self._wanted = False
        if self.record.state in (STARTING, READY):
            self._stand(DRAINING, "finishes what it works on")

    async def stop(self, *, drain_seconds: float, message: str, held: bool = False) -> None:
        """Lets running requests finish for so long, then ends the process; `held`: wishes do not start it again."""
        self.begin_drain()
        if self._task is None or self._task.done():
            self._stand(STOPPED, message, port=0, pid=0, process_start=0, held=held)
            return
        process = self.record.process
        ends = clock.monotonic() + drain_seconds
        while process.alive and clock.monotonic() < ends:
            load = await vllm_process.load_of(self.record.port, key=self._key, seconds=self._timing.ask)
            if load is None or not load.in_flight:
                break
            await asyncio.wait({self._task}, timeout=self._timing.ready_poll)
        process.signal(signal.SIGTERM)
        await asyncio.wait({self._task}, timeout=self._timing.stop if process.alive else 0.05)
        await asyncio.to_thread(process.kill_session)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.plan.key_file.unlink(missing_ok=True)
        self._stand(STOPPED, message, port=0, pid=0, process_start=0, in_flight=0, memory_bytes=0, held=held)

    def let_go(self) -> None:
        """Stops keeping it; the process lives on for a later control process."""
        if self._task is not None:
            self._task.cancel()

    async def _keep(self, adopted: bool) -> None:
        quick = 0
        while self._wanted:
            if not adopted and not await self._launch():
                continue
            process, began = self.record.process, clock.monotonic()
            served = await self._live(process, adopted)
            adopted = False
            if not self._wanted or self.record.state == FAILED:
                return
            quick = 1 if served and clock.monotonic() - began > self._timing.healthy else quick + 1
            if quick >= self.plan.settings.give_up_after:
                self._fail(f"ended {quick} times in a row and is given up")
                return
            pause = self._timing.pauses[min(quick - 1, len(self._timing.pauses) - 1)]
            self._stand(
                STARTING, f"{self._how}; starts again", restarts=self.record.restarts + 1, pid=0, port=0, in_flight=0
            )
            await asyncio.sleep(pause)

    async def _launch(self) -> bool:
        """Leases the device and starts the process; False where it has to wait, or cannot."""
        leases = await asyncio.to_thread(self._lessor.lease, self.plan.device)
        if leases is None:
            waits = f"waits for {self.plan.device}, which another job or engine has"
            if self.record.message != waits:
                self._stand(STARTING, waits)
            await asyncio.sleep(self._timing.lease)
            return False
        try:
            gpu = await self._gpu()
            if not self._wanted:
                return False
            self._key = Secret(ids.new_token())
            vllm_process.write_key(self.plan, self._key)
            self._rotate_log()
            port = vllm_process.free_port()
            process = vllm_process.spawn(self.plan, port, gpu=gpu, leases=leases)
        except OSError as error:
            self._fail(f"cannot be started: {error.strerror or error}")
            self._wanted = False
            return False
        finally:
            for fd in leases:
                os.close(fd)
        self._stand(STARTING, "loads its model", pid=process.pid, process_start=process.start, port=port)
        return True

    async def _gpu(self) -> str:
        """What CUDA_VISIBLE_DEVICES is to say: the card's own id, as numbers depend on who counts."""
        if not self.plan.device.startswith("cuda:"):
            return ""
        index = int(self.plan.device.partition(":")[2])
        found = [g.uuid for g in await asyncio.to_thread(self._lessor.gpus) if g.index == index]
        return found[0] if found and found[0] else str(index)

    def _rotate_log(self) -> None:
        file = self.plan.log
        if file.exists() and file.stat().st_size > _LARGEST_LOG:
            file.replace(file.with_suffix(".log.1"))
        self._log_from = file.stat().st_size if file.exists() else 0

    async def _live(self, process: ProcessName, adopted: bool) -> bool:
        """From start to end of one process; whether it ever served."""
        end = asyncio.create_task(vllm_process.ended(process))
        try:
            served = (adopted and self.record.state == READY) or await self._until_ready(process, end)
            if served:
                await self._tend(process, end)
            code = await end
        finally:
            end.cancel()
        await asyncio.to_thread(process.kill_session)  # its children outlive a kill -9
        self._how = _how_it_ended(code)
        log.warning("engine %s on %s %s", self.record.engine, self.plan.device, self._how)
        return served

    async def _until_ready(self, process: ProcessName, end: asyncio.Task[int | None]) -> bool:
        began = clock.monotonic()
        while not end.done():
            if await vllm_process.serves(self.record.port, self.plan.model, key=self._key, seconds=self._timing.ask):
                return await self._warm_up(process, clock.monotonic() - began)
            if clock.monotonic() - began > self.plan.settings.start_seconds:
                self._fail(f"was not ready after {self.plan.settings.start_seconds:.0f} s")
                await asyncio.to_thread(process.kill_session)
                return False
            await asyncio.wait({end}, timeout=self._timing.ready_poll)
        return False

    async def _warm_up(self, process: ProcessName, loaded: float) -> bool:
        """One short question, so that the first real one does not pay for it, and a template that fails shows."""
        began = clock.monotonic()
        body = {
            "model": self.plan.model,
            "messages": [{"role": "user", "content": "Are you there?"}],
            "max_tokens": 4,
            "temperature": 0,
        }  # fmt: skip
        status, said = await vllm_process.ask(
            self.record.port, "/v1/chat/completions", key=self._key, seconds=_WARM_UP_SECONDS, body=body
        )
        if status in (200, 0):
            warm = clock.monotonic() - began
            if status:
                self._ready(f"ready after {loaded + warm:.1f} s (load {loaded:.1f}, warm-up {warm:.1f})")
            return bool(status)
        self._fail(f"refuses a question with HTTP {status}: {said[:300].decode(errors='replace')}")
        await asyncio.to_thread(process.kill_session)
        return False

    def _ready(self, message: str) -> None:
        self.last_active = clock.monotonic()
        if self._wanted:
            self._stand(READY, message)

    async def _tend(self, process: ProcessName, end: asyncio.Task[int | None]) -> None:
        """Looks after a process that serves until it ends; one that is silent for too long is killed."""
        heard, misses = clock.monotonic(), 0
        while not end.done():
            load = await vllm_process.load_of(self.record.port, key=self._key, seconds=self._timing.ask)
            now = clock.monotonic()
            misses = misses + 1 if load is None else 0
            if load is not None:
                heard = now
                if load.in_flight or load.answered != self._answered:
                    self.last_active = now
                self._answered = load.answered
                memory = await asyncio.to_thread(self._memory, process)
                if (load.in_flight, memory) != (self.record.in_flight, self.record.memory_bytes):
                    self.record = replace(self.record, in_flight=load.in_flight, memory_bytes=memory)
                    self._changed(False)
            elif misses >= _MISSES and now - heard > self._timing.hung:
                log.warning("engine %s on %s is silent and is killed", self.record.engine, self.plan.device)
                await asyncio.to_thread(process.kill_session)
            await asyncio.wait({end}, timeout=self._timing.poll)

    def _memory(self, process: ProcessName) -> int:
        """Bytes of the GPU in use, or resident bytes of the process and its children, in steps of 16 MiB."""
        if self.plan.device.startswith("cuda:"):
            index = int(self.plan.device.partition(":")[2])
            found = sum(g.used_bytes for g in self._lessor.gpus() if g.index == index)
        else:
            found = sum(resident_bytes_of(pid) for pid in session_members(process.pid))
        return found >> 24 << 24

    def _fail(self, what: str) -> None:
        words = vllm_process.last_lines(self.plan.log, self._log_from)
        said = (
            f" The last lines of {self.plan.log.name}:\n{words}"
            if words
            else f" It logged nothing to {self.plan.log.name}."
        )
        text = f"The process of engine {self.record.engine!r} on {self.plan.device} {what}.{said}"
        self._stand(FAILED, text, port=0, in_flight=0)

    def _stand(self, state: str, message: str, **values: int) -> None:
        since = clock.now().isoformat() if state != self.record.state or not self.record.since else self.record.since
        self.record = replace(self.record, state=state, message=message[:4000], since=since, **values)  # type: ignore[arg-type]
        self._changed(True)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "ended"
    if code < 0:
        known = -code in {s.value for s in signal.Signals}
        return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    return f"ended with exit code {code}"
