"""What is read of a Find result: every kind of evidence, and refusals before any work."""

from __future__ import annotations

import json
import shutil

import pytest

from mistudio_core.errors import NotFound, Unsupported
from mistudio_core.jobs.local import LocalContext
from mistudio_explain.evidence import FindEvidence
from mistudio_find import job as find
from mistudio_find.config import FindConfig
from tests.unit.find.stores import WORD, Folder, write_store


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    return Folder(write_store(tmp_path_factory.mktemp("evidence") / "codes"))


def analysed(folder, codes, **given):
    context = LocalContext(folder, inputs={"codes": codes})
    find.run(FindConfig(training_job_id="train_1", **given), context)
    return context.reader("analysis")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory, codes):
    return analysed(tmp_path_factory.mktemp("analysed"), codes)


def test_all_kinds_of_evidence_are_read(analysis):
    found = FindEvidence(analysis)
    one = found.one(WORD)
    assert one.quantiles
    assert max(one.quantiles[0].activations) <= max(one.top[0].activations)
    assert "".join(one.quantiles[0].tokens) == one.quantiles[0].text
    assert {d.text for d in one.driving} == {"token", "tokens"}
    assert all(d.is_word and d.lift > 1 for d in one.driving)
    assert 0 < one.near_contrast < len(one.contrast)
    assert one.neighbours
    assert WORD not in one.neighbours
    assert one.promoted == ()
    assert one.document_share("token") == pytest.approx(0.15, abs=0.1)
    assert one.document_share("nowhere") < 0.01
    assert not {t.text for t in one.judge} & {t.text for t in one.top}
    with pytest.raises(NotFound, match="features 0 to 7"):
        found.one(999)


def test_a_result_without_contrast_texts_is_refused_with_what_to_do(tmp_path, codes):
    without = analysed(tmp_path, codes, contrast_texts=0)
    with pytest.raises(Unsupported, match="contrast_texts of at least 2"):
        FindEvidence(without)


def test_what_a_record_says_of_logits_is_read(tmp_path, analysis):
    folder = tmp_path / "features"
    shutil.copytree(analysis.path("features.jsonl").parent, folder)
    lines = [json.loads(line) for line in (folder / "features.jsonl").read_text().splitlines()]
    for record in lines:
        record["promoted_tokens"] = [{"token": " sea", "token_id": 1, "effect": 2.0}]
        record["suppressed_tokens"] = [{"token": " sand", "token_id": 2, "effect": -2.0}]
        record["nearest_by_decoder"] = [{"feature_id": 5, "similarity": 0.9}]
    body = [json.dumps(record).encode() + b"\n" for record in lines]
    ends = [sum(map(len, body[:n])) for n in range(len(body) + 1)]
    raw = memoryview((folder / "features.idx").read_bytes()).cast("q").tolist()
    with (folder / "features.idx").open("wb") as handle:
        for value in [raw[0], *ends, *raw[len(ends) + 1 :]]:
            handle.write(value.to_bytes(8, "little", signed=True))
    (folder / "features.jsonl").write_bytes(b"".join(body))
    one = FindEvidence(Folder(folder)).one(WORD)
    assert (one.promoted, one.suppressed, one.neighbours) == ((" sea",), (" sand",), (5,))
