"""Example explanations that are shown to a model: the built-in set, or one of the administrator's.

Owns the form and its refusals. A set is a JSON file in the folder `few_shot` of the home folder,
named by the request without its ending.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MOST_BYTES, _MOST_EXAMPLES, _MOST_TEXTS, _LONGEST = 65_536, 10, 10, 1000
_FORM = (
    '{"version": "NAME/1", "examples": [{"active": ["a text with its ⟦active⟧ tokens marked"], "silent": ["..."], '
    '"explanation": "...", "keywords": ["..."]}]} with 1 to 10 examples'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One example."""

    active: tuple[str, ...]
    """Texts with their active tokens between ⟦ and ⟧."""
    silent: tuple[str, ...]
    """Texts on which it is silent."""
    explanation: str
    """What a good answer says."""
    keywords: tuple[str, ...]
    """What it lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot:
    """A set of examples."""

    name: str
    """Name in requests; empty for the built-in set."""
    version: str
    """Version, recorded with a run."""
    shots: tuple[Shot, ...]
    """The examples."""

    def text(self) -> str:
        """The examples as they are shown in the system message."""
        return "\n\n".join(_shown(number, shot) for number, shot in enumerate(self.shots, 1))


def _shown(number: int, shot: Shot) -> str:
    answer = json.dumps({"explanation": shot.explanation, "keywords": list(shot.keywords)}, ensure_ascii=False)
    lines = [f"EXAMPLE {number}", "Active:", *(f"- {t}" for t in shot.active)]
    lines += ["Silent:", *(f"- {t}" for t in shot.silent)] if shot.silent else []
    return "\n".join(["", *lines, f"Answer: {answer}"])


@lru_cache(maxsize=1)
def built_in_few_shot() -> FewShot:
    """The set that is used unless a request names one."""
    path = resources.files("mistudio_explain").joinpath("prompts/few_shot.v1.json")
    return _parsed("", json.loads(path.read_text(encoding="utf-8")))


def load_few_shot(name: str, folder: Path) -> FewShot:
    """The set of this name in `folder`, or the built-in one for an empty name.

    Raises NotFound with the sets that there are, InvalidInput for a file of another form.
    """
    if not name:
        return built_in_few_shot()
    there = sorted(p.stem for p in folder.glob("*.json") if _NAME.fullmatch(p.stem)) if folder.is_dir() else []
    path = folder / f"{name}.json"
    if not _NAME.fullmatch(name) or name not in there:
        known = ", ".join(there) or "none yet"
        raise NotFound(
            f"There is no few-shot set {name!r}. There are: {known}. Leave few_shot empty for the built-in set, or put "
            f"{name}.json into the folder few_shot of the home folder.",
            facts={"few_shot": name, "few_shot_sets": known},
        )
    try:
        raw = path.read_bytes()
        body = json.loads(raw) if len(raw) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise _malformed(name, "cannot be read as JSON") from error
    return _parsed(name, body)


def _parsed(name: str, body: Any) -> FewShot:
    """Raises InvalidInput."""
    if not isinstance(body, dict) or set(body) != {"version", "examples"}:
        raise _malformed(name, "has other keys than version and examples, or more than 65,536 bytes")
    examples = body["examples"]
    if not isinstance(body["version"], str) or not 0 < len(body["version"]) <= 100:
        raise _malformed(name, "has no version of at most 100 characters")
    if not isinstance(examples, list) or not 1 <= len(examples) <= _MOST_EXAMPLES:
        raise _malformed(name, f"has not 1 to {_MOST_EXAMPLES} examples")
    return FewShot(name=name, version=body["version"], shots=tuple(_shot(name, n, e) for n, e in enumerate(examples)))


def _shot(name: str, number: int, body: Any) -> Shot:
    where = f"has an example {number + 1}"
    if not isinstance(body, dict) or set(body) != {"active", "silent", "explanation", "keywords"}:
        raise _malformed(name, f"{where} with other keys than active, silent, explanation and keywords")
    for key in ("active", "silent", "keywords"):
        value = body[key]
        listed = isinstance(value, list) and len(value) <= _MOST_TEXTS
        if not listed or not all(isinstance(t, str) and 0 < len(t) <= _LONGEST for t in value):
            raise _malformed(name, f"{where} whose {key} are not at most {_MOST_TEXTS} texts of 1 to {_LONGEST} signs")
    if not body["active"] or not any("⟦" in t and "⟧" in t for t in body["active"]):
        raise _malformed(name, f"{where} without an active token between ⟦ and ⟧")
    if not isinstance(body["explanation"], str) or not 0 < len(body["explanation"].strip()) <= 2 * _LONGEST:
        raise _malformed(name, f"{where} without an explanation of at most {2 * _LONGEST} signs")
    return Shot(
        active=tuple(body["active"]),
        silent=tuple(body["silent"]),
        explanation=body["explanation"],
        keywords=tuple(body["keywords"]),
    )


def _malformed(name: str, what: str) -> InvalidInput:
    return InvalidInput.field("few_shot", name or "the built-in set", _FORM, f"The file {what}.")
