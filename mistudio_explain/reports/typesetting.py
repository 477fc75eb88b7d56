"""PDF by Typst: a template of ours and data, no files, no network, no packages; text stays text.

Values reach the template as strings of one JSON document, so nothing in them is markup. The result is PDF/A-3u:
every character is there as Unicode. A character that no font has is shown as U+FFFD, and the document says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from mistudio_core.errors import Failed

STANDARD: Literal["a-3u"] = "a-3u"
"""Archival PDF whose text can be read and copied, attachments allowed."""
_LOST = "\ufffd"
_ROUNDS = 6
_UNSHOWN = re.compile(r'the text `"((?:[^"\\]|\\.)*)"`')
_ESCAPED = re.compile(r"\\u\{([0-9a-fA-F]+)\}|\\(.)", re.DOTALL)
# controls, surrogates, what is no character, and private use, which archival PDF forbids
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\uf8ff\ufdd0-\ufdef\ufff0-\uffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
    + "\U000f0000-\U0010ffff]"
)


def typeset(
    template: str,
    data: Mapping[str, Any],
    fonts: Path | None,
    *,
    inputs: Mapping[str, str] | None = None,
    tagged: bool = False,
) -> bytes:
    """The PDF of a template; `data` has a `note` that is filled where characters are lost. Raises Failed.

    `fonts` is a folder of further fonts; those of the system are used too where the built-in ones lack a character.
    `tagged` adds the structure that screen readers follow: ten times the size where every token has a colour.
    """
    import typst

    source = b"\n".join(_template(name) for name in ("common.typ", template))
    folders = [str(fonts)] if fonts is not None and fonts.is_dir() else []
    known = typst.Fonts(include_system_fonts=True, font_paths=folders)
    values = _mapped(data, lambda text: _FORBIDDEN.sub(_LOST, text))
    lost: set[str] = set()
    for _ in range(_ROUNDS):
        shown = json.dumps({**values, "note": _note(lost)}, ensure_ascii=False)
        given = {"data": shown, **(inputs or {})}
        compiler = typst.Compiler(source, root=_root(), font_paths=known, sys_inputs=given)
        try:
            return _whole(compiler.compile(format="pdf", pdf_standards=[STANDARD], pdf_tags=tagged))
        except typst.TypstError as error:
            missing = unshown(f"{error.message}\n{error.diagnostic}") - lost
            if not missing:
                break
            lost |= missing
            values = _mapped(values, _without(missing))
    try:  # what is left keeps it from the archival form; text still is text
        return _whole(compiler.compile(format="pdf"))
    except typst.TypstError as error:
        raise Failed(f"The PDF could not be made: {error.message[:300]}. Take the HTML report.") from error


def _without(missing: set[str]) -> Callable[[str], str]:
    table = dict.fromkeys(map(ord, missing), _LOST)
    return lambda text: text.translate(table)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it changed."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def day_of(moment: str) -> list[int]:
    """Year, month and day of an ISO 8601 time, for the document's date."""
    day = datetime.fromisoformat(moment)
    return [day.year, day.month, day.day]


def unshown(diagnostic: str) -> set[str]:
    """Characters that no font has, as Typst names them; U+FFFD itself is never one of them."""
    found: set[str] = set()
    for quoted in _UNSHOWN.findall(diagnostic):
        found |= set(_ESCAPED.sub(_unescaped, quoted))
    return {c for c in found if not c.isascii()} - {_LOST}


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else match[2]


def _note(lost: set[str]) -> str:
    if not lost:
        return ""
    return (
        f"{len(lost)} different characters have no sign in the fonts at hand and are shown as {_LOST}. The HTML report "
        "and feature_explanations.json hold them; fonts in the folder fonts of the installation are used here."
    )


def _whole(made: Any) -> bytes:
    if not isinstance(made, bytes):
        raise Failed("The PDF could not be made: it came in pieces. Take the HTML report.")
    return made


def _root() -> str:
    """What a template could read at most: the templates themselves."""
    return str(resources.files("mistudio_explain").joinpath("templates"))


def _template(name: str) -> bytes:
    return resources.files("mistudio_explain").joinpath(f"templates/{name}").read_bytes()
