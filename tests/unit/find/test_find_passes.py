"""The compiled pass against its readable twins; the same for any chunks, blocks and threads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from mistudio_find import corpus_index, evidence
from mistudio_find.associations import Associations, carried_by
from mistudio_find.config import FindConfig
from mistudio_find.corpus_index import build_index
from mistudio_find.evidence import build_pools, survey
from mistudio_find.phrases import find_phrases
from mistudio_find.topics import build_topics
from mistudio_torch.codes import CodesReader
from tests.unit.find import pass_twins
from tests.unit.find.stores import D_SAE, DENSE, FILLER, TOPIC, WORD, write_store

CONFIG = FindConfig(training_job_id="train_1", top_texts=12, quantiles=4, contrast_texts=7, seed=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("passes")
    codes = CodesReader.from_folder(write_store(folder / "codes"))
    return codes, build_index(codes, folder / "index", lambda _: None)


def surveyed(corpus, parts=1):
    codes, index = corpus
    topics = build_topics(index, seed=0)
    pools = build_pools(codes, index, topics, context=8, seed=0)
    return survey(codes, index, topics, pools, CONFIG, parts=parts, tick=lambda _: None), pools


@pytest.fixture(scope="module")
def found(corpus):
    return surveyed(corpus)


def listed(row):
    return row[row >= 0].tolist()


@pytest.mark.parametrize("feature", range(D_SAE))
def test_figures(corpus, found, feature):
    twin = pass_twins.figures(*corpus, feature)
    for name, expected in twin.items():
        np.testing.assert_allclose(getattr(found[0], name)[feature], expected, rtol=1e-9, atol=1e-9)
    assert found[0].documents[feature] == len(pass_twins.peaks_of(*corpus, feature))


@pytest.mark.parametrize("feature", range(D_SAE))
def test_picks(corpus, found, feature):
    survey_ = found[0]
    assert listed(survey_.top[feature]) == pass_twins.top(*corpus, feature, CONFIG.top_texts)
    assert listed(survey_.strong[feature]) == pass_twins.strong(*corpus, feature)
    assert listed(survey_.judged[feature]) == pass_twins.judged(*corpus, feature, evidence.JUDGE_TEXTS)
    outliers = pass_twins.outliers(*corpus, feature)
    assert listed(survey_.outlier[feature]) == [t for t, _ in outliers]
    np.testing.assert_allclose(survey_.outlier_away[feature][: len(outliers)], [d for _, d in outliers], rtol=1e-6)


@pytest.mark.parametrize("feature", range(D_SAE))
def test_drivers(corpus, found, feature):
    expected = pass_twins.drivers(*corpus, feature)
    assert listed(found[0].driver[feature]) == [u for u, _, _ in expected]
    assert found[0].driver_count[feature][: len(expected)].tolist() == [c for _, c, _ in expected]
    np.testing.assert_allclose(found[0].driver_mass[feature][: len(expected)], [m for *_, m in expected], rtol=1e-9)


@pytest.mark.parametrize("feature", [WORD, TOPIC, DENSE])
def test_one_quantile_pick_in_each_group_of_the_rest(corpus, found, feature):
    codes, index = corpus
    ranked = [t for t, _ in pass_twins.peaks_of(codes, index, feature) if not index.judge[index.token_doc[t]]]
    rest = ranked[len(listed(found[0].top[feature])) :]
    picked = listed(found[0].quantile[feature])
    edges = [len(rest) * g // CONFIG.quantiles for g in range(CONFIG.quantiles + 1)]
    assert len(picked) == CONFIG.quantiles
    for token, low, high in zip(picked, edges[:-1], edges[1:], strict=True):
        assert token in rest[low:high]


@pytest.mark.parametrize("feature", range(D_SAE))
def test_silent_windows_are_silent_and_near_ones_the_most_alike(corpus, found, feature):
    codes, index = corpus
    survey_, pools = found
    positions = set(codes.feature(feature).positions.tolist())
    fires = {int(index.token_doc[p]) for p in positions}
    for low, high, (random, near) in pools.parts(survey_):
        chosen = [low + p for p in listed(random[feature]) + listed(near[feature])]
        assert len(set(chosen)) == len(chosen)
        for place in chosen:
            assert not positions & set(range(*pools.windows[place].tolist()))
        if len(set(pools.docs[low:high].tolist()) - fires) >= random.shape[1] + near.shape[1]:
            assert not fires & {int(pools.docs[p]) for p in chosen}
            assert len(listed(random[feature])) == random.shape[1] and len(listed(near[feature])) == near.shape[1]


def test_near_ones_are_nearer_than_all_that_were_left(corpus, found):
    codes, index = corpus
    survey_, pools = found
    tokens = survey_.top[TOPIC]
    vectors = build_topics(index, seed=0).windows(index, index.token_word[tokens], index.token_doc[tokens])
    likeness = pools.vectors[: pools.evidence] @ vectors.sum(axis=0)
    near, random = (survey_.silent[side][TOPIC] for side in (1, 0))
    fires = {int(index.token_doc[p]) for p in codes.feature(TOPIC).positions}
    others = [p for p in range(pools.evidence) if p not in (*near, *random) and int(pools.docs[p]) not in fires]
    assert likeness[near].min() >= likeness[others].max() - 1e-6


def test_associations_are_those_of_scipy(corpus, found):
    codes, index = corpus
    carried = carried_by(codes)
    kept = found[0].associations
    _, values, ids, _ = carried.columns[0]
    for feature in (TOPIC, WORD):
        for at, value in enumerate(kept.value[feature]):
            having = ids == value
            expected = pass_twins.auroc(codes, index, feature, having)
            assert kept.auroc[feature, at] == pytest.approx(expected)
            best = np.zeros(len(ids))
            for token, strength in pass_twins.peaks_of(codes, index, feature):
                best[index.token_doc[token]] = strength
            p = mannwhitneyu(best[having], best[~having], use_continuity=False, method="asymptotic").pvalue
            one = dataclasses.replace(kept, value=kept.value[feature : feature + 1, at : at + 1], tested=1)
            one = dataclasses.replace(one, z=kept.z[feature : feature + 1, at : at + 1])
            assert one.q_values()[0, 0] == pytest.approx(p, rel=1e-6, abs=1e-300)
    assert values[kept.value[TOPIC, 0]] == "cooking" and kept.auroc[TOPIC, 0] > 0.95


def test_false_discoveries_are_corrected_over_all_comparisons():
    z = np.array([[3.0, -2.5], [1.0, 0.1]])
    kept = Associations(value=np.zeros((2, 2), np.int32), auroc=z, z=z, lift=z, tested=2)
    p = [0.0026997960632601866, 0.012419330651552318, 0.31731, 0.92034]
    np.testing.assert_allclose(kept.q_values().ravel(), false_discovery_control(p), rtol=1e-4)


def test_phrases_that_stand_where_a_feature_fires(tmp_path):
    rng = np.random.default_rng(0)
    filler = FILLER

    def text(n):
        words = [str(w) for w in rng.choice(filler, 20)]
        words[8:10] = ["secret", "token"] if n % 3 else ["token", str(rng.choice(filler))]
        return " ".join(words) + f" n{n}."

    codes = CodesReader.from_folder(write_store(tmp_path / "codes", [("x", text(n)) for n in range(150)]))
    index = build_index(codes, tmp_path / "index", lambda _: None)
    found, _ = surveyed((codes, index))
    best = find_phrases(index, found, 1).of(index, WORD)
    assert best[0][0] == "secret token" and best[0][3] > 5
    strong = found.strong[WORD][found.strong[WORD] >= 0]
    before = [index.vocabulary[index.word_ids[index.token_word[t] - 1]] for t in strong]
    assert best[0][1] == before.count("secret")


@pytest.mark.parametrize("parts", [1, 2])
def test_chunks_blocks_and_threads_change_nothing(corpus, found, monkeypatch, parts):
    monkeypatch.setattr(evidence, "CHUNK_ACTIVATIONS", 300)
    monkeypatch.setattr(corpus_index, "_BLOCK", 1000)
    again, _ = surveyed(corpus, parts)
    for field in dataclasses.fields(again):
        one, other = getattr(found[0], field.name), getattr(again, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
    np.testing.assert_array_equal(again.associations.value, found[0].associations.value)
    np.testing.assert_array_equal(again.silent[1], found[0].silent[1])
