"""The lexical engine: explains without a model, from words alone, and says so.

Names the activating words or the form of the tokens, the words around them that contrast texts
lack, and where in a text they stand. Deterministic. The baseline that models must beat.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mistudio_core import clock
from mistudio_core.corpus.words import stem, words
from mistudio_explain.engines.base import Draft
from mistudio_explain.evidence import FeatureEvidence, TopText
from mistudio_explain.judge import stems

LEXICAL_MODEL = "lexical/1"
"""Model name and version of the engine."""
_MOST_KEYWORDS = 14
_NAMED = 3
_CONTEXT_WORDS = 5
_MAIN_SHARE, _GROUP_SHARE, _LISTED_SHARE = 0.5, 0.45, 0.03
_EDGE_TOKENS = 5
_LONGEST_QUOTE = 40
_SHAPES = (
    ("numbers", re.compile(r"[0-9]+(?:[.,:/-][0-9]+)*")),
    ("punctuation", re.compile(r"[^\w\s]+")),
    ("words in capital letters", re.compile(r"[A-Z][A-Z0-9]+")),
    ("capitalised words", re.compile(r"[A-Z][a-z]+")),
)


class LexicalEngine:
    """Explains from evidence alone; never fails."""

    name = "lexical"
    kind = "lexical"
    model = LEXICAL_MODEL

    async def check(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Holds nothing."""

    async def explain(self, evidence: FeatureEvidence, *, seed: int) -> Draft:
        """See Engine; the seed changes nothing."""
        began = clock.monotonic()
        found = telling_words(evidence)
        groups = driver_groups(evidence)
        subject = _subject(evidence, groups)
        named = {stem(w) for w in re.findall(r'"([^"]+)"', subject)}
        context = [w for w in found if stem(w) not in named][:_CONTEXT_WORDS]
        sentences = [subject, _surroundings(evidence, context), _caveat(evidence)]
        peaks = [w for w, count in Counter(w for w, _ in peak_words(evidence.top)).most_common() if w and count > 1]
        listed = [*peaks[:6], *(w for forms, share in groups if share >= _LISTED_SHARE for w in forms[:2])]
        return Draft(
            explanation=" ".join(s for s in sentences if s),
            keywords=tuple(dict.fromkeys([*listed, *found]))[:_MOST_KEYWORDS],
            engine=self.name,
            model=self.model,
            latency_seconds=clock.monotonic() - began,
        )


def telling_words(evidence: FeatureEvidence) -> list[str]:
    """Find's keywords that stand in top texts clearly more often than in contrast texts, in order."""
    top, contrast = [stems(t.text) for t in evidence.top], [stems(t) for t in evidence.contrast]

    def share(key: str, texts: Sequence[frozenset[str]]) -> float:
        return sum(key in t for t in texts) / max(1, len(texts))

    return [w for w in evidence.keywords if share(stem(w), top) > 1.5 * share(stem(w), contrast) + 0.02]


def driver_groups(evidence: FeatureEvidence) -> list[tuple[list[str], float]]:
    """(forms of one stem, share of all activation), strongest first; positions in no word left out."""
    groups: dict[str, tuple[list[str], float]] = {}
    for word, share in evidence.drivers:
        if word:
            forms, sum_ = groups.get(stem(word), ([], 0.0))
            groups[stem(word)] = ([*forms, word], sum_ + share)
    return sorted(groups.values(), key=lambda g: -g[1])


def strongest_tokens(top: Sequence[TopText]) -> list[str]:
    """The strongest token of every top text, without the space around it."""
    return [t.tokens[max(range(len(t.tokens)), key=t.activations.__getitem__)].strip() for t in top if t.tokens]


def peak_words(top: Sequence[TopText]) -> list[tuple[str, str]]:
    """(word under the strongest token, word before it) of every top text; empty where there is none."""
    out = []
    for text in top:
        peak = max(range(len(text.tokens)), key=text.activations.__getitem__, default=0)
        # The last character: a token may begin with the space before its word.
        last = len("".join(text.tokens[: peak + 1])) - 1
        before = under = ""
        for word, start, end in words(text.text):
            if start > last:
                break
            before, under = (before, word) if last < end else (word, under)
        out.append((under, before))
    return out


