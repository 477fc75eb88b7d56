"""Pools of stand-in engines for tests: real processes, short times, a home and devices of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.engine_records import EngineRecord
from mistudio_core.home import Home
from mistudio_explain.engines.settings import load_engines
from mistudio_explain.engines.vllm import VllmEngine
from mistudio_explain.engines.vllm_pool import VllmPool
from mistudio_explain.engines.vllm_settings import VllmSettings
from mistudio_explain.engines.vllm_slot import Timing
from mistudio_explain.service_engines import Devices
from mistudio_rpc.devices import DevicePool
from tests.support.vllm_standin import standin_python

QUICK = Timing(
    poll=0.05, ready_poll=0.02, pauses=(0.0, 0.05), healthy=0.2, hung=1.0, ask=0.3, stop=0.5, lease=0.05, tick=0.05,
    switch_idle=0.1, give_way=0.2,
)  # fmt: skip


@dataclass
class Place:
    """A home with a configured stand-in engine."""

    home: Home
    folder: Path
    python: Path

    def configure(self, *, name: str = "local", model: str = "tiny", **values: object) -> VllmSettings:
        """Writes engines.toml; what it then says of the engine."""
        table = {"kind": "vllm", "model": model, "devices": ["cpu:0", "cpu:1"], "kv_cache_gb": 0.01}
        table |= {"python": str(self.python), **values}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        self.home.engines_file.write_text("\n".join([f"[engines.{name}]", *lines]) + "\n")
        return self.settings(name)

    def settings(self, name: str = "local") -> VllmSettings:
        found = load_engines(self.home.engines_file)[name]
        assert isinstance(found, VllmSettings)
        return found

    def add_model(self, name: str) -> None:
        (self.home.models / name).mkdir(parents=True, exist_ok=True)
        (self.home.models / name / "config.json").write_text(json.dumps({"hidden_size": 8}))

    def pool(self, timing: Timing = QUICK, devices: DevicePool | None = None) -> VllmPool:
        return VllmPool(self.home, Devices(devices or DevicePool()), timing)

    @contextlib.asynccontextmanager
    async def opened(self, timing: Timing = QUICK, devices: DevicePool | None = None) -> AsyncIterator[VllmPool]:
        pool = self.pool(timing, devices)
        await pool.open()
        try:
            yield pool
        finally:
            await pool.close()

    @contextlib.asynccontextmanager
    async def client(self, **changes: object) -> AsyncIterator[VllmEngine]:
        from dataclasses import replace

        from mistudio_core.secret import Secret

        settings = replace(self.settings(), **changes)
        engine = VllmEngine(settings, model=settings.model, api_key=Secret(""), home=self.home)
        try:
            yield engine
        finally:
            await engine.close()

    def starts(self) -> list[dict[str, object]]:
        """What each stand-in noted at its start."""
        file = self.folder / "starts.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def place(home: Home, tmp_path: Path, **behaviour: object) -> Place:
    """A home with one stand-in engine on two cores and a model."""
    made = Place(home, tmp_path / "standin", standin_python(tmp_path / "standin", **behaviour))
    made.add_model("tiny")
    made.configure()
    return made


async def until(pool: VllmPool, state: str, *, count: int = 2, name: str = "local") -> list[EngineRecord]:
    """The engine's records once `count` of them stand in `state`."""
    return await reached(pool, lambda: sum(r.state == state for r in pool.records(name)) == count, name)


async def reached(pool: VllmPool, met: Callable[[], bool], name: str = "local") -> list[EngineRecord]:
    """The engine's records once something is so; fails with them where it never is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while not met():
                await asyncio.sleep(0.01)
    assert met(), pool.records(name)
    return pool.records(name)
