"""Takes personal data out of the evidence: by rules, or all text of the corpus.

`redacted` is a view of the codes: every text, token and label that the analysis sees has its matches replaced
already, so that nothing made of them can hold one. `without_text` empties a record. The rules are data.
"""

from __future__ import annotations

import hashlib
import importlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_core.errors import InvalidInput
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import Array
from mistudio_torch.codes import CodesReader
from mistudio_torch.codes.attributes import PathGetter

RULES_FILE = "redaction.json"
"""Rules in the folder of an installation's own rules that replace the built-in ones."""
_BUILT_IN = "rules/redaction.v1.json"
_KEYS = {"name", "label", "pattern", "needs", "ignore_case", "group", "check", "digits"}
_SEPARATORS = re.compile(r"[\s./-]+")
_LONGEST_CHECKED = 40
_DOCUMENTS_KEPT = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One kind of personal data."""

    name: str
    """For people."""
    label: str
    """What stands in the text instead."""
    pattern: re.Pattern[str]
    """What is looked for in the text of a whole document."""
    needs: str
    """Only texts that hold this are searched; empty for all."""
    group: str
    """Part of the match that is replaced; empty for all of it."""
    check: Callable[[str], bool] | None
    """Whether it is such a number, with or without separators; None where the pattern says it all."""

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of every match."""
        if self.needs and self.needs not in text:
            return
        for match in self.pattern.finditer(text):
            start, end = match.span(self.group or 0)
            if self.check is None:
                yield start, end
            else:
                yield from _checked(text, start, end, self.check)


