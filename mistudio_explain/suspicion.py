"""Whether an explanation looks as if a text had steered the model that wrote it; patterns are data.

Owns the flags about content, not what is done with a flagged explanation. A net, no proof: what it
finds, a person looks at. docs/metrics.md names the rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspicion:
    """Something that no explanation of a feature needs."""

    what: str
    """What it is, as people say it."""
    pattern: re.Pattern[str]
    """How it looks."""


@lru_cache(maxsize=1)
def injection_rules() -> tuple[str, tuple[Suspicion, ...]]:
    """(version, rules)."""
    path = resources.files("mistudio_explain").joinpath("rules/injection.v1.json")
    body = json.loads(path.read_text(encoding="utf-8"))
    return body["version"], tuple(
        Suspicion(what=r["what"], pattern=re.compile(r["pattern"], re.IGNORECASE)) for r in body["rules"]
    )


def suspicions(explanation: str, keywords: Sequence[str]) -> list[str]:
    """What the explanation or its keywords hold that points to an injection, in the order of the rules."""
    said = "\n".join([explanation, *keywords])
    return [rule.what for rule in injection_rules()[1] if rule.pattern.search(said)]
