"""Find end to end on planted features: evidence, coherence, files, determinism, cancel."""

from __future__ import annotations

import csv
import io
import json

import pytest

from mistudio_core.corpus.splits import is_judge
from mistudio_core.errors import Cancelled, InvalidInput, NotFound
from mistudio_core.jobs.local import LocalContext
from mistudio_find import job
from mistudio_find.coherence import tier
from mistudio_find.config import FindConfig
from mistudio_find.pages import FeaturePages
from tests.unit.find.stores import D_SAE, DEAD, DENSE, NUMBERS, RANDOM, TOPIC, TOPICS, WORD, Folder, texts, write_store

CONFIG = FindConfig(training_job_id="train_20250101_000000_00000000")


def analyse(folder, codes, config=CONFIG):
    context = LocalContext(folder, inputs={"codes": Folder(codes)})
    return job.run(config, context), context


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "codes")


@pytest.fixture(scope="module")
def done(tmp_path_factory, store):
    result, context = analyse(tmp_path_factory.mktemp("find"), store)
    return result, context, FeaturePages(context.reader("analysis"))


def test_planted_features_are_found(done):
    _, _, pages = done
    word, topic = pages.feature(WORD), pages.feature(TOPIC)
    assert word["pattern_keywords"][0] in ("token", "tokens")
    assert word["driving_tokens"][0]["text"] in ("token", "tokens")
    assert set(topic["pattern_keywords"][:5]) <= set(TOPICS["cooking"].split())
    assert {t["context"] for t in topic["top_activations"]} == {"cooking"}
    assert word["complexity"] == "low"


def test_coherence_is_high_for_patterns_and_near_nothing_for_chance(done):
    _, _, pages = done
    found = {feature: pages.feature(feature)["coherence_score"] for feature in (WORD, TOPIC, NUMBERS, RANDOM, DEAD)}
    assert found[TOPIC] > 0.6
    assert found[TOPIC] > found[WORD] > found[RANDOM]
    assert found[NUMBERS] > found[RANDOM]
    assert found[RANDOM] < 0.15
    assert found[DEAD] == 0.0


def test_top_texts_are_evidence_once_a_document_and_highlight_their_tokens(done):
    _, _, pages = done
    record = pages.feature(WORD)
    top = record["top_activations"]
    assert len(top) == CONFIG.top_texts
    assert len({t["document"] for t in top}) == len(top)
    assert [t["activation_strength"] for t in top] == sorted((t["activation_strength"] for t in top), reverse=True)
    for text in top:
        assert "".join(text["tokens"]) == text["text"]
        assert len(text["activations"]) == len(text["tokens"])
        strongest = max(zip(text["activations"], text["tokens"], strict=True))
        assert strongest[1].strip() in ("token", "tokens")
        assert strongest[0] == text["activation_strength"]


def test_judging_texts_come_from_other_documents_than_evidence(done):
    _, _, pages = done
    whole = {text for _, text in texts()}
    for feature in (WORD, TOPIC, NUMBERS):
        record = pages.feature(feature)
        shown = [t["text"] for t in record["top_activations"] + record["quantile_activations"]] + record[
            "contrast_texts"
        ]
        for text in shown:
            assert all(not is_judge(w) for w in whole if text in w)
        firing = [t for t in record["judge_texts"] if t["activation"] > 0]
        silent = [t for t in record["judge_texts"] if t["activation"] == 0]
        assert len(firing) == 10
        assert sum(not t["near"] for t in silent) == 10
        for text in record["judge_texts"]:
            assert all(is_judge(w) for w in whole if text["text"] in w)


def test_contrast_texts_are_silent(done):
    _, _, pages = done
    texts_ = pages.feature(WORD)["contrast_texts"]
    assert len(texts_) == CONFIG.contrast_texts
    assert not any("token" in t for t in texts_)
    assert pages.feature(DENSE)["contrast_texts"] == []


