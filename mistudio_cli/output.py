"""What commands print: tables and lines for people, JSON for programs, errors for both.

JSON goes to stdout, one document or one object a line; what is only for people goes to stderr in
JSON mode. Nothing here knows gRPC. Progress is in `render.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mistudio_core.errors import MistudioError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console, RenderableType
    from rich.table import Table

PIPE_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """A console: colours on a terminal, plain wide lines on a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(
        stderr=stderr,
        width=None if terminal else PIPE_WIDTH,
        color_system="auto" if terminal else None,
        force_terminal=None if terminal else False,
        highlight=False,
    )


def show(*pictures: RenderableType) -> None:
    """Prints tables; on a pipe without the blanks that fill a terminal's width."""
    target = console()
    if target.is_terminal:
        target.print(*pictures, sep="\n")
        return
    with target.capture() as captured:
        for picture in pictures:
            target.print(picture)
    lines = (line.rstrip() for line in captured.get().splitlines())
    say("\n".join(lines))


def say(text: str, *, stderr: bool = False) -> None:
    """A plain line; never wrapped, never marked up."""
    stream = sys.stderr if stderr else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def emit(value: Any) -> None:
    """A JSON document on one line."""
    say(json.dumps(value, ensure_ascii=False, allow_nan=False))


def message_json(message: Message) -> dict[str, Any]:
    """A message as the HTTP API shows it."""
    from mistudio_rpc.json_out import to_json

    return to_json(message)


def emit_message(message: Message) -> None:
    """A message as one JSON document."""
    emit(message_json(message))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table; columns named in `right` hold numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        whole = column == "job"  # an id that is cut cannot be copied
        made.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def facts_table(facts: Mapping[str, object]) -> Table:
    """Names and values, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        made.add_row(Text(name), Text(str(value)))
    return made


def error_json(error: MistudioError) -> dict[str, Any]:
    """An error as programs read it; the fields of the HTTP API."""
    body: dict[str, Any] = {"detail": error.message, "reason": error.reason, "metadata": error.facts}
    if error.problems:
        body["problems"] = [
            {"field": p.field, "value": p.value, "allowed": p.allowed, "remedy": p.remedy} for p in error.problems
        ]
    return {"error": body}


def show_error(error: MistudioError, *, as_json: bool) -> None:
    """One message: its reason code, what is wrong, what to do."""
    if as_json:
        emit(error_json(error))
        return
    from rich.text import Text

    line = Text(f"{error.reason}: ", style="bold red").append(error.message, style="red")
    console(stderr=True).print(line, soft_wrap=True)


def seconds_text(seconds: float) -> str:
    """A duration for people: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def bytes_text(size: float) -> str:
    """A size for people, in units of 1000: `117.6 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count_text(number: float) -> str:
    """A count for people: `980`, `12.3k`, `4.56M`."""
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if number < limit:
            return f"{number / divisor:.3g}{unit}"
    return f"{number / 1e9:.3g}G"
