"""Names of corpora, and what the ending of a file name says about its form.

A name is display metadata only and never becomes a path: the stored files have names of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mistudio_core.errors import InvalidInput, Unsupported

TEXT, RECORDS, PARQUET = "text", "records", "parquet"
"""Forms of a file: plain text; JSON objects, one a line; Parquet."""
_NAME = re.compile(r"^\w[\w .()+,@=-]{0,254}$")
_DEVICE_NAMES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
_FORMS = {".jsonl": RECORDS, ".ndjson": RECORDS, ".parquet": PARQUET}
_PACKINGS = {".gz": "gz", ".zst": "zst"}
_INSTEAD = {
    ".json": "Write one JSON object on a line and name the file .jsonl.",
    ".csv": "Convert it to JSONL or Parquet; rename it to .txt to read every line as a document.",
    ".tsv": "Convert it to JSONL or Parquet; rename it to .txt to read every line as a document.",
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "Unpack it and upload the folder with `mistudio upload`."),
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".br"), "Pack it with gzip (.gz) or zstd (.zst), or upload it unpacked."),
    **dict.fromkeys((".pdf", ".docx", ".epub", ".html"), "Extract its text into a .txt file or JSONL."),
    **dict.fromkeys((".arrow", ".feather", ".avro", ".orc"), "Convert it to Parquet or JSONL."),
}


@dataclass(frozen=True, slots=True)
class FileForm:
    """How a file is to be read."""

    form: str
    """TEXT, RECORDS or PARQUET."""
    packing: str
    """`gz`, `zst`, or empty."""


def check_name(name: str, field: str = "filename") -> str:
    """The name itself, if it may be one. Raises InvalidInput (BAD_FILE_NAME)."""
    dots = ".." in name or name.endswith((".", " "))
    if not _NAME.match(name) or dots or _DEVICE_NAMES.match(name) or len(name.encode()) > 255:
        raise InvalidInput.field(
            field,
            name,
            "a letter, digit or _ first, then letters, digits, spaces and . _ - ( ) + , @ =; at most 255 bytes; "
            "no folder, no .. and no device name",
            "Rename it, or upload it under another name (--name).",
            reason="BAD_FILE_NAME",
        )
    return name


def form_of(filename: str) -> FileForm:
    """What the ending says; text where it says nothing. Raises Unsupported for what is not read."""
    stem, ending = _ending(filename)
    packing = _PACKINGS.get(ending, "")
    inner = _ending(stem)[1] if packing else ending
    form = _FORMS.get(inner, TEXT)
    if packing and form == PARQUET:
        raise Unsupported(
            f"a packed Parquet file ({filename})",
            why="Parquet needs random access",
            instead="Unpack it; Parquet compresses its own pages.",
        )
    if inner in _INSTEAD:
        raise Unsupported(
            f"a {inner} corpus ({filename})",
            why="corpora are text, JSONL or Parquet",
            instead=_INSTEAD[inner],
        )
    return FileForm(form, packing)


def _ending(name: str) -> tuple[str, str]:
    stem, dot, ending = name.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and stem else (name, "")
