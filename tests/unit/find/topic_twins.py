"""Readable twins of the compiled kernels of the topic space and of coherence."""

from __future__ import annotations

import numpy as np


def multiply(first, column, value, dense):
    out = np.zeros((len(first) - 1, dense.shape[1]))
    for row in range(len(out)):
        for at in range(first[row], first[row + 1]):
            out[row] += value[at] * dense[column[at]]
    return out


def sum_contexts(words, docs, word_ids, doc_words, stems, vectors, reach, opening, weights, centre):
    out = np.zeros((len(words), vectors.shape[1]))
    for n, (word, doc) in enumerate(zip(words, docs, strict=True)):
        for at in range(doc_words[doc], doc_words[doc + 1]):
            weight = weights[0] * (abs(at - word) <= reach) + weights[1] * (at < doc_words[doc] + opening)
            own = stems[word_ids[at]] == stems[word_ids[word]]
            out[n] += weight * (weights[2] if own else 1) * vectors[word_ids[at]]
        for off in (centre, 0 * centre):
            norm = np.linalg.norm(out[n])
            if norm > 0:
                out[n] = out[n] / norm - off
    return out


def mean_likeness(first, last, vectors, keys, weights, how):
    share, least, copy = how
    out = []
    for start, middle, end in zip(first[:-1], last, first[1:], strict=True):
        texts, after = range(start, middle), range(middle, end)
        pairs = [(i, j) for i in texts for j in texts if i < j]
        across = [vectors[i] @ vectors[j] for i in texts for j in after if vectors[i] @ vectors[j] <= copy]
        topic = np.mean([max(0, vectors[i] @ vectors[j] - least) for i, j in pairs]) if pairs else 0
        if across:
            topic = share * topic + (1 - share) * np.mean([max(0, c - least) for c in across])
        out.append((topic, np.mean([weights[i] * (keys[i] == keys[j]) for i, j in pairs]) if pairs else 0))
    return np.array(out)
