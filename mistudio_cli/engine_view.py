"""How engines look: a table for `list`, live lines for `watch`, JSON lines for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mistudio_cli.output import bytes_text, console, emit, message_json, say, show, table

if TYPE_CHECKING:
    from mistudio.explain.v1 import explanation_pb2
    from rich.live import Live
    from rich.table import Table

_COLUMNS = ("engine", "kind", "state", "model", "on", "doing", "memory", "note")


def state_name(state: int) -> str:
    """`ready`, `starting` ...; a dash where an engine has not been asked."""
    from mistudio.explain.v1 import explanation_pb2

    name = explanation_pb2.EngineState.Name(state).removeprefix("ENGINE_STATE_").lower()  # type: ignore[arg-type]
    return "-" if name == "unspecified" else name


def loaded(engine: explanation_pb2.Engine, model: str) -> bool:
    """Whether a model is in memory and nothing is under way with it; True for no model."""
    return not model or any(m.loaded and not m.activity for m in engine.models if m.name == model)


def show_engines(engines: Sequence[explanation_pb2.Engine]) -> None:
    """A table of engines and their processes."""
    show(_table(engines))


def _table(engines: Sequence[explanation_pb2.Engine]) -> Table:
    rows = [row for engine in engines for row in _rows(engine)]
    return table("", _COLUMNS, rows, right=("memory",))


def _rows(engine: explanation_pb2.Engine) -> list[tuple[str, ...]]:
    name = f"{engine.name} (default)" if engine.is_default else engine.name
    busy = [m for m in engine.models if m.activity]
    doing = "; ".join(f"{m.name}: {m.activity}{_share(m)}" for m in busy)
    held = [m.name for m in engine.models if m.loaded]
    model = ", ".join(held) or engine.default_model
    paid = "costs money" if engine.costs_money else ""
    note = _line(engine.message) if not engine.processes or state_name(engine.state) == "failed" else ""
    head = (name, engine.kind, state_name(engine.state), model, "", doing, "", "; ".join(filter(None, (paid, note))))
    return [head, *(_process(p) for p in engine.processes)]


def _process(process: explanation_pb2.EngineProcess) -> tuple[str, ...]:
    doing = f"{process.in_flight} requests" if process.in_flight else ""
    doing += f" restarted {process.restarts} times" if process.restarts else ""
    memory = bytes_text(process.memory_bytes) if process.memory_bytes else ""
    return (
        "",
        "",
        state_name(process.state),
        process.model,
        process.device,
        doing.strip(),
        memory,
        _line(process.message),
    )


def _share(model: explanation_pb2.EngineModel) -> str:
    return f" {model.progress:.0%}" if model.HasField("progress") else ""


def _line(text: str) -> str:
    """The first line, without what could steer a terminal."""
    first = text.split("\n", 1)[0]
    return "".join(c if c.isprintable() else " " for c in first)[:160]


class EngineDisplay:
    """Shows engines as they change: redrawn in place on a terminal, a line a change elsewhere."""

    def __init__(self, *, as_json: bool) -> None:
        """JSON lines where `as_json`."""
        self._as_json = as_json
        self._engines: dict[str, explanation_pb2.Engine] = {}
        self._said: dict[str, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Takes the last lines of a terminal."""
        if not self._as_json and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=console(), refresh_per_second=4, get_renderable=self._picture)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last picture."""
        if self._live is not None:
            self._live.__exit__(kind, value, trace)

    def _picture(self) -> Table:
        return _table([self._engines[name] for name in sorted(self._engines)])

    def show(self, engine: explanation_pb2.Engine) -> None:
        """Shows an engine as it stands now."""
        self._engines[engine.name] = engine
        if self._as_json:
            emit(message_json(engine))
        elif self._live is None:
            self._say(engine)

    def _say(self, engine: explanation_pb2.Engine) -> None:
        for row in _rows(engine):
            where = f"{engine.name} {row[4]}".strip()
            text = "  ".join(part for part in (row[2], row[3], row[5], row[7]) if part)
            if self._said.get(where) != text:
                self._said[where] = text
                say(f"{where}: {text}")
