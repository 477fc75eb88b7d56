"""A compiled loop over ranked peaks and what documents carry: how far a feature tells each value apart.

Names as in figures.py; V values of one column, value_D the value of each document.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from mistudio_find.corpus_index import Array
from mistudio_torch.compiled import compiled, inlined


@inlined
def _compared(ranks: float, having: float, total: float, ties: float) -> Any:  # pragma: no cover  (compiled)
    """(AUROC, z) of the documents that carry a value, from the sum of their ranks."""
    others = total - having
    wins = ranks - having * (having + 1) / 2
    spread = having * others / 12 * (total + 1 - ties / (total * max(1.0, total - 1.0)))
    return wins / (having * others), ((wins - having * others / 2) / np.sqrt(spread) if spread > 0 else 0.0)


@compiled
def associate(
    offsets_C: Array,
    bits_N: Array,
    doc_N: Array,
    peaks_C2: Array,
    peak_N: Array,
    value_D: Array,
    documents_V: Array,
    auroc_CV: Array,
    z_CV: Array,
    fires_CV: Array,
    parts: int,
) -> None:  # pragma: no cover  (compiled)
    """AUROC of the documents' peaks for each value against all others, its z-score, and firing documents with it.

    Mann-Whitney with mid-ranks (Mann and Whitney 1947), the documents without the feature tied at 0; the
    variance is corrected for ties.
    """
    total = len(value_D)
    for part in prange(parts):
        ranks = np.zeros(len(documents_V), np.float64)
        for f in range(part, len(peaks_C2), parts):
            one, one_end = offsets_C[f], offsets_C[f] + peaks_C2[f, 0]
            other, other_end = one_end, one_end + peaks_C2[f, 1]
            ranks[:] = 0.0
            silent = total - peaks_C2[f, 0] - peaks_C2[f, 1]
            ties = float(silent) * silent * silent - silent
            ranked = 0
            while one < one_end or other < other_end:
                bits = np.uint16(0)
                if one < one_end:
                    bits = bits_N[peak_N[one]]
                if other < other_end:
                    bits = max(bits, bits_N[peak_N[other]])
                first, second = one, other
                while one < one_end and bits_N[peak_N[one]] == bits:
                    one += 1
                while other < other_end and bits_N[peak_N[other]] == bits:
                    other += 1
                same = one - first + other - second
                middle = total - 0.5 * (2 * ranked + same - 1)
                ties += float(same) * same * same - same
                ranked += same
                for k in range(first, one):
                    value = value_D[doc_N[peak_N[k]]]
                    ranks[value] += middle
                    fires_CV[f, value] += 1
                for k in range(second, other):
                    value = value_D[doc_N[peak_N[k]]]
                    ranks[value] += middle
                    fires_CV[f, value] += 1
            for v in range(len(documents_V)):
                ranks[v] += (documents_V[v] - fires_CV[f, v]) * (silent + 1) / 2
                if 0 < documents_V[v] < total:
                    auroc_CV[f, v], z_CV[f, v] = _compared(ranks[v], float(documents_V[v]), float(total), ties)
