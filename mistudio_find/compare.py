"""Compares two analyses: which features match, what changed of them, what appeared and what vanished.

`compare` is the one domain entry and writes the rows of a comparison; `ComparisonRows` reads them back. Owns what
can be compared with what and what counts as a change (docs/metrics.md); likeness and pairing stand in other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.errors import Corrupt, Unsupported
from mistudio_find import weights
from mistudio_find.aligning import FEWEST_TOKENS, align
from mistudio_find.coactivation import most_alike
from mistudio_find.comparison_rows import Brief, write_rows
from mistudio_find.corpus_index import Array
from mistudio_find.matching import CANDIDATES, Matches, match, same_index
from mistudio_find.pages import PathGetter as FeaturesGetter
from mistudio_find.weights import Decoder, PathGetter
from mistudio_torch.codes import CodesReader

VERSION = "compare/1"
"""Of the rules here: a comparison that was made by others is made again."""
IDENTITY, DECODER, ACTIVATION = "identity", "decoder", "activation"
"""Short names of mistudio.find.v1.MatchMethod."""
LEAST = {IDENTITY: 0.0, DECODER: 0.7, ACTIVATION: 0.5}
"""Least similarity of a match unless the caller says otherwise; 0.7 as in Paulo and Belrose 2025."""
_SEED = 0
_ONE_CORPUS = (
    "Analyse both SAEs on one corpus, for example `mistudio find --sae-uri URI --model MODEL --corpus CORPUS` with the "
    "URI of an sae artifact, and compare those analyses."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two analyses."""

    job_id: str
    """Its job."""
    features: FeaturesGetter
    """Its evidence."""
    sae: PathGetter | None
    """The SAE; None where it is gone."""
    codes: PathGetter | None
    """The activations; None where they are gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How two analyses are to be compared."""

    method: str = ""
    """identity, decoder or activation; empty for the first that can be used."""
    min_similarity: float | None = None
    """Least similarity of a match; None for the method's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A comparison as a whole; fields as in mistudio.find.v1.Comparison."""

    method: str
    note: str
    min_similarity: float
    live_features: int
    other_live_features: int
    matched: int
    mutual: int
    appeared: int
    vanished: int
    changed: int
    changes: dict[str, int]
    mean_similarity: float
    shared_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    method: str
    note: str
    matches: Matches
    shared_tokens: int = 0


def compare(one: Side, two: Side, wanted: Wanted, out: Path, parts: int) -> Summary:
    """Compares, writes the rows to `out` and says what came out.

    Raises Unsupported, with what to do instead, where the two cannot be compared in the way that is wanted;
    Corrupt, DiskFull.
    """
    briefs = Brief.read(one.features), Brief.read(two.features)
    found = _matched(one, two, wanted, briefs, parts)
    rows = write_rows(out, found.matches, *briefs)
    matches = found.matches
    return Summary(
        method=found.method,
        note=found.note[:1000],
        min_similarity=_least(wanted, found.method),
        live_features=int(briefs[0].live.sum()),
        other_live_features=int(briefs[1].live.sum()),
        matched=len(matches.one),
        mutual=int(matches.mutual.sum()),
        appeared=rows.appeared,
        vanished=rows.vanished,
        changed=rows.changed,
        changes=rows.changes,
        mean_similarity=round(float(matches.similarity.mean()), 6) if len(matches.one) else 0.0,
        shared_tokens=found.shared_tokens,
    )


def _least(wanted: Wanted, method: str) -> float:
    return LEAST[method] if wanted.min_similarity is None else wanted.min_similarity


def _matched(one: Side, two: Side, wanted: Wanted, briefs: tuple[Brief, Brief], parts: int) -> _Found:
    """By the method that is wanted, or the first that can be used."""
    live = briefs[0].live, briefs[1].live
    if wanted.method in ("", IDENTITY):
        if briefs[0].sae_sha256 and briefs[0].sae_sha256 == briefs[1].sae_sha256:
            return _Found(method=IDENTITY, note="Both are of the same SAE.", matches=same_index(*live))
        if wanted.method:
            raise _refused(one, two, wanted.method, "they are of different SAEs", "Leave method out, or use decoder.")
    if wanted.method in ("", DECODER):
        decoders = _decoders(one, two)
        why = decoders if isinstance(decoders, str) else _why_apart(*decoders)
        if not why and not isinstance(decoders, str):
            near = weights.nearest_across(*decoders, CANDIDATES)
            found = match(*near, *live, _least(wanted, DECODER))
            return _Found(method=DECODER, note="Both read and write the same hook of the same model.", matches=found)
        if wanted.method:
            raise _refused(one, two, wanted.method, why, f"Use activation. {_ONE_CORPUS}")
        return _by_activation(one, two, wanted, live, parts, f"By activation, because {why}.")
    return _by_activation(one, two, wanted, live, parts, "")


def _decoders(one: Side, two: Side) -> tuple[Decoder, Decoder] | str:
    """Both decoders, or why not in words."""
    if one.sae is None or two.sae is None:
        return "an SAE of them is gone"
    try:
        return weights.open_decoder(one.sae), weights.open_decoder(two.sae)
    except (Corrupt, Unsupported) as error:
        return f"a decoder cannot be read ({error.message})"


def _why_apart(one: Decoder, two: Decoder) -> str:
    return weights.shared_space(_place(one), _place(two))


def _place(decoder: Decoder) -> Mapping[str, Any]:
    return {
        "model_name": decoder.model_name,
        "hook_in": decoder.hook_in,
        "hook_out": decoder.hook_out,
        "width": decoder.shape[1],
    }


def _by_activation(one: Side, two: Side, wanted: Wanted, live: tuple[Array, Array], parts: int, note: str) -> _Found:
    """By correlation on the texts that both hold. Raises Unsupported."""
    if one.codes is None or two.codes is None:
        gone = one.job_id if one.codes is None else two.job_id
        raise _refused(one, two, ACTIVATION, f"the activations behind {gone} are gone", "Run its job again.")
    codes = CodesReader(one.codes), CodesReader(two.codes)
    corpora = [str(c.meta.get("corpus_sha256", "")) for c in codes]
    if not corpora[0] or corpora[0] != corpora[1]:
        names = " and ".join(str(c.meta.get("corpus_name", "unknown")) for c in codes)
        why = f"they were analysed on different corpora ({names})"
        raise _refused(one, two, ACTIVATION, f"{why}. {note}" if note else why, _ONE_CORPUS)
    aligned = align(*codes, _SEED)
    if aligned.tokens < FEWEST_TOKENS:
        why = f"they share {aligned.tokens:,} tokens of the corpus, fewer than {FEWEST_TOKENS:,}"
        raise _refused(one, two, ACTIVATION, why, "Analyse more of the corpus: raise max_tokens or max_code_tokens.")
    to_two = most_alike(aligned.one, aligned.two, CANDIDATES, parts, centred=True)
    to_one = most_alike(aligned.two, aligned.one, CANDIDATES, parts, centred=True)
    way = "characters, as their tokens differ" if aligned.by_characters else "tokens"
    note = f"{note} Aligned by {way}, on {aligned.documents:,} shared documents.".strip()
    found = match(to_two, to_one, *live, _least(wanted, ACTIVATION))
    return _Found(method=ACTIVATION, note=note, matches=found, shared_tokens=aligned.tokens)


def _refused(one: Side, two: Side, method: str, why: str, instead: str) -> Unsupported:
    return Unsupported(f"comparing {one.job_id} with {two.job_id} by {method}", why=why.rstrip("."), instead=instead)
