"""Durable file primitives: hashing by slice, fsync, and disk-full errors that say how much is missing."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistudio_core.artifacts.records import FileRecord
from mistudio_core.errors import DiskFull

SLICE_BYTES = 64 * 1024 * 1024
"""Bytes under one digest: what a reader verifies at a time."""
_READ_BYTES = 1024 * 1024


def hash_file(path: Path) -> FileRecord:
    """Digests of a file, as a whole and by slice."""
    whole, slices, size = hashlib.sha256(), [], 0
    with path.open("rb") as handle:
        current, filled = hashlib.sha256(), 0
        while block := handle.read(min(_READ_BYTES, SLICE_BYTES - filled)):
            whole.update(block)
            current.update(block)
            size += len(block)
            filled += len(block)
            if filled == SLICE_BYTES:
                slices.append(current.hexdigest())
                current, filled = hashlib.sha256(), 0
        if filled or not slices:
            slices.append(current.hexdigest())
    return FileRecord(name=path.name, size_bytes=size, sha256=whole.hexdigest(), slice_sha256=tuple(slices))


def hash_slice(path: Path, index: int) -> str:
    """Digest of slice `index` of a file."""
    digest, left = hashlib.sha256(), SLICE_BYTES
    with path.open("rb") as handle:
        handle.seek(index * SLICE_BYTES)
        while left and (block := handle.read(min(_READ_BYTES, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Flushes a file or folder to the disk. An error here is final: never retried."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """Turns "no space left" inside into DiskFull with the free bytes; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(folder, what) from error


def disk_full(folder: Path, what: str) -> DiskFull:
    """The error for a disk that has no room for `what`."""
    existing = folder if folder.exists() else folder.parent
    free = shutil.disk_usage(existing).free
    return DiskFull(
        f"Disk full while writing {what}: {free / 1e6:.0f} MB free. Free some space; the job goes on by itself.",
        facts={"what": what, "free_bytes": free},
    )