def _checked(text: str, start: int, end: int, check: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """The longest runs of whole groups in a candidate that are such numbers: its neighbours may be something else."""
    separators = list(_SEPARATORS.finditer(text, start, end))
    begins, ends = [start, *(m.end() for m in separators)], [*(m.start() for m in separators), end]
    for length in range(len(begins), 0, -1):
        for first in range(len(begins) - length + 1):
            low, high = begins[first], ends[first + length - 1]
            if _passes(text[low:high], check):
                if first:
                    yield from _checked(text, start, ends[first - 1], check)
                yield low, high
                if first + length < len(begins):
                    yield from _checked(text, begins[first + length], end, check)
                return


def _passes(found: str, check: Callable[[str], bool]) -> bool:
    """Whether a check takes what was found, as it stands or without separators."""
    plain = _SEPARATORS.sub("", found)
    return bool(plain) and len(plain) <= _LONGEST_CHECKED and (check(plain) or (found != plain and check(found)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Redactor:
    """Compiled rules."""

    version: str
    """Name and version of the rules, and of replaced ones the beginning of their digest."""
    rules: Sequence[Rule]
    """In order of precedence: where matches overlap, the first names the whole."""

    def matches(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, label) of what is replaced, in order, without overlap."""
        found = sorted(
            (start, end, at) for at, rule in enumerate(self.rules) for start, end in rule.matches(text) if end > start
        )
        merged: list[tuple[int, int, int]] = []
        for start, end, at in found:
            if merged and start < merged[-1][1]:
                low, high, best = merged[-1]
                merged[-1] = (low, max(high, end), min(best, at))
            else:
                merged.append((start, end, at))
        return [(start, end, self.rules[at].label) for start, end, at in merged]

    def text(self, text: str) -> str:
        """A text without personal data."""
        return self.document(text, np.zeros((0, 2), np.int32))[0]

    def document(self, text: str, spans: Array) -> tuple[str, Array]:
        """(text, int32 (n, 2) character spans of its tokens) with every match replaced by its label.

        The first token of a match gets the label, the others of it are empty; what a token has beside the
        match stays its own.
        """
        found = self.matches(text)
        if not found:
            return text, spans
        parts, cuts, moved = [], [0, *(at for start, end, _ in found for at in (start, end)), len(text)], [0]
        labels = [label for _, _, label in found]
        for number, (low, high) in enumerate(pairwise(cuts)):
            part = labels[number // 2] if number % 2 else text[low:high]
            parts.append(part)
            moved.append(moved[-1] + len(part))
        return "".join(parts), _moved(spans, np.array(cuts), np.array(moved))


def _moved(spans: Array, cuts: Array, moved: Array) -> Array:
    """Spans of the text that is cut at `cuts` in that whose cuts are at `moved`; every second part is a label.

    What lies inside of a match moves to the end of its label.
    """
    places = []
    for values in (spans[:, 0], spans[:, 1]):
        part = np.clip(np.searchsorted(cuts, values, side="right") - 1, 0, len(cuts) - 2)
        inside = (part % 2 == 1) & (values > cuts[part])
        places.append(np.where(inside, moved[part + 1], moved[part] + values - cuts[part]))
    result: Array = np.stack(places, axis=1).astype(np.int32)
    return result


def load(folder: Path | None = None) -> Redactor:
    """The rules of an installation, or the built-in ones. Raises InvalidInput for rules that cannot be used."""
    own = None if folder is None else folder / RULES_FILE
    if own is None or not own.is_file():
        return parse(resources.files("mistudio_find").joinpath(_BUILT_IN).read_text(encoding="utf-8"))
    raw = own.read_bytes()
    found = parse(raw.decode("utf-8", "replace"))
    return Redactor(version=f"{found.version}+{hashlib.sha256(raw).hexdigest()[:12]}", rules=found.rules)


def parse(text: str) -> Redactor:
    """Rules from JSON. Raises InvalidInput that says which rule cannot be used and why."""
    name = ""
    try:
        body = json.loads(text)
        rules = []
        for entry in body["rules"]:
            name = str(entry["name"])
            rules.append(_rule(entry))
        return Redactor(version=str(body["version"])[:80], rules=tuple(rules))
    except (ValueError, KeyError, TypeError, AttributeError, ImportError, re.error) as error:
        where = f" (rule {name!r})" if name else ""
        raise InvalidInput(
            f"The redaction rules cannot be used{where}: {type(error).__name__}: {error}. "
            f"mistudio_find/{_BUILT_IN} shows the form."
        ) from error


def _rule(entry: Mapping[str, Any]) -> Rule:
    if unknown := set(entry) - _KEYS:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}; known are {', '.join(sorted(_KEYS))}")
    pattern = re.compile(str(entry["pattern"]), re.IGNORECASE if entry.get("ignore_case") else 0)
    group = str(entry.get("group", ""))
    if group and group not in pattern.groupindex:
        raise ValueError(f"the pattern has no group {group!r}")
    label = str(entry["label"])
    if not label:
        raise ValueError("the label is empty")
    return Rule(
        name=str(entry["name"]),
        label=label,
        pattern=pattern,
        needs=str(entry.get("needs", "")),
        group=group,
        check=_check(str(entry.get("check", "")), tuple(entry.get("digits", ()))),
    )


def _check(name: str, digits: tuple[int, ...]) -> Callable[[str], bool] | None:
    """`ip`, or a module of python-stdnum with `is_valid`; `digits` are the least and most digits, also alone."""
    low, high = digits or (0, _LONGEST_CHECKED)
    if not name:
        return (lambda plain: low <= sum(map(str.isdecimal, plain)) <= high) if digits else None
    if name == "ip":
        return _is_ip
    if not name.startswith("stdnum."):
        raise ValueError(f"check must be ip or a module of stdnum, not {name!r}")
    valid: Callable[[str], bool] = importlib.import_module(name).is_valid
    return lambda plain: low <= sum(map(str.isdecimal, plain)) <= high and bool(valid(plain))


def _is_ip(plain: str) -> bool:
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        return False
    return True


class RedactedCodes(CodesReader):
    """A codes artifact whose texts and labels have no match of the rules; keeps 4,096 documents at hand."""

    def __init__(self, artifact: PathGetter, redactor: Redactor) -> None:
        """See CodesReader."""
        super().__init__(artifact)
        self.meta = {**self.meta, "redaction": redactor.version}
        self._redactor = redactor
        self._seen = lru_cache(maxsize=_DOCUMENTS_KEPT)(self._redacted)
        self.attributes.change(lru_cache(maxsize=_DOCUMENTS_KEPT)(redactor.text))

    def text(self, doc: int) -> str:
        """The document's text, redacted."""
        return self._seen(doc)[0]

    def spans(self, doc: int) -> Array:
        """int32 (n, 2): each token's character start and end in the redacted text."""
        return self._seen(doc)[1].copy()

    def _redacted(self, doc: int) -> tuple[str, Array]:
        return self._redactor.document(super().text(doc), super().spans(doc))


def opened(artifact: PathGetter, config: FindConfig) -> CodesReader:
    """The codes as the analysis may see them. Under `none` it sees all: `kept` takes the text out of its records.

    Raises Corrupt, Unsupported as CodesReader does; InvalidInput for rules that cannot be used.
    """
    if config.evidence_text != "redacted":
        return CodesReader(artifact)
    return RedactedCodes(artifact, load(config.rules_root))


_EMPTIED = (
    "pattern_keywords",
    "keyword_scores",
    "driving_tokens",
    "driving_phrases",
    "contrast_texts",
    "judge_texts",
    "associations",
)
"""Lists of a record that are words of the corpus."""
_WINDOWS = ("top_activations", "quantile_activations")
_NOT_OF_THE_CORPUS = (
    "quality_level",
    "pattern_category",
    "complexity",
    "sae_sha256",
    "semantic_tags",
    "behavioral_indicators",
    "complexity_measures",
    "promoted_tokens",
    "suppressed_tokens",
)
"""What holds words, but those of rules and of the model's vocabulary."""


def kept(record: Mapping[str, Any], evidence_text: str) -> Mapping[str, Any]:
    """What of a record is written."""
    return without_text(record) if evidence_text == "none" else record


def without_text(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with ids, offsets and figures alone; a string in a field that is not known here goes, too."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        if key in _EMPTIED:
            found[key] = []
        elif key in _WINDOWS:
            found[key] = [_figures(w) | {"tokens": [""] * len(w["tokens"])} for w in value]
        else:
            found[key] = value if key in _NOT_OF_THE_CORPUS else _figures(value)
    return found | ({"near_contrast_texts": 0} if "near_contrast_texts" in found else {})


def _figures(value: Any) -> Any:
    """The same without strings."""
    if isinstance(value, str):
        return ""
    if isinstance(value, Mapping):
        return {key: _figures(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_figures(item) for item in value if not isinstance(item, str)]
    return value
