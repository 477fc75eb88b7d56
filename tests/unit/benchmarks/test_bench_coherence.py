"""The coherence benchmark: purity, rank correlation, its columns, and a run on planted features."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import coherence
from benchmarks.peers.common import BadFile
from benchmarks.run import main
from tests.unit.find.stores import texts, write_store


def test_purity_is_the_share_of_the_commonest_label():
    assert coherence.purity([1, 1, 1, 2]) == 0.75
    assert coherence.entropy_purity([3, 3, 3]) == 1
    assert coherence.entropy_purity([1, 2, 3]) == pytest.approx(0)
    assert 0 < coherence.entropy_purity([1, 1, 2]) < 1


def test_rank_correlation_takes_ties_at_their_mean_rank():
    assert coherence.spearman([1, 2, 3], [10, 20, 300]) == pytest.approx(1)
    assert coherence.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert coherence.spearman([1, 1, 1], [1, 2, 3]) == 0
    assert coherence.spearman([], []) == 0


def test_a_corpus_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"body": "text", "kind": "a"}) + "\n\n")
    assert coherence.documents(path, "body", "kind")[0].labels == {"label": "a"}
    with pytest.raises(BadFile, match="Name its columns"):
        coherence.documents(path, "text", "kind")


def test_it_analyses_codes_that_are_there(tmp_path, capsys):
    write_store(tmp_path / "codes", list(texts(200)))
    parser = argparse.ArgumentParser()
    coherence.options(parser)
    with pytest.raises(BadFile, match="no label column"):
        coherence.run(parser.parse_args(["--codes", str(tmp_path / "codes")]))
    with pytest.raises(BadFile, match="--codes"):
        coherence.run(parser.parse_args([]))
    given = ["coherence", "--codes", str(tmp_path / "codes"), "--codes-label", "topic", "--top-texts", "10", "--json"]
    assert main(given) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["features"] >= 4
    assert figures["shuffled_median"] < 0.1
    assert sum(figures["tiers"].values()) == figures["features"]
