"""Progress for people and programs, in one place: live bars on a terminal, lines on a pipe, JSON lines.

A display takes the events of any number of jobs. On a pipe every durable event is a line at once,
and figures and progress are at most one line every two seconds a job; no control codes are written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from mistudio_cli.jobview import JobView
from mistudio_cli.output import console, emit, message_json
from mistudio_core import clock

if TYPE_CHECKING:
    from mistudio.job.v1 import job_event_pb2
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

LINE_SECONDS = 2.0
_FRAMES_A_SECOND = 8
_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "paused": "yellow", "running": "cyan"}
_WORTH_A_LINE = ("attempt_change", "log", "finished")


class Display(Protocol):
    """Shows the events of jobs between `with` and its end."""

    views: dict[str, JobView]
    """The jobs by id."""

    def __enter__(self) -> Self:
        """Begins to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stops; what was shown stays."""
        ...

    def event(self, event: job_event_pb2.JobEvent) -> None:
        """Shows one event."""
        ...


def display_for(jobs: Sequence[tuple[str, str]], *, as_json: bool) -> Display:
    """The display for where stdout goes; `jobs` are titles and ids."""
    views = [JobView(job_id=job_id, title=title) for title, job_id in jobs]
    if as_json:
        return JsonDisplay(views)
    return LiveDisplay(views, console()) if sys.stdout.isatty() else LineDisplay(views)


class _Base:
    def __init__(self, views: Sequence[JobView]) -> None:
        self.views = {view.job_id: view for view in views}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return


class JsonDisplay(_Base):
    """Every event as one JSON object a line, heartbeats left out."""

    def event(self, event: job_event_pb2.JobEvent) -> None:
        """Prints it."""
        self.views[event.job_id].apply(event)
        if event.WhichOneof("event") != "heartbeat":
            emit(message_json(event))


class LineDisplay(_Base):
    """Plain lines for a pipe or a log file."""

    def __init__(self, views: Sequence[JobView], write: Callable[[str], object] | None = None) -> None:
        """`write` takes whole lines; stdout by default."""
        super().__init__(views)
        self._write = write or _print_line
        self._width = max((len(view.title) for view in views), default=0)
        self._shown: dict[str, float] = {}

    def event(self, event: job_event_pb2.JobEvent) -> None:
        """Prints what is worth a line now."""
        view, kind = self.views[event.job_id], event.WhichOneof("event")
        text = view.apply(event)
        if kind == "snapshot":
            self._line(view, f"{view.job_id} is {view.status}" + (f": {view.note}" if view.note else ""))
        elif kind in ("progress", "metric"):
            self._progress(view)
        elif text is not None:
            self._line(view, text)

    def _progress(self, view: JobView) -> None:
        now = clock.monotonic()
        if now - self._shown.get(view.job_id, -LINE_SECONDS) < LINE_SECONDS:
            return
        self._shown[view.job_id] = now
        parts = (f"{view.fraction:.0%}", view.stage, view.amount(), view.figures(), view.eta())
        self._line(view, "  ".join(part for part in parts if part))

    def _line(self, view: JobView, text: str) -> None:
        self._write(f"{view.title:<{self._width}}  {' '.join(_printable(text).split())}\n")


class LiveDisplay(_Base):
    """A bar a job with its figures, redrawn in place; log lines scroll above."""

    def __init__(self, views: Sequence[JobView], target: Console) -> None:
        """On the given terminal."""
        super().__init__(views)
        self._console = target
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Takes the last lines of the terminal."""
        from rich.live import Live

        self._live = Live(
            console=self._console, refresh_per_second=_FRAMES_A_SECOND, get_renderable=self.picture, transient=False
        )
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Draws the last state and leaves it."""
        if self._live is not None:
            self._live.__exit__(kind, value, trace)

    def event(self, event: job_event_pb2.JobEvent) -> None:
        """Takes it in; the next frame shows it."""
        from rich.text import Text

        view = self.views[event.job_id]
        text = view.apply(event)
        if text is not None and event.WhichOneof("event") in _WORTH_A_LINE:
            self._console.print(Text(f"{view.title}: {_printable(text)}", style="dim"))

    def picture(self) -> RenderableType:
        """All jobs as they are now."""
        from rich.table import Table

        grid = Table.grid(padding=(0, 1))
        for view in self.views.values():
            grid.add_row(*_row(view))
        return grid


def _row(view: JobView) -> list[RenderableType]:
    """Title, state, bar, share, and everything else on one line."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    colour = _COLOURS.get(view.status, "default")
    bar = ProgressBar(total=1.0, completed=view.fraction, width=24, complete_style=colour, finished_style=colour)
    return [
        Text(view.title, style="bold"),
        Text(view.status, style=colour),
        bar,
        Text(f"{view.fraction:4.0%}"),
        _details(view),
    ]


def _details(view: JobView) -> Text:
    from rich.text import Text

    if view.error is not None:
        return Text(f"{view.error[0]}: {_printable(view.error[1])}", style="red")
    parts = [view.stage, view.amount(), view.figures(), view.eta()]
    if view.status in ("queued", "paused"):
        parts = [view.note]
    return Text("  ".join(_printable(part) for part in parts if part), overflow="ellipsis")


class Transfer:
    """Progress of an upload: a bar on a terminal's stderr, nothing elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        """`total` bytes to come."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=console(stderr=True), disable=not sys.stderr.isatty())
        self._task = self._bar.add_task(title, total=total or None)

    def __enter__(self) -> Self:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()

    def at(self, done: int) -> None:
        """So many bytes are through."""
        self._bar.update(self._task, completed=done)


def _printable(text: str) -> str:
    """Text from elsewhere without control characters, so that it cannot steer a terminal."""
    return "".join(c if c.isprintable() or c == " " else " " for c in text)


def _print_line(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()
