"""Memory of plans and corpora: how measured figures are compared, and what is printed of them."""

import json
from pathlib import Path

import pytest

from benchmarks import corpus_memory, plan_memory, tables

RESULTS = Path(tables.__file__).parent / "results"


def row(stage, documents, peak):
    return {"stage": stage, "documents": documents, "documents_per_s": 7, "peak_anon_mb": peak, "peak_rss_mb": 2 * peak}


def test_growth_is_the_rise_of_the_peak_by_document_from_each_size_to_the_next():
    mebi = 2**20
    rows = [row("train", mebi, 100.0), row("upload", mebi, 20.0), row("train", 3 * mebi, 300.0), row("train", 1, 100.0)]
    assert corpus_memory.growth(rows) == [
        {"stage": "train", "from": 1, "to": mebi, "bytes_a_document": 0.0},
        {"stage": "train", "from": mebi, "to": 3 * mebi, "bytes_a_document": 100.0},
    ]


def test_a_small_corpus_is_uploaded_and_harvested_with_its_memory_watched():
    figures = corpus_memory.run((50,), ("upload", "harvest"))
    assert [(r["stage"], r["documents"]) for r in figures["rows"]] == [("upload", 50), ("harvest", 50)]
    assert all(0 <= r["peak_anon_mb"] < 500 and r["documents_per_s"] > 0 for r in figures["rows"])
    assert figures["growth"] == []


def test_the_process_itself_is_in_neither_side_of_a_comparison():
    found = {
        "planned": {"load": 3 * 10**9, "train": 5 * 10**9},
        "parts": {"process": 10**9},
        "planned_peak": 5 * 10**9,
        "measured": {"loading model": 2 * 10**9, "writing": 6 * 10**9},
        "measured_peak": 6 * 10**9,
    }
    compared = plan_memory.compare("a case", found, baseline=10**9)
    assert (compared["planned_gb"], compared["measured_gb"], compared["ratio"]) == (4.0, 5.0, 0.8)
    assert compared["by_stage_gb"] == {"loading model": 1.0, "writing": 5.0}
    assert compared["planned_by_phase_gb"] == {"load": 2.0, "train": 4.0}


@pytest.mark.parametrize("name", ("plan_memory", "corpus_memory"))
def test_kept_results_are_those_of_the_table(name):
    body = json.loads((RESULTS / f"{name}.json").read_text())
    document = tables.DOCUMENT.read_text()
    assert f"<!-- {name} -->\n{tables.TABLES[name](body['figures'])}\n" in document


def test_plans_of_five_sizes_were_within_15_percent_of_what_was_measured():
    cases = json.loads((RESULTS / "plan_memory.json").read_text())["figures"]["cases"]
    assert [case["case"] for case in cases] == list(plan_memory.CASES) and len(cases) >= 5
    assert all(case["measured_gb"] >= 1 and abs(case["ratio"] - 1) <= 0.15 for case in cases)
