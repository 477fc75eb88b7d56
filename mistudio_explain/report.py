"""The HTML report: one self-contained file without script, made for people.

Owns what the template shows; autoescape is always on, the only markup from here is our own style
sheet. Corpus text is cut, cleaned of control signs and isolated in its direction.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mistudio_explain.config import ExplainResult, Explanation
from mistudio_explain.evidence import FeatureEvidence, TopText

MOST_CARDS = 300
"""Features shown whole; the others stand in the JSON."""
_TEXTS = 4
_LEVELS = 9
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_CATEGORIES = ("technical", "conversational", "behavioral", "temporal", "general")
_TIERS = ("excellent", "good", "fair", "poor")
_DEFINITIONS = (
    ("quality", "0.4 accuracy + 0.3 clarity + 0.2 consistency + 0.1 relevance"),
    (
        "accuracy",
        "AUROC: how often a held-out text on which the feature fires scores above one on which it is silent, "
        "judged from the explanation's words alone (lexical-auroc/1); 95 % bootstrap interval in brackets",
    ),
    ("clarity", "sentences, their length, the whole length, plain signs"),
    ("consistency", "whether it names the feature's keywords and whether its words stand in the top texts"),
    ("relevance", "share of top texts with its main words, less the share of silent texts"),
    ("confirmed", "accuracy of at least 0.75 with an interval above 0.5; contradicted below 0.55"),
    ("coherence", "share of top texts that one pattern is seen in, corrected for chance"),
)


def render_report(
    result: ExplainResult,
    explanations: Sequence[Explanation],
    evidence: Mapping[int, FeatureEvidence],
    technical: Mapping[str, Any],
) -> str:
    """The report as HTML; `explanations` best first, `evidence` by feature id."""
    style = resources.files("mistudio_explain").joinpath("templates/report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    cards = [_card(e, evidence[e.feature_id]) for e in explanations[:MOST_CARDS]]
    shown = [c for c in cards if not c["e"].failure]
    environment = Environment(
        loader=PackageLoader("mistudio_explain"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(
        "explanation_report.html.j2"
    ).render(
        style=Markup(style),  # noqa: S704  # our own file, and the policy's hash must match its bytes
        style_hash=f"sha256-{digest}",
        result=result,
        insights=result.summary_insights,
        headline=_headline(result, explanations),
        best=shown[:10],
        groups=[(n, found) for n in _CATEGORIES if (found := [c for c in cards if c["e"].pattern_category == n])],
        flagged=[c for c in cards if c["e"].safety_assessment in ("requires_review", "concerning")],
        left_out=max(0, len(explanations) - MOST_CARDS),
        quality_chart=_quality_chart([e.explanation_quality for e in explanations if not e.failure]),
        tiers=_counts(_TIERS, [evidence[e.feature_id].quality_level for e in explanations]),
        categories=_counts(_CATEGORIES, [e.pattern_category for e in explanations]),
        lines=_insights(explanations),
        technical=technical,
        technical_rows=[(k.replace("_", " "), str(v)) for k, v in technical.items() if v not in ("", None)],
        definitions=_DEFINITIONS,
    )


def _card(explanation: Explanation, evidence: FeatureEvidence) -> dict[str, Any]:
    """What one feature's card shows."""
    statistics = evidence.statistics
    return {
        "e": explanation,
        "explanation": _plain(explanation.explanation),
        "failure": _plain(explanation.failure),
        "reason": _plain(explanation.safety_reason),
        "keywords": [_plain(k) for k in explanation.pattern_keywords],
        "texts": [_highlighted(t) for t in evidence.top[:_TEXTS]],
        "histogram": _histogram(statistics.get("histogram_counts", []), statistics.get("histogram_edges", [])),
        "frequency": f"{100 * float(statistics.get('frequency', 0)):.2g} %",
    }


