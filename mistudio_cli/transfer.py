"""What a terminal shows while a file is made on the other side and then arrives; on a pipe nothing.

Goes to stderr, so that stdout stays what a script reads.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Transfer:
    """One file, between `with` and its end."""

    def __init__(self, name: str) -> None:
        """`name` of what is waited for; empty for nothing to be shown."""
        self._name = name
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Begins to show, on a terminal."""
        from mistudio_cli.output import console

        target = console(stderr=True)
        if self._name and target.is_terminal:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=target, transient=True)
            self._progress.start()
            self._task = self._progress.add_task(f"waits for {self._name} to be made", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Stops; nothing stays."""
        if self._progress is not None:
            self._progress.stop()

    def begins(self, size: int) -> None:
        """The file is there and has so many bytes."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"receives {self._name}", total=size)

    def arrived(self, count: int) -> None:
        """So many more bytes are here."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)
