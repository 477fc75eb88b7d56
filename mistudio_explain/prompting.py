"""Turns evidence into a prompt: versioned templates, corpus text as delimited data, a token budget.

Owns the marker, the highlighting, the length and the reading of answers; judging texts never come
here. Deterministic in (evidence, seed), so that a run can be repeated. See defusing.py for corpus text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from string import Template
from typing import Any

from mistudio_explain.defusing import defuse, plain
from mistudio_explain.engines.base import Failure
from mistudio_explain.evidence import FeatureEvidence, TopText
from mistudio_explain.few_shot import FewShot, built_in_few_shot

VERSIONS = {
    "top_and_contrast": "top_and_contrast.v2",
    "quantiles": "quantiles.v1",
    "contrast_pair": "contrast_pair.v1",
    "promoted_tokens": "promoted_tokens.v1",
    "code": "code.v1",
}
"""Template of each strategy; its name is recorded with every explanation."""
CHARACTERS_A_TOKEN = 3.5
"""For engines that cannot count."""
LONGEST_EXPLANATION, LONGEST_KEYWORD, MOST_KEYWORDS = 2000, 60, 10
"""What is taken of an answer: characters, characters, keywords."""
ANSWER_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "maxLength": LONGEST_EXPLANATION},
        "keywords": {
            "type": "array",
            "items": {"type": "string", "maxLength": LONGEST_KEYWORD},
            "maxItems": MOST_KEYWORDS,
        },
    },
    "required": ["explanation", "keywords"],
    "additionalProperties": False,
}
"""JSON schema of the answer; a constant, never from a request."""
_TOP, _STRONG, _WEAK, _PAIR, _SILENT, _TOKENS = 10, 5, 5, 5, 6, 20
_LONGEST_TEXT = 800
_ACTIVE_SHARE = 0.3
_TEMPLATE_TOKENS = 32
_LEAST_BESIDE_SHOTS = 4
_NONE = "(none)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is put to a model."""

    system: str
    """Instructions and examples: the same for every feature of a run, so that engines keep its prefix."""
    user: str
    """The data of one feature between its markers, and the question."""
    schema: Mapping[str, object]
    """JSON schema of the answer."""
    version: str
    """Template, and the few-shot set where it is not the built-in one."""
    strategy: str
    """Strategy of the template: top_and_contrast where a feature lacks what another one shows."""
    tokens: int
    """Tokens, counted or estimated."""
    examples: int
    """Texts that were kept, of all kinds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Example:
    """A text under a heading of the template."""

    section: str
    line: str


def build_prompt(
    evidence: FeatureEvidence,
    *,
    strategy: str = "top_and_contrast",
    audience: str = "engineer",
    seed: int,
    few_shot: FewShot | None = None,
    max_tokens: int = 0,
    pair: FeatureEvidence | None = None,
    count: Callable[[str], int] | None = None,
) -> Prompt | Failure:
    """The prompt for one feature, within `max_tokens` (0 for no limit).

    `count` is the tokenizer's; without one 3.5 characters are a token. Texts are dropped from the end
    until it fits; before fewer than four are left, the few-shot examples go. A Failure context_too_small says
    what one text needs.
    """
    used = _possible(strategy, evidence, pair)
    shots = few_shot or built_in_few_shot()
    examples = _examples(used, evidence, pair)
    measure = count or (lambda text: math.ceil(len(text) / CHARACTERS_A_TOKEN))

    def made(kept: int, with_shots: bool) -> Prompt:
        system = _system(audience, shots if with_shots else None)
        user = _user(used, evidence, examples[:kept], seed)
        return Prompt(
            system=system,
            user=user,
            schema=ANSWER_SCHEMA,
            version=VERSIONS[used] + ("" if shots.name == "" else f"+{shots.name}"),
            strategy=used,
            tokens=measure(f"{system}\n{user}") + _TEMPLATE_TOKENS,
            examples=kept,
        )

    return _fit(made, len(examples), max_tokens)


def _fit(made: Callable[[int, bool], Prompt], total: int, max_tokens: int) -> Prompt | Failure:
    """The largest prompt within the budget, in a few counts: each drop is as large as the overshoot says."""
    prompt = made(total, True)
    with_shots, kept = True, total
    while max_tokens and prompt.tokens > max_tokens:
        if kept <= 1 and not with_shots:
            return Failure(
                kind="context_too_small",
                message=f"The prompt with one text needs {prompt.tokens} tokens and {max_tokens} are free: "
                "use a model with a longer context, or lower max_output_tokens of the engine.",
            )
        over = 1 - max_tokens / prompt.tokens
        kept = max(1, min(kept - 1, kept - int(over * kept)))
        if with_shots and kept < _LEAST_BESIDE_SHOTS:
            # Texts say more about this feature than examples about others: there is room for them again.
            with_shots, kept = False, total
        prompt = made(kept, with_shots)
    return prompt


def _possible(strategy: str, evidence: FeatureEvidence, pair: FeatureEvidence | None) -> str:
    """The strategy, or top_and_contrast for a single feature without what it shows (runs are checked before)."""
    lacks = (strategy == "contrast_pair" and pair is None) or (strategy == "promoted_tokens" and not evidence.promoted)
    return "top_and_contrast" if lacks else strategy


def _system(audience: str, few_shot: FewShot | None) -> str:
    """The system message: no part of it depends on the feature."""
    shots = few_shot.text() if few_shot else ""
    return template("system.v1").substitute(audience=_audiences()[audience], few_shot=shots).strip()


def _user(strategy: str, evidence: FeatureEvidence, examples: Sequence[_Example], seed: int) -> str:
    """The user's message, every value of the corpus inside of the markers."""
    sections = {name: "\n".join(e.line for e in examples if e.section == name) or _NONE for name in _SECTIONS}
    values = sections | {
        "keywords": _listed(evidence.keywords),
        "promoted": _listed(evidence.promoted[:_TOKENS]),
        "suppressed": _listed(evidence.suppressed[:_TOKENS]),
    }
    marker = marker_of(json.dumps(values), seed, evidence.feature_id)
    return template(VERSIONS[strategy]).substitute(values, marker=marker).strip()