def _subject(evidence: FeatureEvidence, groups: Sequence[tuple[list[str], float]]) -> str:
    """First sentence: on what it fires."""
    tokens = strongest_tokens(evidence.top)
    peaks = Counter(stem(under) for under, _ in peak_words(evidence.top) if under)
    main = peaks.most_common(1)[0] if peaks else ("", 0)
    by_stem = {stem(forms[0]): forms for forms, _ in groups}
    if main[0] in by_stem and main[1] >= _MAIN_SHARE * len(evidence.top):
        forms = by_stem[main[0]]
        rest = f" and its form{'s' * (len(forms) > 2)} {_quoted(forms[1:4])}" if len(forms) > 1 else ""
        also = [g[0][0] for g in groups if g[1] >= _LISTED_SHARE and g[0] is not forms][: _NAMED - 1]
        return f"Fires on the word {_quoted(forms[:1])}{rest}" + (f", less on {_quoted(also)}." if also else ".")
    shape = _shape(tokens)
    if shape:
        return shape
    if sum(g[1] for g in groups[:_NAMED]) >= _GROUP_SHARE:
        return f"Fires on the words {_quoted([g[0][0] for g in groups[:_NAMED]])}."
    return _part_or_subject(evidence, tokens, [g[0][0] for g in groups[:4]])


def _part_or_subject(evidence: FeatureEvidence, tokens: Sequence[str], examples: Sequence[str]) -> str:
    """The word part that half of the top texts share, else what the texts are about."""
    piece, count = Counter(t.casefold() for t in tokens).most_common(1)[0] if tokens else ("", 0)
    if piece and count >= _MAIN_SHARE * len(tokens):
        inside = list(dict.fromkeys(u for u, _ in peak_words(evidence.top) if piece in u and u != piece))[:4]
        return f"Fires on the word part {_quoted([piece])}" + (f", as in {_quoted(inside)}." if inside else ".")
    about = telling_words(evidence)[:4] or examples
    return f"Fires in texts about {_quoted(about)}." if about else "Fires on tokens that share no word."


def _shape(tokens: Sequence[str]) -> str:
    """A sentence about the form of the strongest tokens, if six in ten share one and no word does."""
    shown = [t for t in tokens if t]
    if not shown or (Counter(shown).most_common(1)[0][1] > _MAIN_SHARE * len(shown) and shown[0].isalpha()):
        return ""
    for name, pattern in _SHAPES:
        matching = [t for t in shown if pattern.fullmatch(t)]
        if len(matching) >= 0.6 * len(shown):
            common = [t for t, _ in Counter(matching).most_common(4)]
            return f"Fires on {name} such as {_quoted(common)}."
    return ""


def _surroundings(evidence: FeatureEvidence, context: Sequence[str]) -> str:
    """Second sentence: the words around it, what comes before, and where in the text it stands."""
    parts = []
    if context:
        parts.append(f"the words {_quoted(context)} stand around it more often than in other texts")
    before = _word_before(evidence.top)
    if before:
        parts.append(f"it mostly follows {_quoted([before])}")
    place = _place(evidence.top)
    if place:
        parts.append(f"it mostly stands near the {place} of a text")
    if not parts:
        return ""
    sentence = ", and ".join(parts)
    return sentence[0].upper() + sentence[1:] + "."


def _word_before(top: Sequence[TopText]) -> str:
    """The word before the strongest token's word, where half of the top texts share it."""
    before = Counter(word for _, word in peak_words(top) if word)
    word, count = before.most_common(1)[0] if before else ("", 0)
    return word if count >= _MAIN_SHARE * len(top) else ""


def _place(top: Sequence[TopText]) -> str:
    """Start or end, where seven in ten top texts of some length have it there; else empty."""
    long = [t for t in top if t.document_tokens > 4 * _EDGE_TOKENS]
    if len(long) < 3:
        return ""
    start = sum(t.position < _EDGE_TOKENS for t in long)
    end = sum(t.document_tokens - t.position <= _EDGE_TOKENS for t in long)
    return "start" if start >= 0.7 * len(long) else "end" if end >= 0.7 * len(long) else ""


def _caveat(evidence: FeatureEvidence) -> str:
    """Last sentence: how clear and how frequent."""
    percent = 100 * float(evidence.statistics.get("frequency", 0.0))
    often = f"on {percent:.2g} % of all tokens" if percent >= 0.01 else "on fewer than one token in ten thousand"
    clear = {"excellent": "clear", "good": "mostly clear", "fair": "only partly clear"}.get(
        evidence.quality_level, "unclear"
    )
    return f"The pattern is {clear}; the feature is active {often}."


def _quoted(found: Sequence[str]) -> str:
    shown = [f'"{w[:_LONGEST_QUOTE]}"' for w in found]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}" if shown else ""
