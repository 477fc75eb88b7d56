"""Text to SAE and known features: what counts as time, what a search of the L0 finds, what is printed."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import ours_text, run, synthetic, tables, train_text
from benchmarks.peers import search
from tests.support import tinymodels


def test_time_is_from_the_loaded_model_to_the_trained_sae():
    begun = {"loading model": 1.0, "tokenising": 3.0, "harvest and train": 4.0, "evaluating": 10.0, "writing": 11.0}
    assert ours_text.training_seconds(begun, ended=20.0) == 7.0
    assert ours_text.training_seconds({"loading model": 1.0, "harvest and train": 4.0}, ended=20.0) == 19.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tinymodels.make(folder / "llama", "llama")
    (folder / "text.txt").write_text("\n".join(tinymodels.sentences(700)))
    return folder


def test_documents_are_cut_to_what_the_tokens_need(place, tmp_path):
    given = argparse.Namespace(model=place / "llama", text=place / "text.txt", tokens=1000)
    path, unseen = train_text.cut(given, tmp_path / "cut.txt")
    taken = path.read_text().splitlines()
    assert len(unseen) == 512 and not set(unseen) & set(taken)
    assert 1500 <= sum(len(line.split()) for line in taken) < 1500 + 256 * 25


def test_a_tiny_run_from_text(place, tmp_path, capsys):
    sizes = ["--length", "16", "--width", "32", "--k", "3", "--batch", "128", "--tokens", "640", "--layer", "1"]
    paths = ["--model", str(place / "llama"), "--text", str(place / "text.txt")]
    assert run.main(["train_text", *paths, *sizes, "--results", str(tmp_path), "--save", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    (row,) = figures["summary"]
    assert figures["data"]["tokens"] == 640 and row["contestant"] == "miStudio" and 0 < row["l0"] <= 3
    assert 0 < row["seconds"] <= row["wall_s"] and 0 < row["fvu"] < 2
    saved = json.loads((tmp_path / "train_text.json").read_text())
    assert saved["figures"] == figures and "llama" in tables.train_text(figures)


@pytest.mark.parametrize("target", (2.0, 30.0, 400.0))
@pytest.mark.parametrize("start", (1e-4, 0.05, 20.0))
def test_the_search_ends_at_the_wanted_l0(target, start):
    tried = []

    def train(weight):
        tried.append(weight)
        return {"sparsity": weight, "l0": 500 / (1 + (weight / 0.02) ** 0.8)}

    found = search.match_l0(train, target, start)
    assert found["l0"] == pytest.approx(target, rel=search.CLOSE) and found["sparsity"] == tried[-1]


def test_a_search_without_end_leaves_the_closest():
    tried = []

    def train(weight):
        tried.append(weight)
        return {"sparsity": weight, "l0": 40.0 if weight < 1 else 7.0}

    found = search.match_l0(train, 10.0, 0.1)
    assert found["l0"] == 7.0 and found["sparsity"] in tried and len(tried) <= 10


def test_the_table_of_known_features_shows_the_best_of_each():
    about = {"kind": "plain", "largest": 0.5, "l0": 7, "fvu": 0.1, "dead": 0}
    tried = (("gated", "miStudio", 0.99, False), ("gated", "miStudio", 0.9, True), ("gated", "SAELens", 0.7, False))
    tried += (("topk", "miStudio", 0.8, True), ("topk", "miStudio", 0.95, True))
    runs = [
        about | {"arch": arch, "contestant": name, "matched": m, "at_l0": at, "lr": 1e-3} for arch, name, m, at in tried
    ]
    summary = synthetic.summarise(runs)
    assert [(r["contestant"], r["matched"]) for r in summary] == [
        ("miStudio", 0.95),
        ("miStudio", 0.9),
        ("SAELens", 0.7),
    ]
    data = {"features": 512, "d_in": 128, "true_l0": {"plain": 6.8}, "width": 512, "tokens": 1000}
    table = tables.synthetic({"data": data, "summary": summary})
    assert "0.950" in table and "6.8" in table and "0.990" not in table


def test_results_of_other_architectures_are_kept_where_sizes_agree(tmp_path):
    data = {"tokens": 1000}
    figures = {"data": data | {"true_l0": {"plain": 4.0}, "lrs": [0.1]}, "runs": [{"arch": "topk"}]}
    (tmp_path / "synthetic.json").write_text(json.dumps({"figures": figures}))
    given = argparse.Namespace(results=tmp_path, keep=True)
    assert synthetic._before(given, data) == figures
    assert synthetic._before(argparse.Namespace(results=tmp_path, keep=False), data) == {}
    with pytest.raises(FileNotFoundError, match="--keep"):
        synthetic._before(given, {"tokens": 2000})
    again = argparse.Namespace(kinds=["plain"], arch=["topk"], lrs=[0.1])
    run_before = {"kind": "plain", "arch": "topk", "lr": 0.1}
    assert synthetic._again(again, run_before) and not synthetic._again(again, run_before | {"lr": 0.2})


def test_one_contestant_searches_in_one_process(tmp_path, capsys):
    rows = np.random.default_rng(0).standard_normal((1200, 8)).astype(np.float32)
    np.save(tmp_path / "acts.npy", rows)
    arguments = ["--module", "benchmarks.ours", "--acts", str(tmp_path / "acts.npy"), "--folder", str(tmp_path)]
    arguments += ["--lrs", "0.01,0.02", "--l0", "3", "--weight", "0.1", "--width", "16", "--tokens", "1000"]
    arguments += ["--batch", "100", "--seed", "0", "--heldout-rows", "200"]
    for arch in ("batchtopk", "gated"):
        assert search.main([*arguments, "--arch", arch]) == 0
        runs = json.loads(capsys.readouterr().out)["runs"]
        assert [run["lr"] for run in runs] == [0.01, 0.02] and all(0 < run["fvu"] < 2 for run in runs)
        assert all((tmp_path / run["out"]).exists() for run in runs)
        assert all(abs(run["l0"] - 3) <= 0.15 for run in runs if run["at_l0"])
        assert all((run["sparsity"] is None) == (arch == "batchtopk") for run in runs)
