"""Evidence beside other libraries: rules of lists, reasons of differences, what is printed of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import find_agreement as agreement
from benchmarks import find_compare, find_compare_data, tables
from benchmarks.find_agreement import Stored
from benchmarks.peers import evidence
from mistudio_core.corpus.documents import Document

C, L = 40, 64


@pytest.fixture
def stored():
    """One feature: context c fires at token c with 100 - c and weaker at the next; contexts 0 and 5 are kept back."""
    values = np.zeros((C, L, 1), np.float32)
    for c in range(C):
        values[c, c, 0], values[c, c + 1, 0] = 100 - c, 99.5 - c
    judge = np.zeros(C, bool)
    judge[[0, 5]] = True
    return Stored(values_CLF=values, judge_C=judge, around={(2, 2): ("same",), (3, 3): ("same",)})


def at(places):
    return [place[:2] for place in places]


def test_our_rule_is_the_peak_of_each_document_without_kept_back_ones_and_copies(stored):
    assert at(agreement.by_us(stored, 0)) == [(c, c) for c in range(23) if c not in (0, 3, 5)]


def test_delphis_rule_is_the_strongest_of_each_window(stored):
    assert at(agreement.by_delphi(stored, 0)) == [(c, c) for c in range(20)]
    stored.values_CLF[0, 40, 0] = 90.25
    assert (0, 40, 90.25) in agreement.by_delphi(stored, 0)


def test_saedashboards_rule_is_the_strongest_tokens_within_the_edges(stored):
    assert at(agreement.by_saedashboard(stored, 0))[:4] == [(5, 6), (6, 6), (6, 7), (7, 7)]


def test_a_list_follows_a_rule_exactly_or_but_for_equal_activations():
    wanted = [(0, 1, 5.0), (1, 1, 4.0), (2, 1, 4.0)]
    assert agreement.follows_rule(wanted, wanted) == "same"
    assert agreement.follows_rule([wanted[0], (7, 7, 4.001), wanted[1]], wanted) == "tie"
    assert agreement.follows_rule([wanted[0], wanted[1], (7, 7, 3.9)], wanted) == "different"
    assert agreement.follows_rule(wanted[:2], wanted) == "different"


def test_every_difference_has_its_reason(stored):
    ours = agreement.by_us(stored, 0)
    reasons = {
        (0, 0, 100.0): agreement.JUDGED,
        (1, 2, 98.5): agreement.ANOTHER,
        (3, 3, 97.0): agreement.COPY,
        (30, 30, 70.0): agreement.WEAKER,
    }
    for place, why in reasons.items():
        assert agreement.why_not_ours(place, ours, stored, 0) == why
    assert agreement.why_not_ours((1, 1, 99.0), ours[1:], stored, 0) == agreement.UNEXPLAINED
    theirs = agreement.by_saedashboard(stored, 0)
    assert agreement.why_not_theirs((1, 1, 99.0), theirs, "SAEDashboard", L) == agreement.EDGE
    assert agreement.why_not_theirs((22, 22, 78.0), theirs, "SAEDashboard", L) == agreement.WEAKER
    assert agreement.why_not_theirs((1, 1, 99.0), theirs, "delphi", L) == agreement.UNEXPLAINED


def test_lists_beside_each_other_are_counted(stored):
    ours, theirs = {0: agreement.by_us(stored, 0)}, {0: agreement.by_delphi(stored, 0)}
    found = agreement.between("delphi", theirs, ours, stored)
    assert found["share_in_common"] == 17 / 20
    assert found["theirs_not_ours"] == {agreement.JUDGED: 2, agreement.COPY: 1}
    assert found["ours_not_theirs"] == {agreement.WEAKER: 3} and found["unexplained"] == 0
    own = agreement.own("delphi", theirs, stored)
    assert (own["same"], own["different"], own["largest_value_error"]) == (1, 0, 0.0)


def test_places_are_read_back_as_they_were_written(tmp_path):
    places = {3: [(1, 2, 0.5)], 4: []}
    evidence.write_places(tmp_path / "places.json", places)
    assert evidence.read_places(tmp_path / "places.json") == places


def test_faster_is_the_median_quotient_within_rounds():
    def one(name, number, seconds):
        figures = {"seconds": seconds, "cpu_s": seconds, "stages": {"all": seconds}, "features": 9, "written_mb": 1.0}
        return figures | {"contestant": name, "round": number, "peak_rss_mb": 5.0, "versions": {}, "gives": ["top"]}

    runs = [one("miStudio", n, s) for n, s in enumerate((1.0, 2.0, 4.0))]
    runs += [one("delphi", n, s) for n, s in enumerate((10.0, 40.0, 20.0))]
    ours, peer = find_compare.summarise(runs)
    assert (ours["seconds"], peer["seconds"], peer["ours_times"]) == (2.0, 20.0, 10.0)
    assert find_compare.gives(runs) == {"miStudio": ["top"], "delphi": ["top"]}


def test_labelled_texts_are_read_with_and_without_labels(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": "x"}\n{"text": " "}\n{"text": "two"}\n')
    found = list(find_compare_data.labelled(tmp_path / "a.jsonl"))
    assert found == [Document(text="one", labels={"label": "x"}), Document(text="two")]


def test_the_table_says_who_is_faster_what_each_gives_and_why_lists_differ():
    run = {"seconds": 2.0, "cpu_s": 3.0, "stages": {"data": 1.5, "json": 0.5}, "features": 9, "written_mb": 1.0}
    runs = [run | {"contestant": "miStudio", "round": 0, "peak_rss_mb": 5.0, "versions": {}, "gives": ["top", "map"]}]
    runs += [runs[0] | {"contestant": "delphi", "seconds": 9.0, "gives": ["top"]}]
    own = {"features": 9, "same": 4, "tie": 5, "different": 0, "largest_value_error": 0.001}
    beside = {"share_in_common": 0.5, "theirs_not_ours": {"judged": 7}, "ours_not_theirs": {"edge": 3}}
    figures = {
        "data": {"model": "toy", "layer": 3, "contexts": 2, "length": 8, "width": 9, "k": 2},
        "summary": find_compare.summarise(runs),
        "gives": find_compare.gives(runs),
        "agreement": {"own_rule": {"delphi": own}, "beside_ours": {"delphi": beside}},
    }
    text = tables.find_compare(figures)
    assert "| delphi | 9 | 9.0 | 1.5 data + 0.5 json | 4.5 x as fast | 1 | 5 |" in text
    assert f"| {evidence.KINDS['map']} | yes |  |" in text and evidence.KINDS["logits"] not in text
    assert "| theirs, not ours | judged | 7 |" in text and "| ours, not theirs | edge | 3 |" in text


def test_the_document_shows_what_was_kept():
    kept = Path(tables.__file__).parent / "results" / "find_compare.json"
    shown = tables.find_compare(json.loads(kept.read_text())["figures"]) if kept.exists() else "Not measured yet."
    assert f"<!-- find_compare -->\n{shown}\n" in tables.DOCUMENT.read_text()
