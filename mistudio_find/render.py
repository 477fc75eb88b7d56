"""Cuts texts out of documents: a window around a token with its tokens and activations, as JSON values.

Owns text and its safety (valid Unicode, bounded lengths), not which tokens are picked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.evidence import Picks
from mistudio_torch.codes import CodesReader, FeatureCodes

# Windows of silent texts are drawn from a few thousand and come again and again.
_WINDOWS_KEPT = 4096
_MAX_TEXT, _MAX_TOKEN, _MAX_CONTEXT = 20_000, 1000, 1000


class _Document(NamedTuple):
    """A document ready to be cut."""

    text: str
    start: int
    cuts: list[int]
    tokens: list[str]
    label: str


def clean(text: str) -> str:
    """The text with lone surrogates replaced: what JSON and UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def number(value: float) -> float:
    """A figure with five significant digits; 0 for what is not finite."""
    return float(f"{value:.5g}") if isfinite(value) else 0.0


def numbers(values: Array) -> Array:
    """float64 (n,): finite positive figures with about five significant digits, like `number`."""
    exact = values.astype(np.float64)
    scale = 10.0 ** (4 - np.floor(np.log10(np.where(exact > 0, exact, 1))))
    rounded: Array = np.round(exact * scale) / scale
    return rounded


class Renderer:
    """Cuts windows out of one codes artifact; keeps 8,192 documents and 4,096 windows at hand."""

    def __init__(self, codes: CodesReader, context: int) -> None:
        """`context` tokens are kept on each side."""
        self._codes = codes
        self._context = context
        self._document = lru_cache(maxsize=8192)(self._read)
        self._cut = lru_cache(maxsize=_WINDOWS_KEPT)(self._read_cut)

    def activations(self, codes: FeatureCodes, picks: Picks) -> list[dict[str, Any]]:
        """`top_activations` entries: the tokens' strings joined are the text; `activations` runs beside them."""
        cuts = [self._cut(doc, token) for doc, token in zip(picks.docs.tolist(), picks.tokens.tolist(), strict=True)]
        bounds = codes.positions.searchsorted(np.array([cut[1:] for cut in cuts], np.int64).reshape(-1, 2))
        counts = bounds[:, 1] - bounds[:, 0]
        at = np.arange(counts.sum()) + np.repeat(bounds[:, 0] - np.cumsum(counts) + counts, counts)
        firing = zip(codes.positions[at].tolist(), numbers(codes.values[at]).tolist(), strict=True)
        places = zip(cuts, picks.docs.tolist(), picks.tokens.tolist(), counts.tolist(), strict=True)
        return [self._activation(cut, doc, token, islice(firing, count)) for cut, doc, token, count in places]

    def texts(self, docs: Sequence[int], tokens: Sequence[int]) -> list[str]:
        """Only the text of the windows around these tokens."""
        return [self._cut(doc, token)[0] for doc, token in zip(docs, tokens, strict=True)]

    def token(self, token: int) -> str:
        """The text of one token."""
        doc = int(self._codes.document_of(np.array([token]))[0])
        document = self._document(doc)
        return document.tokens[token - document.start]

    def _activation(
        self, cut: tuple[str, int, int], doc: int, token: int, firing: Iterable[tuple[int, float]]
    ) -> dict[str, Any]:
        text, low, high = cut
        activations: list[float] = [0] * (high - low)
        for position, strength in firing:
            activations[position - low] = strength
        document = self._document(doc)
        return {
            "text": text,
            "activation_strength": activations[token - low],
            "context": document.label,
            "tokens": document.tokens[low - document.start : high - document.start],
            "activations": activations,
            "document": doc,
            "position": token - document.start,
            "document_tokens": len(document.tokens),
        }

    def _read_cut(self, doc: int, token: int) -> tuple[str, int, int]:
        """(text, first token, token after the last) of the window around a token."""
        document = self._document(doc)
        at = token - document.start
        low, high = max(0, at - self._context), min(len(document.tokens), at + self._context + 1)
        text = document.text[document.cuts[low] : document.cuts[high]][:_MAX_TEXT]
        return text, document.start + low, document.start + high

    def _read(self, doc: int) -> _Document:
        text, spans = self._codes.text(doc), self._codes.spans(doc)
        # Each token takes the gap before it, so that the tokens joined are the text.
        ends = np.maximum.accumulate(spans[:, 1]) if len(spans) else np.zeros(0, np.int32)
        first = int(spans[0, 0]) if len(spans) else 0
        cuts = np.minimum(np.r_[first, np.maximum(ends, first)], len(text)).tolist()
        label = clean(self._codes.label(doc))[:_MAX_CONTEXT]
        text = clean(text)
        tokens = [text[a:b][:_MAX_TOKEN] for a, b in pairwise(cuts)]
        return _Document(text, self._codes.doc_tokens(doc)[0], cuts, tokens, label)
