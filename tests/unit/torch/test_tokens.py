"""Tokens on the disk, batches, harvest: spans point into the text, special tokens and padding stay out."""

import numpy as np
import pytest
import torch

from mistudio_torch.harvest import harvest
from mistudio_torch.lm.hooks import residual_after
from mistudio_torch.lm.load import load_lm
from mistudio_torch.tokens import length_buckets, padded, tokenize
from tests.support import tinymodels

TEXTS = ["the cat sat", "", "a dog ran on the mat under the big red tree .", "   ", "dog"]


@pytest.fixture(params=("bert", "gpt2"))
def lm(models, request):
    return load_lm(request.param, 1, model_root=models)


def table_of(lm, tmp_path, texts=TEXTS, length=8, **kwargs):
    return tokenize(texts, lm.tokenizer, tmp_path / "t", max_sequence_length=length, bos_id=lm.bos_id, **kwargs)


def test_documents_sequences_and_spans(lm, tmp_path):
    seen = []
    table, kept = table_of(lm, tmp_path, on_batch=seen.append)
    assert kept == [0, 2, 4] and table.dropped_documents == 2 and seen == [5]
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
    assert kept == [] and table.n_documents == table.n_tokens == 0 and table.dropped_documents == 2


def test_harvest_equals_one_sequence_at_a_time(lm, tmp_path):
    texts = tinymodels.sentences(23, seed=3)
    table, _ = table_of(lm, tmp_path, texts=texts, length=16)
    documents = [5, 0, 17, 3, 22, 9]
    together = harvest(lm, table, documents, batch_size=4)
    alone = []
    for first, last in table.sequences(documents):
        ids, mask = padded(table, [(first, last)], lm.pad_id)
        out = residual_after(lm.model, lm.block, torch.from_numpy(ids), torch.from_numpy(mask))[0]
        alone.append(out[torch.from_numpy(~table.special_T[first:last])])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert len(together) == table.real_tokens()[documents].sum()


def test_buckets_hold_every_sequence_once_longest_first():
    sequences = [(0, n) for n in (3, 9, 1, 9, 5)]
    batches = list(length_buckets(sequences, 2))
    assert batches == [[1, 3], [4, 0], [2]]


def test_padding_is_masked(lm, tmp_path):
    table, _ = table_of(lm, tmp_path)
    ids, mask = padded(table, table.sequences([0, 2]), lm.pad_id)
    assert ids.shape == mask.shape and (ids[mask == 0] == lm.pad_id).all()
    assert mask.sum(1).tolist() == [last - first for first, last in table.sequences([0, 2])]


def test_a_cancel_stops_the_harvest(lm, tmp_path):
    table, _ = table_of(lm, tmp_path)

    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(lm, table, [0], batch_size=1, on_batch=cancel)
