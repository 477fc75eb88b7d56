"""Why the strongest places that contestants name for a feature differ: every difference gets a reason, or counts.

Each contestant has its rule of what stands in its list. The rule is applied here, in plain numpy, to every
activation that we stored, and what comes out is compared with the list; then our list is compared with theirs.
C contexts of L tokens, F features. A place is (context, position, activation).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import evidence
from benchmarks.peers.common import Array
from mistudio_core.corpus.splits import is_judge
from mistudio_core.corpus.words import words

Place = tuple[int, int, float]
"""Context, position, activation."""
TOLERANCE = 2e-3
"""Relative difference up to which activations are equal: kept in half precision, from two programs' float32."""
WINDOW = 32
"""delphi's example length: it keeps the strongest token of every run of so many."""
EDGES = 6, 5
"""Tokens at the beginning and at the end of a context that SAEDashboard's default buffer leaves out."""
REACH = 5
"""Words on each side that decide whether two places are copies of each other."""

JUDGED = "its document is kept back to judge explanations"
ANOTHER = "another token of its document is stronger"
COPY = "the words around it are those of a stronger place"
WEAKER = "others come first: the list is full of stronger places"
EDGE = "it is nearer to the edge of its context than the buffer"
UNEXPLAINED = "not explained"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Every activation that we stored, and what decides about documents."""

    values_CLF: Array
    """float: 0 where it does not fire."""
    judge_C: Array
    """bool: kept back."""
    around: Mapping[tuple[int, int], tuple[str, ...]] | None = None
    """Words around places; None: nothing is a copy."""
    context_words: Sequence[tuple[list[str], Array]] = ()
    """(words, int64 (L,) the word at each token) of each context."""

    def surroundings(self, context: int, position: int) -> tuple[str, ...]:
        """The words within REACH of a token's word."""
        if self.around is not None:
            return self.around.get((context, position), (str(context), str(position)))
        found, at_L = self.context_words[context]
        at = int(at_L[position])
        return tuple(found[max(0, at - REACH) : at + REACH + 1])


def load(data: Path, model: Path, stored: Path) -> Stored:
    """From the data folder and the file that our script wrote."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in (data / evidence.CORPUS_FILE).read_text().splitlines()]
    shape = evidence.tokens(data).shape
    context_words = []
    for text in texts:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        found = list(words(text))
        last = np.array([max(start, end - 1) for start, end in spans])
        at = np.searchsorted(np.array([start for _, start, _ in found]), last, side="right") - 1
        context_words.append(([word for word, _, _ in found], np.maximum(at, 0)))
    values = np.load(stored, allow_pickle=False)
    return Stored(
        values_CLF=values.reshape(*shape, -1),
        judge_C=np.array([is_judge(text) for text in texts]),
        context_words=context_words,
    )


def strongest(values_CL: Array, count: int = evidence.PLACES) -> list[Place]:
    """The largest activations above 0, first in order among equal ones."""
    flat = values_CL.reshape(-1)
    order = np.argsort(-flat, kind="stable")[:count]
    width = values_CL.shape[1]
    return [(int(at) // width, int(at) % width, float(flat[at])) for at in order if flat[at] > 0]


def by_delphi(stored: Stored, feature: int) -> list[Place]:
    """The strongest token of each window of WINDOW tokens."""
    values_CL = stored.values_CLF[..., feature]
    windows = values_CL.reshape(-1, WINDOW)
    kept, rows = np.zeros_like(windows), np.arange(len(windows))
    kept[rows, windows.argmax(axis=1)] = windows.max(axis=1)
    return strongest(kept.reshape(values_CL.shape))


def by_saedashboard(stored: Stored, feature: int) -> list[Place]:
    """The strongest tokens that are not at the edges."""
    values_CL = stored.values_CLF[..., feature].copy()
    values_CL[:, : EDGES[0]] = values_CL[:, values_CL.shape[1] - EDGES[1] :] = 0
    return strongest(values_CL)


def by_us(stored: Stored, feature: int) -> list[Place]:
    """The strongest token of each document that is not kept back, without copies."""
    values_CL = stored.values_CLF[..., feature]
    peaks = np.zeros_like(values_CL)
    at_C = values_CL.argmax(axis=1)
    rows = np.flatnonzero(~stored.judge_C)
    peaks[rows, at_C[rows]] = values_CL[rows, at_C[rows]]
    found: list[Place] = []
    seen: set[tuple[str, ...]] = set()
    for place in strongest(peaks, len(values_CL)):
        around = stored.surroundings(place[0], place[1])
        if around not in seen:
            seen.add(around)
            found.append(place)
    return found[: evidence.PLACES]


RULES = {"miStudio": by_us, "delphi": by_delphi, "SAEDashboard": by_saedashboard}
"""What stands in each contestant's list."""


