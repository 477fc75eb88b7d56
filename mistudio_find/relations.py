"""How the features of an SAE relate: to each other by direction and by firing, to a map, to the model's tokens.

`relations` is the one entry; each part stands in a file of its own (weights, coactivation, layout, logits).
Weights that cannot be read cost what rests on them and nothing else: the log says why. F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio_core.errors import MistudioError
from mistudio_find import coactivation, weights
from mistudio_find.corpus_index import Array
from mistudio_find.layout import NEIGHBOURS, lay_out
from mistudio_find.logits import Logits, logit_effects
from mistudio_find.products import one_thread_each
from mistudio_find.render import number
from mistudio_find.unembedding import open_unembedding
from mistudio_find.weights import Decoder, Nearest, PathGetter
from mistudio_torch.codes import CodesReader

KEPT = 10
"""Neighbours kept a feature, of each kind."""
# Shares of the work at which its parts end.
_FIRING, _DIRECTIONS, _MAP = 0.2, 0.55, 0.65


@dataclass(frozen=True, kw_only=True, slots=True)
class Relations:
    """What was found, as arrays over features."""

    by_activation: Nearest
    """(F, KEPT): the features that fire on the same tokens, by cosine of activations over a sample of tokens."""
    decoder_norms: Array | None
    """float64 (F,): lengths of the decoder's directions; None where it cannot be read."""
    by_decoder: Nearest | None
    """(F, KEPT): the features with the most similar directions, by cosine."""
    map_F2: Array | None
    """float64 (F, 2): places on the map, 0 to 1."""
    logits: Logits | None
    """Effects on tokens; None where the model has none."""

    def of(self, feature: int) -> dict[str, Any]:
        """The part of a feature's record: keys and meanings of mistudio.feature.v1.Feature."""
        record: dict[str, Any] = {}
        if self.by_decoder is not None and self.map_F2 is not None:
            record["nearest_by_decoder"] = _neighbours(self.by_decoder, feature)
        record["nearest_by_activation"] = _neighbours(self.by_activation, feature)
        if self.map_F2 is not None:
            record["map_x"], record["map_y"] = (number(place) for place in self.map_F2[feature].tolist())
        return record | (self.logits.of(feature) if self.logits is not None else {})


def _neighbours(nearest: Nearest, feature: int) -> list[dict[str, Any]]:
    pairs = zip(nearest.ids_FK[feature].tolist(), nearest.values_FK[feature].tolist(), strict=True)
    return [{"feature_id": other, "similarity": number(value)} for other, value in pairs if other >= 0]


def relations(
    codes: CodesReader,
    sae: Callable[[], PathGetter],
    *,
    model_root: Path | None,
    seed: int,
    parts: int,
    tick: Callable[[float], None],
    log: Callable[[str], None],
) -> Relations:
    """Everything at once; `sae` opens the artifact of the SAE, `parts` are threads, `tick` takes the share done.

    Raises Corrupt only for the codes; what `tick` raises passes.
    """
    documents = coactivation.sample_of(codes, seed)
    firing = coactivation.on_documents(codes, documents, lambda share: tick(_FIRING * share / 2))
    by_activation = coactivation.most_alike(firing, firing, KEPT, parts, centred=False)
    tick(_FIRING)
    decoder = _decoder(codes, sae, log)
    if decoder is None:
        return Relations(by_activation=by_activation, decoder_norms=None, by_decoder=None, map_F2=None, logits=None)
    with one_thread_each():
        near = weights.nearest_directions(
            decoder, NEIGHBOURS, lambda s: tick(_FIRING + (_DIRECTIONS - _FIRING) * s), parts=parts
        )
        places = lay_out(decoder, near, seed=seed, tick=lambda s: tick(_DIRECTIONS + (_MAP - _DIRECTIONS) * s))
        logits = _logits(codes, decoder, model_root, lambda s: tick(_MAP + (1 - _MAP) * s), log, parts)
    return Relations(
        by_activation=by_activation,
        decoder_norms=decoder.norms_F,
        by_decoder=near.first(KEPT),
        map_F2=places,
        logits=logits,
    )


def _decoder(codes: CodesReader, sae: Callable[[], PathGetter], log: Callable[[str], None]) -> Decoder | None:
    """The decoder of the SAE whose codes these are; None, with the reason in the log, where there is none."""
    try:
        decoder = weights.open_decoder(sae())
    except (MistudioError, OSError, KeyError) as error:
        why = error.message if isinstance(error, MistudioError) else f"The SAE cannot be opened ({error})."
        log(f"{why} Features have no neighbours by direction, no map and no tokens.")
        return None
    if decoder.shape[0] != codes.d_sae:
        log(
            f"The SAE has {decoder.shape[0]} features and the codes have {codes.d_sae}: they do not belong together. "
            "Features have no neighbours by direction, no map and no tokens."
        )
        return None
    return decoder


def _logits(
    codes: CodesReader,
    decoder: Decoder,
    model_root: Path | None,
    tick: Callable[[float], None],
    log: Callable[[str], None],
    parts: int,
) -> Logits | None:
    """Effects on tokens; None, with the reason in the log, where the model has none that can be read."""
    name = decoder.model_name or str(codes.meta.get("model_name", ""))
    hook = decoder.hook_out
    revision = str(codes.meta.get("model_revision", ""))
    try:
        head = open_unembedding(name, hook, decoder.shape[1], model_root=model_root, revision=revision)
        return logit_effects(decoder, head, tick, parts=parts)
    except MistudioError as error:
        log(error.message)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log(f"The files of {name} cannot be read for promoted tokens ({type(error).__name__}). They are left out.")
    return None
