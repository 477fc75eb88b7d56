"""The lexical engine: explains without a model, from words alone, and says so.

Names the words, signs or form of the tokens it fires on, the words around them that other texts lack,
and where in a text they stand. Deterministic. The baseline that models must beat. See telling.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mistudio_core import clock
from mistudio_core.corpus.words import words
from mistudio_explain.engines.telling import MOST_QUOTED, Candidate, candidates, choose
from mistudio_explain.evidence import FeatureEvidence, TopText
from mistudio_explain.explainer import Draft
from mistudio_explain.judging.reading import known_stem, shapes

LEXICAL_MODEL = "lexical/2"
"""Model name and version of the engine."""
_MAIN_SHARE, _SHAPE_SHARE, _DRIVES = 0.5, 0.6, 0.02
_EDGE_TOKENS, _EDGE_SHARE = 5, 0.7
_MOST_FORMS, _MOST_PARTS = 2, 3
_LONGEST_QUOTE = 40


class LexicalExplainer:
    """An Explainer from evidence alone; never fails."""

    name = "lexical"
    kind = "lexical"
    model = LEXICAL_MODEL

    async def check(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Holds nothing."""

    async def explain(self, evidence: FeatureEvidence, *, strategy: str, seed: int) -> Draft:
        """See Explainer; strategy and seed change nothing."""
        began = clock.monotonic()
        peaks = peak_words(evidence.top)
        main = _main_word(peaks, len(evidence.top))
        chosen = choose(candidates(evidence), first=(main,) if main else ())
        quoted, listed = chosen[:MOST_QUOTED], chosen[MOST_QUOTED:]
        driving = [c for c in quoted if c.key == main or c.driving >= _DRIVES]
        around = [c for c in quoted if c not in driving]
        subject, said = _subject(evidence, main, driving, around)
        sentences = [subject, _surroundings(evidence, peaks, around if said else []), _caveat(evidence)]
        return Draft(
            explanation=" ".join(s for s in sentences if s),
            keywords=tuple(dict.fromkeys(c.text[:_LONGEST_QUOTE] for c in (*quoted, *listed))),
            engine=self.name,
            model=self.model,
            latency_seconds=clock.monotonic() - began,
        )


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


def _main_word(peaks: Sequence[tuple[str, str]], total: int) -> str:
    """The stem of the word under half of the strongest tokens; empty where there is none."""
    counted = Counter(known_stem(under) for under, _ in peaks if under).most_common(1)
    return counted[0][0] if counted and counted[0][1] >= _MAIN_SHARE * total else ""


def _subject(
    evidence: FeatureEvidence, main: str, driving: Sequence[Candidate], around: Sequence[Candidate]
) -> tuple[str, bool]:
    """(first sentence, whether the words around are still to be named): on what it fires."""
    tokens = strongest_tokens(evidence.top)
    shape = "" if main else _shape(tokens)
    if shape:
        return f"Fires on {shape}{', above all ' + _quoted(driving) if driving else ''}.", True
    lead = next((c for c in driving if c.key == main), None)
    if lead is not None:
        also = [c for c in driving if c is not lead]
        forms = [f for f in lead.forms if f != lead.text][:_MOST_FORMS]
        rest = f" and its form{'s' * (len(forms) > 1)} {_listed(forms)}" if forms else ""
        return f"Fires on the word {_quoted([lead])}{rest}{', and on ' + _quoted(also) if also else ''}.", True
    part = _part(tokens, evidence.top)
    if part:
        return part, True
    if driving:
        words_, signs = [c for c in driving if not c.is_sign], [c for c in driving if c.is_sign]
        named = [f"the word{'s' * (len(words_) > 1)} {_quoted(words_)}"] if words_ else []
        named += [f"the sign{'s' * (len(signs) > 1)} {_quoted(signs)}"] if signs else []
        return f"Fires on {' and on '.join(named)}.", True
    if around:
        return f"Fires in texts about {_quoted(around)}.", False
    return "Fires on tokens that share no word.", False


def _part(tokens: Sequence[str], top: Sequence[TopText]) -> str:
    """A sentence about the word part that half of the strongest tokens are; empty where there is none."""
    piece, count = Counter(t.casefold() for t in tokens).most_common(1)[0] if tokens else ("", 0)
    if not piece.isalnum() or count < _MAIN_SHARE * len(tokens):
        return ""
    inside = list(dict.fromkeys(u for u, _ in peak_words(top) if piece in u and u != piece))[:_MOST_PARTS]
    return f"Fires on the word part {_listed([piece])}" + (f", as in {_listed(inside)}." if inside else ".")


def _shape(tokens: Sequence[str]) -> str:
    """The form of writing that six in ten of the strongest tokens share, as shapes.v1.json calls it; else empty."""
    shown = [t for t in tokens if t]
    for shape in shapes():
        if shape.token and sum(bool(shape.token.fullmatch(t)) for t in shown) >= _SHAPE_SHARE * max(1, len(shown)):
            return shape.name
    return ""


def _surroundings(evidence: FeatureEvidence, peaks: Sequence[tuple[str, str]], around: Sequence[Candidate]) -> str:
    """Second sentence: the words around it, what comes before, and where in the text it stands."""
    parts = []
    if around:
        stand = "the words" if len(around) > 1 else "the word"
        verb = "stand" if len(around) > 1 else "stands"
        parts.append(f"{stand} {_quoted(around)} {verb} around it more often than in other texts")
    before = _word_before(peaks)
    if before:
        parts.append(f"it mostly follows {_listed([before])}")
    place = _place(evidence.top)
    if place:
        parts.append(f"it mostly stands near the {place} of a text")
    sentence = ", and ".join(parts)
    return sentence[:1].upper() + sentence[1:] + "." if parts else ""


def _word_before(peaks: Sequence[tuple[str, str]]) -> str:
    """The word before the strongest token's word, where half of the top texts share it."""
    before = Counter(word for _, word in peaks if word)
    word, count = before.most_common(1)[0] if before else ("", 0)
    return word if count >= _MAIN_SHARE * len(peaks) else ""


def _place(top: Sequence[TopText]) -> str:
    """Start or end, where seven in ten top texts of some length have it there; else empty."""
    long = [t for t in top if t.document_tokens > 4 * _EDGE_TOKENS]
    if len(long) < 3:
        return ""
    start = sum(t.position < _EDGE_TOKENS for t in long)
    end = sum(t.document_tokens - t.position <= _EDGE_TOKENS for t in long)
    return "start" if start >= _EDGE_SHARE * len(long) else "end" if end >= _EDGE_SHARE * len(long) else ""


def _caveat(evidence: FeatureEvidence) -> str:
    """Last sentence: how clear and how frequent."""
    percent = 100 * float(evidence.statistics.get("frequency", 0.0))
    often = f"on {percent:.2g} % of all tokens" if percent >= 0.01 else "on fewer than one token in ten thousand"
    clear = {"excellent": "clear", "good": "mostly clear", "fair": "only partly clear"}.get(
        evidence.quality_level, "unclear"
    )
    return f"The pattern is {clear}; the feature is active {often}."


def _quoted(found: Sequence[Candidate]) -> str:
    return _listed([c.text for c in found])


def _listed(found: Sequence[str]) -> str:
    """Words between quotes as people list them; what holds a quote itself is named instead."""
    shown = list(dict.fromkeys("quotation marks" if '"' in w else f'"{w[:_LONGEST_QUOTE]}"' for w in found))
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}" if shown else ""
