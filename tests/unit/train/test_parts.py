"""Config, data order and schedule."""

import numpy as np
import pytest

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.tokenised import cut_blocks, sample_documents
from mistudio_train.config import TrainConfig
from mistudio_train.data import batch_rows, split
from mistudio_train.trainer import rate_factor


@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("hidden_dim", 7),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("batch_size", 129),
        ("max_epochs", 0),
        ("min_loss", float("inf")),
        ("k", 0),
        ("heldout_fraction", 0.6),
        ("checkpoint_interval_seconds", 0.01),
        ("max_sequence_length", 7),
        ("layer_number", -1),
        ("dtype", "int8"),
        ("model_name", ""),
    ),
)
def test_out_of_range(name, value):
    with pytest.raises(InvalidInput, match=name):
        TrainConfig(**({"model_name": "m"} | {name: value}))


def test_defaults_and_relations():
    config = TrainConfig(model_name="m")
    assert (config.architecture, config.hidden_dim, config.layer_of(6), config.layer_of(13)) == (
        "standard",
        1024,
        3,
        12,
    )
    assert config.sequence_length_of(128) == 128 and config.sequence_length_of(4096) == 512
    with pytest.raises(Unsupported):
        TrainConfig(model_name="m", architecture="crosscoder")
    with pytest.raises(InvalidInput, match="hidden_dim"):
        TrainConfig(model_name="m", architecture="topk", hidden_dim=16, k=17)
    assert "model_root" not in config.numeric() and "seed" in config.numeric()


def test_blocks_cover_every_document_in_order():
    rng = np.random.default_rng(0)
    real = rng.integers(1, 50, 200)
    order = rng.permutation(200)
    blocks = cut_blocks(order, real, 300)
    np.testing.assert_array_equal(np.concatenate(blocks), order)
    sizes = [real[b].sum() for b in blocks]
    assert max(sizes) < 300 + 50 and min(sizes[:-1]) > 300 - 50


def test_batches_are_even_and_a_function_of_their_place():
    rows = batch_rows(1000, 96, seed=1, epoch=2, block=3)
    assert sorted(np.concatenate(rows)) == list(range(1000)) and {len(r) for r in rows} <= {100}
    again = batch_rows(1000, 96, seed=1, epoch=2, block=3)
    assert all((a == b).all() for a, b in zip(rows, again, strict=True))
    assert (np.concatenate(batch_rows(1000, 96, seed=1, epoch=2, block=4)) != np.concatenate(rows)).any()
    assert [len(r) for r in batch_rows(3, 4096, seed=0, epoch=0, block=0)] == [3]


def test_neither_side_of_the_split_is_empty():
    ranks = np.array([5, 1, 9])
    for flags in ([False] * 3, [True] * 3):
        train, heldout = split(np.array(flags), ranks)
        assert len(train) + len(heldout) == 3 and len(train) and len(heldout)
    assert [s.tolist() for s in split(np.array([False]), ranks[:1])] == [[0], [0]]
    assert [s.tolist() for s in split(np.array([True, False, True]), ranks)] == [[1], [0, 2]]


def test_sampled_documents_fit():
    real = np.full(100, 10)
    assert len(sample_documents(real, 1000, 0)) == 100
    chosen = sample_documents(real, 255, 0)
    assert len(chosen) == 25 and (np.diff(chosen) > 0).all() and len(sample_documents(real, 1, 0)) == 1


def test_learning_rate():
    assert rate_factor(0.0, 0.01) == pytest.approx(0.2) and rate_factor(0.04, 0.05) == 1
    assert rate_factor(0.8, 0.81) == pytest.approx(1)
    assert rate_factor(0.9, 0.91) == pytest.approx(0.5) and 0 < rate_factor(1.0, 1.01) < 0.01
