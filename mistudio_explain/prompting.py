"""Turns evidence into a prompt: a versioned template, corpus text as delimited data.

Owns the marker, the highlighting and the length; judging texts never come here. Deterministic in
(evidence, seed), so that a run can be repeated.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources
from string import Template

from mistudio_explain.evidence import FeatureEvidence, TopText

PROMPT_VERSION = "top_and_contrast.v1"
"""Name of the template file, recorded with every explanation."""
_TOP, _CONTRAST = 10, 6
_LONGEST_TEXT = 800
_ACTIVE_SHARE = 0.3
ANSWER_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "maxLength": 2000},
        "keywords": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 10},
    },
    "required": ["explanation", "keywords"],
    "additionalProperties": False,
}
"""JSON schema of the answer; a constant, never from a request."""


@lru_cache(maxsize=1)
def _template() -> Template:
    path = resources.files("mistudio_explain").joinpath(f"prompts/{PROMPT_VERSION}.txt")
    return Template(path.read_text(encoding="utf-8"))


def build_prompt(evidence: FeatureEvidence, *, seed: int) -> str:
    """The prompt for one feature."""
    top = "\n".join(f"{n}. {_highlight(t)}" for n, t in enumerate(evidence.top[:_TOP], 1))
    contrast = "\n".join(f"- {_one_line(t)}" for t in evidence.contrast[:_CONTRAST])
    body = f"{top}\n{contrast}\n{evidence.keywords}"
    marker = _marker(body, seed, evidence.feature_id)
    return _template().substitute(
        marker=marker, top=top, contrast=contrast or "(none)", keywords=", ".join(evidence.keywords) or "(none)"
    )


def _marker(body: str, seed: int, feature_id: int) -> str:
    """128 bits that do not occur in the data: derived from all of it, so no text can hold its own marker."""
    return "data-" + hashlib.sha256(f"{seed}:{feature_id}:{body}".encode("utf-8", "replace")).hexdigest()[:32]


def _highlight(text: TopText) -> str:
    """The text with its active tokens (from 30 % of the strongest on) between ⟦ and ⟧."""
    bound = _ACTIVE_SHARE * max(text.activations, default=0.0)
    out = []
    for token, activation in zip(text.tokens, text.activations, strict=False):
        plain = token.replace("⟦", "[").replace("⟧", "]")
        core = plain.strip()
        active = activation > 0 and activation >= bound and core
        out.append(plain.replace(core, f"⟦{core}⟧", 1) if active else plain)
    return _one_line("".join(out))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_TEXT]