_SECTIONS = ("active", "pair", "silent")


def marker_of(body: str, seed: int, number: int) -> str:
    """128 bits that do not occur in the data: derived from all of it, so no text can hold its own marker."""
    return "data-" + hashlib.sha256(f"{seed}:{number}:{body}".encode("utf-8", "replace")).hexdigest()[:32]


def _examples(strategy: str, evidence: FeatureEvidence, pair: FeatureEvidence | None) -> list[_Example]:
    """The texts in the order in which they are kept: two active ones, then one of each other kind, and so on."""
    whole = strategy == "code"
    if strategy == "quantiles":
        shown = (*evidence.top[:_STRONG], *_spread(evidence.quantiles, _WEAK))
        most = max((_strength(t) for t in shown), default=1.0) or 1.0
        active = [f"- ({_strength(t) / most:.0%}) {highlighted(t)}" for t in shown]
    else:
        active = [_block(highlighted(t, whole=whole), whole) for t in evidence.top[:_TOP]]
    pairs = [f"- {highlighted(t)}" for t in pair.top[:_PAIR]] if strategy == "contrast_pair" and pair else []
    silent = [_block(_cut(t, whole), whole) for t in _mixed(evidence)[:_SILENT]]
    queues = {"active": active, "pair": pairs, "silent": silent}
    out: list[_Example] = []
    while any(queues.values()):
        for section, step in (("active", 2), ("pair", 1), ("silent", 1)):
            out += [_Example(section=section, line=line) for line in queues[section][:step]]
            queues[section] = queues[section][step:]
    return out


def _mixed(evidence: FeatureEvidence) -> list[str]:
    """Random and near contrast texts in turn: near ones say what does not suffice, random ones what is common."""
    cut = len(evidence.contrast) - evidence.near_contrast
    random, near = list(evidence.contrast[:cut]), list(evidence.contrast[cut:])
    shared = [t for both in zip(random, near, strict=False) for t in both]
    return shared + random[len(near) :] + near[len(random) :]