def _highlighted(text: TopText) -> dict[str, Any]:
    """Pieces of a text with their level 0..9; silent neighbours are one piece."""
    most = max(text.activations, default=0.0)
    pieces: list[tuple[str, int]] = []
    for token, activation in zip(text.tokens, text.activations, strict=False):
        level = math.ceil(_LEVELS * activation / most) if most > 0 and activation > 0 else 0
        lead = token[: len(token) - len(token.lstrip())] if level else ""
        # The space before a token is not part of what it fires on.
        for piece, strength in ((lead, 0), (token[len(lead) :], min(level, _LEVELS))):
            if pieces and not strength and not pieces[-1][1]:
                pieces[-1] = (pieces[-1][0] + piece, 0)
            elif piece:
                pieces.append((piece, strength))
    return {
        "pieces": [(_plain(p), level) for p, level in pieces],
        "context": _plain(text.context)[:120],
        "strength": f"{most:.3g}",
    }


def _plain(text: str) -> str:
    """Text without control and direction signs."""
    return _CONTROL.sub("\ufffd", text)


def _columns(values: Sequence[float], titles: Sequence[str], low: str, high: str) -> dict[str, Any]:
    """Places of the columns of a 250 x 78 chart."""
    most, width = max(values, default=0) or 1, 250 / max(1, len(values))
    columns = [
        (f"{i * width + 1:.1f}", f"{78 - 74 * v / most:.1f}", f"{width - 2:.1f}", f"{74 * v / most:.1f}", titles[i])
        for i, v in enumerate(values)
        if v > 0
    ]
    return {"columns": columns, "low": low, "high": high}


def _histogram(counts: Sequence[int], edges: Sequence[float]) -> dict[str, Any]:
    titles = [f"{c} tokens, activation {a:.3g} to {b:.3g}" for c, a, b in zip(counts, edges, edges[1:], strict=False)]
    high = f"activation {edges[-1]:.3g}" if edges else ""
    return _columns([math.log1p(c) for c in counts], titles, "0 (log scale)", high)


def _quality_chart(values: Sequence[float]) -> dict[str, Any]:
    counts = Counter(min(19, int(20 * v)) for v in values)
    titles = [f"{counts[i]} of quality {i / 20:.2f} to {(i + 1) / 20:.2f}" for i in range(20)]
    return _columns([counts[i] for i in range(20)], titles, "0", "1")


def _counts(names: Sequence[str], values: Sequence[str]) -> list[tuple[str, int]]:
    found = Counter(values)
    return [(name, found[name]) for name in names if found[name]]


def _headline(result: ExplainResult, explanations: Sequence[Explanation]) -> str:
    """Two sentences that say what came out."""
    done = [e for e in explanations if not e.failure]
    if not done:
        return "No feature was explained: none was clear enough, or the engine failed on all of them."
    confirmed = sum(e.pattern_verification == "confirmed" for e in done)
    concerns = result.summary_insights.safety_concerns_identified
    safety = (
        f"{concerns} touch{'es' if concerns == 1 else ''} a subject that a safety team follows"
        if concerns
        else "none touches a safety subject"
    )
    return (
        f"Of {len(done)} explained features, held-out texts confirm {confirmed} ({confirmed / len(done):.0%}). "
        f"Of all features taken, {safety}."
    )


def _insights(explanations: Sequence[Explanation]) -> list[str]:
    """Sentences about the run, each from counts."""
    done = [e for e in explanations if not e.failure]
    if not done:
        return ["There is nothing to say about no explanation."]
    verdicts = Counter(e.pattern_verification for e in done)
    kinds = Counter(e.pattern_category for e in done).most_common(1)[0]
    relevance = Counter(e.business_relevance for e in done)
    lines = [
        f"{verdicts['confirmed']} explanations are confirmed, {verdicts['partial']} in part, "
        f"{verdicts['contradicted']} contradicted by held-out texts.",
        f"The commonest kind of pattern is {kinds[0]} ({kinds[1]} features).",
        f"{relevance['high']} features are of high, {relevance['medium']} of medium business relevance.",
    ]
    near = [e.quality_parts.accuracy_near for e in done if e.quality_parts.accuracy_near is not None]
    if near:
        lines.append(
            f"Against silent texts of like topic, the harder test, mean accuracy is {sum(near) / len(near):.2f}."
        )
    return lines
