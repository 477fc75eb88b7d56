"""Tokens on the disk and batches: spans point into the text, padding is masked."""

import numpy as np
import pytest

from mistudio_torch.lm.load import load_lm
from mistudio_torch.tokens import length_buckets, padded, token_batches, tokenize

TEXTS = ["the cat sat", "", "a dog ran on the mat under the big red tree .", "   ", "dog"]


@pytest.fixture(params=("bert", "gpt2"))
def lm(models, request):
    return load_lm(request.param, 1, model_root=models)


def table_of(lm, tmp_path, texts=TEXTS, length=8, **kwargs):
    return tokenize(texts, lm.tokenizer, tmp_path / "t", max_sequence_length=length, bos_id=lm.bos_id, **kwargs)


def test_documents_sequences_and_spans(lm, tmp_path):
    seen = []
    table, kept = table_of(lm, tmp_path, on_batch=seen.append)
    assert kept.tolist() == [0, 2, 4] and table.dropped_documents == 2 and seen == [5]
    assert table.n_documents == 3 and table.real_tokens().tolist() == [3, 12, 1] and table.n_tokens == 16
    assert np.diff(table.sequence_offsets_S).max() <= 8
    for document, number in enumerate(kept):
        words = []
        for first, last in table.sequences([document]):
            assert table.special_T[first]
            for token in range(first, last):
                if not table.special_T[token]:
                    start, end = table.spans_T2[token]
                    words.append(TEXTS[number][start:end])
        assert words == TEXTS[number].split()


def test_nothing_but_blank(lm, tmp_path):
    table, kept = table_of(lm, tmp_path, texts=["", " "])
    assert kept.tolist() == [] and table.n_documents == table.n_tokens == 0 and table.dropped_documents == 2


def test_buckets_hold_every_sequence_once_longest_first():
    sequences = [(0, n) for n in (3, 9, 1, 9, 5)]
    batches = list(length_buckets(sequences, 2))
    assert batches == [[1, 3], [4, 0], [2]]


def test_padding_is_masked(lm, tmp_path):
    table, _ = table_of(lm, tmp_path)
    ids, mask = padded(table, table.sequences([0, 2]), lm.pad_id)
    assert ids.shape == mask.shape and (ids[mask == 0] == lm.pad_id).all()
    assert mask.sum(1).tolist() == [last - first for first, last in table.sequences([0, 2])]


def test_batches_hold_every_sequence_once_within_the_budget():
    lengths = [3, 9, 1, 9, 5, 1, 1]
    assert list(token_batches(lengths, 10)) == [[1], [3], [4, 0], [2, 5, 6]]
    assert list(token_batches(lengths, 4)) == [[1], [3], [4], [0], [2, 5, 6]]
    assert list(token_batches([], 4)) == []


def test_batches_are_full_and_have_little_padding():
    rng = np.random.default_rng(5)
    lengths = np.minimum(128, rng.lognormal(3.6, 0.6, 900).astype(int) + 2).tolist()
    batches = list(token_batches(lengths, 2048))
    assert sorted(i for batch in batches for i in batch) == list(range(900))
    sizes = [len(batch) * lengths[batch[0]] for batch in batches]
    assert max(sizes) <= 2048 and sum(sizes) < 1.1 * sum(lengths)
    assert all(len(batch) % 16 == 0 for batch in batches[:-1])
