"""TXT: a report that a person reads on paper or in a terminal, most coherent features first.

Says at its top what it leaves out. Corpus text stands on one line each, without anything that a terminal
would act on (safety.py); «» mark the strongest token.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistudio_find.exports.safety import terminal_visible

TEXTS = 5
"""Top texts shown a feature."""
_QUANTILE_TEXTS, _CONTRAST_TEXTS, _ITEMS = 3, 3, 10
_WIDTH = 100
_LEFT_OUT = (
    f"Of each feature this report shows the first {TEXTS} top texts, {_QUANTILE_TEXTS} quantile and "
    f"{_CONTRAST_TEXTS} contrast texts and the first {_ITEMS} entries of each list. It leaves out the other texts, "
    "the activation of each token, histogram edges and features that never fire, whose numbers stand at the end. "
    "The forms json, xml, parquet, pytorch and safetensors hold everything."
)


def _list(title: str, items: Sequence[str]) -> str:
    """Items on as many lines as they need."""
    if not items:
        return ""
    shown = [terminal_visible(item) for item in items[:_ITEMS]]
    lines, line = [], f"  {title}: {shown[0]}"
    for item in shown[1:]:
        if len(line) + len(item) + 2 > _WIDTH:
            lines.append(line + ",\n")
            line = f"    {item}"
        else:
            line += f", {item}"
    more = f" (and {len(items) - _ITEMS} more)" if len(items) > _ITEMS else ""
    return "".join(lines) + line + more + "\n"


def _marked(text: Mapping[str, Any]) -> str:
    """The window with its strongest token between guillemets."""
    tokens, activations = text["tokens"], text["activations"]
    if not tokens or len(tokens) != len(activations):
        return terminal_visible(text["text"])
    peak = max(range(len(tokens)), key=activations.__getitem__)
    parts = ("".join(tokens[:peak]), tokens[peak], "".join(tokens[peak + 1 :]))
    before, token, after = (terminal_visible(part) for part in parts)
    return f"{before}«{token}»{after}"


def _texts(title: str, texts: Sequence[Mapping[str, Any]], count: int) -> Iterator[str]:
    if texts:
        yield f"  {title} ({min(count, len(texts))} of {len(texts)})\n"
    for text in texts[:count]:
        where = f"document {text['document']}, token {text['position']}"
        context = f", {terminal_visible(text['context'])}" if text["context"] else ""
        yield f"    {text['activation_strength']:>10}  {where}{context}\n      {_marked(text)}\n"


def _numbers(record: Mapping[str, Any]) -> str:
    statistics, spread = record["activation_statistics"], record["spread"]
    fires = (
        f"fires on {statistics['count']} tokens in {statistics['documents']} documents "
        f"(share of tokens {statistics['frequency']}, of documents {spread['document_share']})"
    )
    values = f"mean {statistics['mean']}, std {statistics['std']}, max {statistics['max']}, skew {statistics['skew']}"
    sure = ", ".join(f"{name} {record[name]}" for name in ("confidence", "importance", "diversity"))
    counts = " ".join(map(str, statistics["histogram_counts"]))
    place = "" if record["map_x"] is None else f", map ({record['map_x']}, {record['map_y']})"
    return f"  {fires}\n  {values}\n  {sure}{place}\n" + (f"  histogram: {counts}\n" if counts else "")


def feature_text(record: Mapping[str, Any]) -> str:
    """One feature's part of the report."""
    level, category = record["quality_level"], record["pattern_category"]
    head = (
        f"Feature {record['feature_id']}: coherence {record['coherence_score']} ({level}), {category} "
        f"({record['category_confidence']}), complexity {record['complexity']}"
    )
    named = [f"{i['name']} {i['score']}" for i in record["behavioral_indicators"]]
    parts = [
        f"{head}\n{'-' * min(len(head), _WIDTH)}\n",
        _list("keywords", record["pattern_keywords"]),
        _list("tags", record["semantic_tags"]),
        _list("behaviours", named),
        _numbers(record),
        _list("driving tokens", [f"{d['text']!r} {d['share']}" for d in record["driving_tokens"]]),
        _list("driving phrases", [f"{d['text']!r} lift {d['lift']}" for d in record["driving_phrases"]]),
        _list("raises", [f"{t['token']!r} {t['effect']}" for t in record["promoted_tokens"]]),
        _list("lowers", [f"{t['token']!r} {t['effect']}" for t in record["suppressed_tokens"]]),
        _list("nearest decoders", [f"{n['feature_id']} ({n['similarity']})" for n in record["nearest_by_decoder"]]),
        _list("fires with", [f"{n['feature_id']} ({n['similarity']})" for n in record["nearest_by_activation"]]),
        _list(
            "goes with",
            [f"{a['column']}={a['value']} AUROC {a['auroc']} (q {a['q_value']})" for a in record["associations"]],
        ),
        *_texts("Top texts", record["top_activations"], TEXTS),
        *_texts("Weaker texts", record["quantile_activations"], _QUANTILE_TEXTS),
    ]
    silent = record["contrast_texts"]
    if silent:
        parts.append(f"  Silent on ({min(_CONTRAST_TEXTS, len(silent))} of {len(silent)})\n")
        parts += [f"      {terminal_visible(text)}\n" for text in silent[:_CONTRAST_TEXTS]]
    return "".join(parts) + "\n"


def _flat(value: Any, name: str = "") -> Iterator[str]:
    """What the job says, a line a figure."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield f"{terminal_visible(name)}: {terminal_visible(str(value))}\n"


class Text:
    """The file as text."""

    def __init__(self) -> None:
        """Remembers the features that never fire."""
        self._dead: list[int] = []

    def head(self, metadata: Mapping[str, Any]) -> str:
        """Title, the job, and what is left out."""
        job = "".join(_flat(metadata))
        return f"Feature analysis\n================\n\n{job}\n{textwrap.fill(_LEFT_OUT, _WIDTH)}\n\n"

    def entry(self, record: Mapping[str, Any]) -> str:
        """One feature; nothing yet for one that never fires."""
        if record["dead"]:
            self._dead.append(record["feature_id"])
            return ""
        return feature_text(record)

    def tail(self) -> str:
        """The features that never fire."""
        listed = textwrap.fill(" ".join(map(str, self._dead)) or "none", _WIDTH)
        return f"Features that never fire ({len(self._dead)})\n{listed}\n"