def follows_rule(given: Sequence[Place], wanted: Sequence[Place]) -> str:
    """`same`, `tie` where what differs is as strong as the end of the list or an equal place, else `different`."""
    if [place[:2] for place in given] == [place[:2] for place in wanted]:
        return "same"
    if len(given) != len(wanted):
        return "different"
    pairs = zip(sorted(given, key=lambda p: -p[2]), sorted(wanted, key=lambda p: -p[2]), strict=True)
    # Equal activations rank by rank: then what differs is the order or the choice among equals.
    return "tie" if all(near(a[2], b[2]) for a, b in pairs) else "different"


def near(a: float, b: float) -> bool:
    """Whether two activations are equal but for rounding."""
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def value_error(given: Sequence[Place], stored: Stored, feature: int) -> float:
    """Largest relative difference of the activations given to those that we stored at the same places."""
    errors = [abs(v - float(stored.values_CLF[c, p, feature])) / v for c, p, v in given]
    return max(errors, default=0.0)


def why_not_ours(place: Place, ours: Sequence[Place], stored: Stored, feature: int) -> str:
    """Why a place of another list is not in ours."""
    context, position, value = place
    if stored.judge_C[context]:
        return JUDGED
    values_L = stored.values_CLF[context, :, feature]
    if values_L.max() > values_L[position] or int(values_L.argmax()) != position:
        return ANOTHER
    around = stored.surroundings(context, position)
    if any(stored.surroundings(c, p) == around for c, p, _ in ours):
        return COPY
    full = len(ours) == evidence.PLACES and value <= ours[-1][2] * (1 + TOLERANCE)
    return WEAKER if full else UNEXPLAINED


def why_not_theirs(place: Place, theirs: Sequence[Place], peer: str, length: int) -> str:
    """Why a place of ours is not in the list of another."""
    if peer == "SAEDashboard" and not EDGES[0] <= place[1] < length - EDGES[1]:
        return EDGE
    full = len(theirs) == evidence.PLACES and place[2] <= theirs[-1][2] * (1 + TOLERANCE)
    return WEAKER if full else UNEXPLAINED


def own(name: str, places: Mapping[int, Sequence[Place]], stored: Stored) -> dict[str, Any]:
    """How one contestant's lists stand to its own rule and to our activations."""
    verdicts = Counter(follows_rule(found, RULES[name](stored, feature)) for feature, found in places.items())
    errors = [value_error(found, stored, feature) for feature, found in places.items()]
    return {
        "features": len(places),
        **{verdict: verdicts[verdict] for verdict in ("same", "tie", "different")},
        "largest_value_error": round(max(errors, default=0.0), 6),
    }


def between(
    peer: str, theirs: Mapping[int, Sequence[Place]], ours: Mapping[int, Sequence[Place]], stored: Stored
) -> dict[str, Any]:
    """Our lists beside another's, over the features that both name."""
    both = sorted(set(ours) & set(theirs))
    not_ours: Counter[str] = Counter()
    not_theirs: Counter[str] = Counter()
    common = total = 0
    for feature in both:
        mine, other = ours[feature], theirs[feature]
        at_mine, at_other = {p[:2] for p in mine}, {p[:2] for p in other}
        common, total = common + len(at_mine & at_other), total + len(at_mine)
        not_ours.update(why_not_ours(p, mine, stored, feature) for p in other if p[:2] not in at_mine)
        length = stored.values_CLF.shape[1]
        not_theirs.update(why_not_theirs(p, other, peer, length) for p in mine if p[:2] not in at_other)
    return {
        "features": len(both),
        "only_ours": len(set(ours) - set(theirs)),
        "only_theirs": len(set(theirs) - set(ours)),
        "share_in_common": round(common / max(1, total), 4),
        "theirs_not_ours": dict(not_ours.most_common()),
        "ours_not_theirs": dict(not_theirs.most_common()),
        "unexplained": not_ours[UNEXPLAINED] + not_theirs[UNEXPLAINED],
    }
