"""Unpacks gzip and zstd as bytes arrive, in bounded memory and within a bounded ratio.

Pieces come out of a few compressed bytes at a time, so that no input makes a large allocation. Knows
nothing of what is inside.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported

MAX_RATIO = 250
"""Most bytes that one compressed byte may become, once FREE_BYTES have come out."""
FREE_BYTES = 64 * 1024 * 1024
"""Bytes that may come out whatever the ratio."""
_PIECE_BYTES = 1024 * 1024
_ZSTD_SLICE_BYTES = 1024
"""At most 256 blocks of 128 KiB come out of a slice."""
_ZSTD_WINDOW_BYTES = 128 * 1024 * 1024


class Unpacker(Protocol):
    """Bytes in, unpacked bytes out."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that come out of the next bytes. Raises InvalidInput (CORPUS_UNREADABLE), LimitReached."""
        ...

    def finish(self) -> None:
        """Raises InvalidInput (CORPUS_UNREADABLE) where the bytes broke off."""
        ...


def unpacker(packing: str, name: str) -> Unpacker:
    """For `gz`, `zst` or "" (nothing to unpack); `name` is the file's, for messages. Raises Unsupported."""
    if packing == "gz":
        return _Bounded(_Gzip(), name)
    if packing == "zst":
        return _Bounded(_Zstd(), name)
    return _Plain()


class Inflation:
    """Counts bytes in and out and refuses what swells too much."""

    def __init__(self, name: str) -> None:
        """`name` is the file's, for messages."""
        self._name = name
        self.bytes_in = 0
        self.bytes_out = 0

    def out(self, size: int) -> None:
        """So many more bytes came out. Raises LimitReached (TOO_LARGE)."""
        self.bytes_out += size
        if self.bytes_out > FREE_BYTES + MAX_RATIO * self.bytes_in:
            raise LimitReached(
                f"Corpus file '{self._name}' unpacks to more than {MAX_RATIO} times its size. "
                "Upload it unpacked, or remove what repeats.",
                reason="TOO_LARGE",
                facts={"filename": self._name, "most_ratio": MAX_RATIO},
            )


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        return


class _Member(Protocol):
    """A packing whose files are members after each other."""

    failures: tuple[type[Exception], ...]

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def is_whole(self) -> bool: ...


class _Bounded:
    """Errors and the ratio of any packing."""

    def __init__(self, inner: _Member, name: str) -> None:
        self._inner, self._name = inner, name
        self._inflation = Inflation(name)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._inflation.bytes_in += len(data)
        pieces = self._inner.feed(data)
        while True:
            try:
                piece = next(pieces, None)
            except self._inner.failures as error:
                raise unreadable(self._name, str(error)) from error
            if piece is None:
                return
            self._inflation.out(len(piece))
            yield piece

    def finish(self) -> None:
        if not self._inner.is_whole():
            raise unreadable(self._name, "it breaks off")


class _Gzip:
    failures: tuple[type[Exception], ...] = (zlib.error,)

    def __init__(self) -> None:
        self._member: Any = None
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                data = data.lstrip(b"\x00") if self._ended else data  # padding between members is allowed
                if not data:
                    return
                self._member = zlib.decompressobj(wbits=31)
            piece = self._member.decompress(data, _PIECE_BYTES)
            data = self._member.unconsumed_tail
            while piece:
                yield piece
                # a full piece may leave more behind that needs no further input
                piece = self._member.decompress(b"", _PIECE_BYTES) if not data and len(piece) == _PIECE_BYTES else b""
            if self._member.eof:
                data, self._member, self._ended = self._member.unused_data, None, True

    def is_whole(self) -> bool:
        return self._member is None


class _Zstd:
    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise needs_package("zstd files", "zstandard") from error
        self.failures: tuple[type[Exception], ...] = (zstandard.ZstdError,)
        self._packing = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_SLICE_BYTES):
            rest = data[start : start + _ZSTD_SLICE_BYTES]
            while rest:
                self._frame = self._frame or self._packing.decompressobj()
                piece = self._frame.decompress(rest)
                if piece:
                    yield piece
                rest = b""
                if self._frame.eof:
                    rest, self._frame = self._frame.unused_data, None

    def is_whole(self) -> bool:
        return self._frame is None


def unreadable(name: str, why: str) -> InvalidInput:
    """The error for a packed or binary file that is damaged."""
    return InvalidInput(
        f"Corpus file '{name}' cannot be read: {why[:300].rstrip('.')}. Check the file and upload it again.",
        reason="CORPUS_UNREADABLE",
        facts={"filename": name, "why": why[:300]},
    )


def needs_package(what: str, package: str) -> Unsupported:
    """The error where an optional package is not installed."""
    return Unsupported(
        what,
        why=f"the package {package} is not installed here",
        instead=f"Install it: pip install {package}, or mistudio[train].",
    )