def test_statistics_are_those_of_the_codes(done, store):
    _, _, pages = done
    codes = job.CodesReader(Folder(store))
    for feature in (WORD, DENSE):
        found, values = pages.feature(feature)["activation_statistics"], codes.feature(feature).values.astype(float)
        assert found["count"] == len(values) == sum(found["histogram_counts"])
        assert found["mean"] == pytest.approx(values.mean(), rel=1e-4)
        assert found["std"] == pytest.approx(values.std(), rel=1e-4)
        assert found["frequency"] == pytest.approx(len(values) / codes.n_tokens, rel=1e-4)
        assert len(found["histogram_edges"]) == 21


def test_result_counts_everything(done):
    result, _, pages = done
    assert (result.total_features, result.live_features, result.dead_features) == (D_SAE, 5, 3)
    assert sum(result.quality_levels.values()) == sum(result.categories.values()) == 5
    assert result.model_name == "toy/model"
    assert pages.total == D_SAE


def test_pages_run_from_coherent_to_dead(done):
    _, _, pages = done
    everything = pages.page(0, 100)
    live = [f["coherence_score"] for f in everything if not f["dead"]]
    assert live == sorted(live, reverse=True)
    assert [f["dead"] for f in everything] == sorted(f["dead"] for f in everything)
    assert pages.page(2, 2) == everything[2:4]
    assert pages.page(99, 2) == []
    with pytest.raises(NotFound) as error:
        pages.feature(D_SAE)
    assert error.value.reason == "FEATURE_NOT_FOUND"


def test_published_json_has_the_published_shape(done):
    _, context, pages = done
    body = json.loads(context.reader("analysis").read_bytes("feature_analysis.json"))
    assert {"job_id", "source_training_job", "model_name", "total_features", "processing_time"} <= set(
        body["job_metadata"]
    )
    assert body["job_metadata"]["processing_time"].endswith(" seconds")
    assert len(body["features"]) == D_SAE
    assert all("judge_texts" not in f for f in body["features"])
    assert {k: v for k, v in pages.page(0, 1)[0].items() if k != "judge_texts"} == body["features"][0]
    assert {"mean", "std", "frequency"} <= set(body["features"][0]["activation_statistics"])


def test_csv_agrees_with_the_json(done):
    _, context, pages = done
    rows = list(csv.DictReader(io.StringIO(context.reader("analysis").read_bytes("feature_analysis.csv").decode())))
    assert [int(r["feature_id"]) for r in rows] == [f["feature_id"] for f in pages.page(0, 100)]
    assert [float(r["coherence_score"]) for r in rows] == [f["coherence_score"] for f in pages.page(0, 100)]


def test_same_input_same_bytes(done, store, tmp_path):
    _, context, _ = done
    _, again = analyse(tmp_path, store)
    for name in ("features.jsonl", "features.idx", "feature_analysis.csv", "quality_metrics.json", "vocabulary.json"):
        assert again.reader("analysis").read_bytes(name) == context.reader("analysis").read_bytes(name)


@pytest.mark.parametrize(
    "documents", [[], [("", "")], [("", "one two"), ("", "... !!!")], [("x", "日本語の文章です")] * 5]
)
def test_tiny_and_strange_corpora(tmp_path, documents):
    result, context = analyse(tmp_path / "job", write_store(tmp_path / "codes", documents))
    assert result.total_features == D_SAE
    assert FeaturePages(context.reader("analysis")).total == D_SAE


def test_cancel_leaves_nothing(tmp_path, store):
    context = LocalContext(tmp_path, inputs={"codes": Folder(store)})
    context.cancelled = True
    with pytest.raises(Cancelled):
        job.run(CONFIG, context)
    assert context.artifacts == []


def test_config_refuses_what_is_out_of_range():
    with pytest.raises(InvalidInput, match="top_texts"):
        FindConfig(top_texts=0)


def test_tiers():
    assert [tier(c) for c in (0.81, 0.8, 0.6, 0.59, 0.4, 0.39)] == ["excellent", "good", "good", "fair", "fair", "poor"]