def _spread(texts: Sequence[TopText], most: int) -> Sequence[TopText]:
    """At most so many texts, evenly over their ranks."""
    if len(texts) <= most:
        return texts
    return [texts[round(i * (len(texts) - 1) / (most - 1))] for i in range(most)]


def _strength(text: TopText) -> float:
    return max(text.activations, default=0.0)


def highlighted(text: TopText, *, whole: bool = False) -> str:
    """The text with its active tokens (from 30 % of the strongest on) between ⟦ and ⟧, defused.

    At most 800 characters around the strongest token; on one line unless `whole`.
    """
    tokens, activations = _around_peak(text)
    bound = _ACTIVE_SHARE * max(activations, default=0.0)
    out = []
    for token, activation in zip(tokens, activations, strict=False):
        shown = token.replace("⟦", "[").replace("⟧", "]")
        core = shown.strip()
        active = activation > 0 and activation >= bound and core
        out.append(shown.replace(core, f"⟦{core}⟧", 1) if active else shown)
    # Neighbours share one pair of signs.
    return _cut("".join(out).replace("⟧⟦", ""), whole)


def _around_peak(text: TopText) -> tuple[Sequence[str], Sequence[float]]:
    """Tokens and activations of a part of at most 800 characters that holds the strongest token."""
    if len(text.text) <= _LONGEST_TEXT or not text.activations:
        return text.tokens, text.activations
    low = high = max(range(len(text.activations)), key=text.activations.__getitem__)
    room = _LONGEST_TEXT
    while room > 0 and (low > 0 or high < len(text.tokens) - 1):
        low, high = max(0, low - 1), min(len(text.tokens) - 1, high + 1)
        room = _LONGEST_TEXT - sum(map(len, text.tokens[low : high + 1]))
    return text.tokens[low : high + 1], text.activations[low : high + 1]


def _cut(text: str, whole: bool) -> str:
    shown = plain(text)
    return defuse(shown if whole else " ".join(shown.split()))[: 2 * _LONGEST_TEXT]


def _block(text: str, whole: bool) -> str:
    """One list entry: a line, or lines of code behind a bar, so that no line of the data begins a section."""
    if not whole:
        return f"- {text}"
    return "\n".join(f"| {line}" for line in text.splitlines() if line.strip()) + "\n"


def _listed(found: Sequence[str]) -> str:
    return ", ".join(f'"{_cut(w, False)[:LONGEST_KEYWORD]}"' for w in found) or _NONE


@lru_cache(maxsize=16)
def template(name: str) -> Template:
    """A template of prompts/, by its name with version."""
    path = resources.files("mistudio_explain").joinpath(f"prompts/{name}.txt")
    return Template(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _audiences() -> dict[str, str]:
    path = resources.files("mistudio_explain").joinpath("prompts/audiences.v1.json")
    body: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return body


def read_answer(text: str) -> tuple[str, tuple[str, ...]] | Failure:
    """(explanation, keywords) of a model's answer; what is no JSON or of another form is a Failure."""
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        return Failure(kind="not_json", message="The answer is not JSON.")
    explanation = body.get("explanation") if isinstance(body, dict) else None
    keywords = body.get("keywords") if isinstance(body, dict) else None
    valid = isinstance(explanation, str) and isinstance(keywords, list) and all(isinstance(k, str) for k in keywords)
    said = " ".join(plain(explanation).split()) if isinstance(explanation, str) else ""
    if not valid or not isinstance(keywords, list) or not said or len(said) > LONGEST_EXPLANATION:
        return Failure(kind="wrong_schema", message="The answer is JSON of another form.")
    kept = (" ".join(plain(k).split())[:LONGEST_KEYWORD] for k in keywords[:MOST_KEYWORDS])
    return said, tuple(k for k in kept if k)
