"""The managed engines of an installation: which run, on which devices, with which model.

Lives in the control process as asyncio work and imports no engine. Owns start, stop, switch, idle
engines that give way, wishes of workers, and the file by which workers and later control processes
find the processes. One device is kept by vllm_slot.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace

from mistudio_core import clock
from mistudio_core.engine_records import (
    FAILED,
    READY,
    STARTING,
    STOPPED,
    EngineRecord,
    read_records,
    state_file,
    take_wishes,
    write_records,
)
from mistudio_core.errors import InvalidInput, LimitReached, MistudioError, Unsupported
from mistudio_core.home import Home
from mistudio_core.hostmemory import available_bytes, total_bytes
from mistudio_explain.engines import vllm_process
from mistudio_explain.engines.settings import load_engines
from mistudio_explain.engines.table import EngineSettings
from mistudio_explain.engines.vllm_environment import python_of
from mistudio_explain.engines.vllm_models import Room, check_room, find_model
from mistudio_explain.engines.vllm_process import Plan
from mistudio_explain.engines.vllm_settings import VllmSettings, cores_of
from mistudio_explain.engines.vllm_slot import Lessor, Slot, Timing

log = logging.getLogger("mistudio.engines")
DRAIN_SECONDS = 60.0
_CLOSE_DRAIN_SECONDS = 3.0


class VllmPool:
    """All managed vllm engines of a home; every method runs on the control process's loop."""

    def __init__(self, home: Home, lessor: Lessor, timing: Timing | None = None) -> None:
        """Starts nothing before `open`."""
        self._home, self._lessor, self._timing = home, lessor, timing or Timing()
        self._slots: dict[str, list[Slot]] = {}
        self._troubles: dict[str, EngineRecord] = {}
        self._held: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._locks: dict[str, asyncio.Lock] = {}
        self._loop_task: asyncio.Task[None] | None = None
        self.changed = asyncio.Event()

    async def open(self) -> None:
        """Finds the processes of an earlier control process again, ends strangers, starts what starts by itself."""
        engines = await asyncio.to_thread(load_engines, self._home.engines_file)
        found = await asyncio.to_thread(read_records, self._home)
        for record in found:
            if record.pid and not await self._adopted(record, engines.get(record.engine)):
                self._do(vllm_process.end(record.process, seconds=self._timing.stop))
        for name, slots in self._slots.items():
            self._add_missing(engines[name], slots)
        for settings in engines.values():
            if isinstance(settings, VllmSettings) and settings.managed and settings.autostart:
                await self._start_or_tell(settings, "")
        self._publish(True)
        self._loop_task = asyncio.create_task(self._loop(), name="engines")

    async def close(self) -> None:
        """Ends every engine: those that answer may finish for a moment."""
        if self._loop_task is not None:
            self._loop_task.cancel()
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        slots = [slot for group in self._slots.values() for slot in group]
        stops = (slot.stop(drain_seconds=_CLOSE_DRAIN_SECONDS, message="the service has stopped") for slot in slots)
        await asyncio.gather(*stops, return_exceptions=True)
        self._slots.clear()
        await asyncio.to_thread(state_file(self._home).unlink, missing_ok=True)

    def let_go(self) -> None:
        """Stops looking after everything; the processes live on for a later pool, as after a kill -9."""
        if self._loop_task is not None:
            self._loop_task.cancel()
        for slot in [slot for group in self._slots.values() for slot in group]:
            slot.let_go()

    def records(self, engine: str) -> list[EngineRecord]:
        """Where the processes of an engine stand, by device; a failed start is one record without a process."""
        trouble = self._troubles.get(engine)
        return [trouble] if trouble else [slot.record for slot in self._slots.get(engine, [])]

    async def start(self, settings: EngineSettings, model: str = "") -> None:
        """Starts an engine, or switches it to another model; returns when that is under way. Idempotent.

        Raises Unsupported for external servers, Unavailable without an environment, NotFound (MODEL_NOT_FOUND),
        InvalidInput for a device that is not there, LimitReached where the model fits no device.
        """
        self._held.discard(settings.name)
        await self._start(settings, model)

    async def _start(self, settings: EngineSettings, model: str) -> None:
        plans = await self._plans(_managed(settings), model or settings.model)
        running = [slot for slot in self._slots.get(settings.name, []) if slot.running]
        wanted = {plan.device: _digest(plan) for plan in plans}
        if running and {slot.record.device: slot.record.digest for slot in running} == wanted:
            return
        self._troubles.pop(settings.name, None)
        for slot in running:
            slot.begin_drain()
        if running:
            self._do(self._switch(settings.name, plans))
        else:
            self._begin(settings.name, plans)

    def _begin(self, name: str, plans: Sequence[Plan]) -> None:
        slots = [Slot(self._home, p, self._lessor, self._timing, _digest(p), self._publish) for p in plans]
        self._slots[name] = slots
        for slot in slots:
            slot.start()

    async def _switch(self, name: str, plans: Sequence[Plan]) -> None:
        """A process cannot change its model: it ends, and one with the other model starts."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            old = self._slots.get(name, [])
            await asyncio.gather(*(s.stop(drain_seconds=DRAIN_SECONDS, message="changes its model") for s in old))
            self._begin(name, plans)

    async def stop(self, settings: EngineSettings, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Stops an engine after what it works on; returns when that is under way. Wishes do not start it again."""
        _managed(settings)
        self._held.add(settings.name)
        self._troubles.pop(settings.name, None)
        message = f"stopped; start it with `mistudio engines start {settings.name}`"
        self._halt(settings.name, drain_seconds, message, held=True)

    def _halt(self, name: str, drain_seconds: float, message: str, *, held: bool = False) -> None:
        slots = self._slots.get(name, [])
        for slot in slots:
            slot.begin_drain()

        async def stop_all() -> None:
            async with self._locks.setdefault(name, asyncio.Lock()):
                await asyncio.gather(*(s.stop(drain_seconds=drain_seconds, message=message, held=held) for s in slots))

        self._do(stop_all())

    async def _plans(self, settings: VllmSettings, model: str, *, measured: bool = True) -> list[Plan]:
        """How its processes are started, after every check that needs no process; memory only where `measured`."""
        folder = await asyncio.to_thread(find_model, self._home, settings, model)
        rooms = await asyncio.to_thread(self._rooms, settings)
        if folder is not None and measured:
            await asyncio.to_thread(check_room, settings, model, folder, rooms)
        plans = []
        for room in rooms:
            stem = f"engine_{settings.name}_{room.device.replace(':', '-')}"
            python = await asyncio.to_thread(python_of, self._home, settings, room.device)
            plans.append(
                Plan(
                    settings=settings, device=room.device, python=python, model=model, folder=folder,
                    log=self._home.logs / f"{stem}.log", key_file=self._home.secrets / f"{stem}.yaml",
                )
            )  # fmt: skip
        return plans

    def _rooms(self, settings: VllmSettings) -> list[Room]:
        """The engine's devices with their memory. Raises InvalidInput for one that is not there, LimitReached."""
        gpus = {f"cuda:{g.index}": g for g in self._lessor.gpus()}
        cores = sorted(os.sched_getaffinity(0))
        devices = settings.devices
        if devices == ("all",):
            devices = tuple(gpus) or (f"cpu:{cores[0]}-{cores[-1]}",)
        on_cores = sum(d.startswith("cpu") for d in devices)
        rooms = []
        for device in devices:
            if device in gpus:
                rooms.append(Room(device=device, total=gpus[device].total_bytes, free=gpus[device].free_bytes))
            elif device.startswith("cpu") and set(cores_of(device)) <= set(cores):
                rooms.append(Room(device=device, total=total_bytes(), free=available_bytes() / max(on_cores, 1)))
            else:
                there = ", ".join([*gpus, f"cpu:{cores[0]}-{cores[-1]}"])
                raise InvalidInput.field(f"engines.{settings.name}.devices", device, there)
        if not rooms:
            raise LimitReached("This machine has no device for the engine.")
        return rooms

    async def _adopted(self, record: EngineRecord, settings: EngineSettings | None) -> bool:
        """Whether a recorded process still runs with today's settings; if so, it is kept from now on."""
        if not isinstance(settings, VllmSettings) or not record.process.alive or record.state not in (READY, STARTING):
            return False
        try:
            plans = {p.device: p for p in await self._plans(settings, record.model, measured=False)}
        except MistudioError as error:
            log.warning("engine %s is not taken over: %s", record.engine, error.message)
            return False
        plan = plans.get(record.device)
        if plan is None or _digest(plan) != record.digest:
            return False
        slot = Slot(self._home, plan, self._lessor, self._timing, record.digest, self._publish)
        self._slots.setdefault(record.engine, []).append(slot)
        slot.start(adopted=record)
        log.info("took over engine %s on %s (pid %d)", record.engine, record.device, record.pid)
        return True

    def _add_missing(self, settings: EngineSettings, slots: list[Slot]) -> None:
        """Engines that were found again on some of their devices only start on the others too."""
        self._do(self._start_missing(_managed(settings), slots))

    async def _start_missing(self, settings: VllmSettings, slots: list[Slot]) -> None:
        have = {slot.record.device for slot in slots}
        for plan in await self._plans(settings, slots[0].plan.model):
            if plan.device not in have:
                slot = Slot(self._home, plan, self._lessor, self._timing, _digest(plan), self._publish)
                slots.append(slot)
                slot.start()

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(self._timing.tick)
            try:
                await self._look()
            except MistudioError as error:
                log.warning("engines: %s", error.message)
            except Exception:  # the loop must live; the next look tries again
                log.exception("engines cannot be looked after")

    async def _look(self) -> None:
        wishes = await asyncio.to_thread(take_wishes, self._home)
        if wishes:
            engines = await asyncio.to_thread(load_engines, self._home.engines_file)
            for name, model in wishes.items():
                await self._grant(engines, name, model)
        for name in list(self._slots):
            self._give_way(name)

    async def _grant(self, engines: Mapping[str, EngineSettings], name: str, model: str) -> None:
        """Starts what a worker asks for; another model only when nobody uses the present one."""
        settings = engines.get(name)
        if not isinstance(settings, VllmSettings) or not settings.managed or name in self._held:
            return
        slots = [slot for slot in self._slots.get(name, []) if slot.running]
        other = any(slot.plan.model != (model or settings.model) for slot in slots)
        busy = any(clock.monotonic() - slot.last_active < self._timing.switch_idle for slot in slots)
        if not slots or (other and not busy):
            await self._start_or_tell(settings, model)

    async def _start_or_tell(self, settings: VllmSettings, model: str) -> None:
        """A start that nobody waits for: why it failed stands in the engine's record."""
        try:
            await self._start(settings, model)
        except MistudioError as error:
            record = EngineRecord(engine=settings.name, device=settings.devices[0], state=FAILED, model=model)
            since = clock.now().isoformat()
            self._troubles[settings.name] = replace(record, since=since, message=error.message[:4000])
            self._publish(True)

    def _give_way(self, name: str) -> None:
        """Ends an engine that was idle for long, or for a moment while a job waits for its GPU."""
        slots = [slot for slot in self._slots[name] if slot.running]
        if not slots or any(slot.record.state != READY or slot.record.in_flight for slot in slots):
            return
        idle = clock.monotonic() - max(slot.last_active for slot in slots)
        minutes = slots[0].plan.settings.idle_minutes
        on_gpu = any(slot.record.device.startswith("cuda") for slot in slots)
        if minutes and idle > minutes * 60:
            message = f"gave its devices back after {minutes:g} idle minutes; starts again when asked"
            self._halt(name, DRAIN_SECONDS, message)
        elif minutes and on_gpu and idle > self._timing.give_way and self._lessor.wanted():
            self._halt(name, DRAIN_SECONDS, "gave its GPU to a job that waited for it; starts again when asked")

    def _publish(self, durable: bool) -> None:
        """Tells watchers, and writes the file that others read where what they need changed."""
        if durable:
            records = [slot.record for slots in self._slots.values() for slot in slots]
            write_records(self._home, [*records, *self._troubles.values()])
        self.changed.set()
        self.changed = asyncio.Event()

    def _do(self, work: Coroutine[None, None, None]) -> None:
        """Runs beside everything else; a failure is logged."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("engines: %s", task.exception())


def _managed(settings: EngineSettings) -> VllmSettings:
    if isinstance(settings, VllmSettings) and settings.managed:
        return settings
    why = "its servers are external" if isinstance(settings, VllmSettings) else f"{settings.kind} engines run elsewhere"
    raise Unsupported(
        f"starting or stopping engine {settings.name!r}",
        why=why,
        instead="Do it where it runs; only vllm engines with devices are managed here.",
    )


def _digest(plan: Plan) -> str:
    """What a process was started with: one with another digest is not taken over."""
    parts = [plan.python, plan.folder, vllm_process.arguments(plan, 0), plan.settings.memory_fraction]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def state_of(records: Sequence[EngineRecord]) -> str:
    """Where an engine stands as a whole: `degraded` where some of its processes answer."""
    states = {r.state for r in records}
    if not states or states == {STOPPED}:
        return STOPPED
    if READY in states:
        return READY if states == {READY} else "degraded"
    return next((s for s in (STARTING, "draining", FAILED) if s in states), STOPPED)
