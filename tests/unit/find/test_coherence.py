"""Coherence: it rises with the share of one topic, is near 0 for chance, and sees a shared word."""

from __future__ import annotations

import numpy as np
import pytest

from mistudio_find.coherence import FOLLOWING, build_meter, tier
from mistudio_find.corpus_index import build_index
from mistudio_find.passes import topics as kernels
from mistudio_find.topics import build_topics
from mistudio_torch.codes import CodesReader
from tests.unit.find import topic_twins
from tests.unit.find.stores import write_store

TOPICS, WORDS, FILLERS = 8, 25, 60


def labelled(count=700, seed=3):
    """Documents of eight topics whose words share no letter pattern, 30 % topic words; every third holds `marker`."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        topic = int(rng.integers(TOPICS))
        words = [
            f"t{chr(97 + topic)}{chr(97 + int(rng.integers(WORDS)))}q"
            if rng.random() < 0.3
            else f"f{chr(97 + int(rng.integers(FILLERS)) % 26)}{chr(97 + int(rng.integers(3)))}x"
            for _ in range(40)
        ]
        if number % 3 == 0:
            words[20] = "marker"
        yield str(topic), " ".join(words) + f" n{number}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    codes = CodesReader.from_folder(write_store(folder / "codes", labelled()))
    (folder / "index").mkdir()
    index = build_index(codes, folder / "index", lambda share: None)
    meter = build_meter(index, build_topics(index, seed=0), codes.doc_token_offsets, seed=0)
    return codes, index, meter


def pick(corpus, docs, seed=0):
    """A random token of each document."""
    starts = corpus[0].doc_token_offsets
    rng = np.random.default_rng(seed)
    return starts[docs] + (rng.random(len(docs)) * np.diff(starts)[docs]).astype(np.int64)


def mixed(corpus, share, seed, size=20):
    """Tokens of `size` documents, a share of them of one topic."""
    codes, index, _ = corpus
    rng = np.random.default_rng(seed)
    labels = codes.attributes.label_ids("topic")[1]
    evidence = np.flatnonzero(~index.judge)
    same = evidence[labels[evidence] == labels[evidence[seed]]]
    count = round(share * size)
    docs = np.concatenate([rng.choice(same, count, replace=False), rng.choice(evidence, size - count, replace=False)])
    return pick(corpus, docs, seed)


def test_it_rises_with_the_share_of_texts_of_one_topic(corpus):
    meter = corpus[2]
    means = [np.mean([meter.measure(mixed(corpus, share, s)) for s in range(12)]) for share in np.arange(0, 1.1, 0.2)]
    assert means == sorted(means)
    assert means[0] < 0.1
    assert means[-1] > 0.7
    assert min(np.diff(means[1:])) > 0.1


@pytest.mark.parametrize("size", [3, 5, 20, 60])
def test_random_sets_of_any_size_are_near_nothing(corpus, size):
    values = [corpus[2].measure(mixed(corpus, 0, seed, size)) for seed in range(80)]
    assert np.median(values) < 0.1
    assert np.quantile(values, 0.85) < 0.1


def test_one_word_in_mixed_topics_is_a_pattern_but_less_than_a_topic(corpus):
    _, index, meter = corpus
    unit = index.vocabulary.index("marker")
    tokens = np.flatnonzero((index.token_unit == unit) & ~index.judge[index.token_doc])[:20]
    word = meter.measure(tokens)
    assert 0.1 < word < 0.5
    assert word < meter.measure(mixed(corpus, 1, 1))


def test_documents_that_follow_support_a_pattern_and_copies_do_not(corpus):
    meter = corpus[2]
    top = mixed(corpus, 0.5, 2)
    like, unlike = mixed(corpus, 1, 2, 40), mixed(corpus, 0, 5, 40)
    assert meter.measure(top, like) > meter.measure(top, unlike)
    assert meter._likeness(*_parts(meter, [*top, *top]))[0, 0] < 1.3 * meter._likeness(*_parts(meter, top))[0, 0]


def _parts(meter, tokens):
    tokens = np.array(tokens)
    stems = meter.unit_stems[meter.index.token_unit[tokens]]
    return meter.contexts(tokens), stems, np.array([0, len(tokens)]), np.array([20])


def test_many_sets_at_once_are_what_each_is_alone(corpus):
    meter = corpus[2]
    sets = [(mixed(corpus, s, 3), mixed(corpus, 0, 4, n)) for s, n in ((0, 0), (0.4, FOLLOWING), (1, 7))]
    sets.append((np.zeros(0, np.int64), np.zeros(0, np.int64)))
    first = np.cumsum([0, *(len(a) + len(b) for a, b in sets)])
    last = first[:-1] + [len(a) for a, _ in sets]
    together = meter.measure_many(np.concatenate([np.concatenate(s) for s in sets]), first, last)
    assert together.tolist() == pytest.approx([meter.measure(*s) for s in sets])
    assert together[-1] == 0


def test_the_same_corpus_gives_the_same_figures(corpus):
    codes, index, meter = corpus
    again = build_meter(index, build_topics(index, seed=0), codes.doc_token_offsets, seed=0)
    tokens = mixed(corpus, 0.6, 1)
    assert again.measure(tokens) == meter.measure(tokens)


@pytest.mark.parametrize("documents", [[], [("a", "")], [("a", "!!! ???")] * 4, [("a", "one word")] * 5])
def test_a_corpus_without_topics_has_no_patterns(tmp_path, documents):
    codes = CodesReader.from_folder(write_store(tmp_path / "codes", documents))
    (tmp_path / "index").mkdir()
    index = build_index(codes, tmp_path / "index", lambda share: None)
    meter = build_meter(index, build_topics(index, seed=0), codes.doc_token_offsets, seed=0)
    assert meter.measure(np.arange(min(3, codes.n_tokens))) < 0.5
    assert meter.measure(np.zeros(0, np.int64)) == 0


def test_kernels_are_their_twins():
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((9, 5)).astype(np.float32)
    first, column, value = np.array([0, 3, 3, 7]), rng.integers(0, 9, 7), rng.standard_normal(7).astype(np.float32)
    out = np.ones((3, 5), np.float32)
    kernels.multiply(first, column, value, dense, out)
    assert out == pytest.approx(topic_twins.multiply(first, column, value, dense), abs=1e-5)
    doc_words, stems = np.array([0, 12, 12, 40]), rng.integers(0, 6, 9).astype(np.int32)
    word_ids = rng.integers(0, 9, 40).astype(np.int32)
    words, docs = np.array([0, 11, 12, 30, 39]), np.array([0, 0, 2, 2, 2])
    how = (4, 3, np.array([1, 2, 0.3], np.float32), rng.standard_normal(5).astype(np.float32) / 5)
    contexts = np.zeros((5, 5), np.float32)
    kernels.sum_contexts(words, docs, word_ids, doc_words, stems, dense, *how, contexts)
    twin = topic_twins.sum_contexts(words, docs, word_ids, doc_words, stems, dense, *how)
    assert contexts == pytest.approx(twin, abs=1e-5)
    first, last = np.array([0, 4, 9, 20]), np.array([4, 6, 15])
    vectors = rng.standard_normal((20, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys, weights = rng.integers(0, 3, 20), np.full(20, 0.2, np.float32)
    likeness = np.zeros((3, 2))
    kernels.mean_likeness(first, last, vectors, keys, weights, np.array([0.6, 0.1, 0.8]), likeness)
    assert likeness == pytest.approx(topic_twins.mean_likeness(first, last, vectors, keys, weights, (0.6, 0.1, 0.8)))


def test_tiers_have_the_bounds_of_the_product():
    assert [tier(v) for v in (0.81, 0.8, 0.6, 0.59, 0.4, 0.39, 0.0)] == [
        *("excellent", "good", "good", "fair", "fair", "poor", "poor")
    ]
