"""The comparison of trainings: who sees which rows, what is measured, what is printed and written."""

import argparse
import json
import re

import numpy as np
import pytest
import torch

from benchmarks import acts, run, tables, train_sae
from benchmarks.contestants import PEERS, Contestant
from benchmarks.peers import common, sparsify
from tests.support import tinymodels


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((24, 8))
    codes = rng.exponential(size=(3000, 24)) * (rng.random((3000, 24)) < 0.1)
    np.save(tmp_path / "x.npy", (codes @ directions + 1).astype(np.float32))
    return tmp_path / "x.npy"


def given(file, **changes):
    base = {"acts": file, "tokens": 1000, "batch": 128, "heldout_rows": 2000, "seed": 0}
    return argparse.Namespace(**base | changes)


def test_training_rows_are_the_same_for_all_and_never_held_out(file):
    rows = np.load(file)
    taken = common.training_rows(given(file))
    order = common.row_order(1000, 896, 0)
    assert np.array_equal(taken, rows[order]) and len(set(order.tolist())) == 896 and order.max() < 1000
    assert not np.array_equal(taken, common.training_rows(given(file, seed=1)))


def test_more_tokens_than_rows_are_further_epochs(file):
    order = common.row_order(1000, 2500, 3)
    assert sorted(order[:1000]) == sorted(order[1000:2000]) == list(range(1000))
    assert not np.array_equal(order[:1000], order[1000:2000])
    taken = common.training_rows(given(file, tokens=2500, batch=500, seed=3))
    assert np.array_equal(taken, np.load(file)[order])


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        (np.zeros((3000, 8)), {}, "float64"),
        (np.zeros(3000, np.float32), {}, "N x D"),
        (np.full((3000, 8), np.nan, np.float32), {}, "NaN"),
        (np.zeros((1500, 8), np.float32), {}, "--heldout-rows"),
        (np.zeros((3000, 8), np.float32), {"tokens": 100}, "--tokens"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_refused(tmp_path, rows, changes, words):
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(common.BadFile, match=words):
        common.training_rows(given(tmp_path / "bad.npy", **changes))


def test_no_numpy_file_is_refused(tmp_path, capsys):
    (tmp_path / "bad.npy").write_text("words")
    assert run.main(["train_sae", "--acts", str(tmp_path / "bad.npy"), "--json"]) == 1
    assert "bad.npy" in capsys.readouterr().err


def test_the_clock_counts_steps_between_marks():
    clock = common.Clock(stamps=[1.0, 2.0, 3.0, 7.0])
    assert clock.figures(60) == {
        "tokens_per_s": 30.0,
        "tokens_per_s_median_step": 60.0,
        "first_step_s": 1.0,
        "seconds": 6.0,
        "steps": 3,
        "tokens": 180,
    }
    batches = common.Clock()
    assert [b.tolist() for b in batches.batches(np.arange(4), 2)] == [[0, 1], [2, 3]]
    batches.stop()
    assert len(batches.stamps) == 3, "two steps and one end"


def test_sparsify_gets_the_rows_in_order_as_views():
    x, clock = torch.arange(24.0).reshape(12, 2), common.Clock()
    model = sparsify.Model(x, clock)
    model(model.dummy_inputs["input_ids"])
    assert not clock.stamps, "the call that asks for widths is no step"
    model.start()
    batches = torch.utils.data.DataLoader(sparsify.Batches(3, 4), batch_size=1)
    seen = [model(batch["input_ids"]) for batch in batches]
    assert torch.equal(torch.cat(seen, 1)[0], x) and len(clock.stamps) == 3
    assert seen[1].data_ptr() == x[4:].data_ptr()


def test_a_tiny_run_prints_one_json_line(file, capsys):
    arguments = [
        "--width",
        "32",
        "--k",
        "3",
        "--batch",
        "128",
        "--tokens",
        "1000",
        "--heldout-rows",
        "2000",
        "--lr",
        "3e-3",
        "--json",
    ]
    assert run.main(["train_sae", "--acts", str(file), "--arch", "topk", *arguments]) == 0
    out = capsys.readouterr().out
    figures = json.loads(out)
    assert out.count("\n") == 1 and figures["tokens"] == 896 and figures["steps"] == 7
    assert {"tokens_per_s", "fvu", "l0", "dead", "peak_rss_mb"} <= figures.keys()
    assert 0 < figures["fvu"] < 1 and 0 < figures["l0"] <= 3 and 0 <= figures["dead"] <= 1
    assert figures["tokens_per_s"] > 0 and figures["peak_rss_mb"] > 10


def test_an_unknown_architecture_is_refused(file, capsys):
    arguments = ["train_sae", "--acts", str(file), "--arch", "dense", "--tokens", "500", "--batch", "100"]
    assert run.main([*arguments, "--heldout-rows", "2000", "--json"]) == 1
    assert "dense" in capsys.readouterr().err


def test_only_a_comparison_is_kept(file, tmp_path, capsys):
    assert run.main(["train_sae", "--acts", str(file), "--save", "--results", str(tmp_path / "r")]) == 1
    assert "--compare" in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_an_environment_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"benchmarks\.peers\.environments"):
        PEERS["saelens"].python(tmp_path)


def test_a_comparison_of_a_trainer_with_itself(file, tmp_path, monkeypatch, capsys):
    twin = Contestant(name="twin", module="benchmarks.ours", environment="", architectures=frozenset({"topk"}))
    monkeypatch.setitem(PEERS, "twin", twin)
    arguments = f"--acts {file} --compare --peers twin --widths 32 --lrs 3e-3 --k 3 --batch 128 --tokens 1000"
    results = ["--heldout-rows", "2000", "--results", str(tmp_path)]
    assert run.main(["train_sae", *arguments.split(), *results]) == 0
    body = json.loads((tmp_path / "train_sae.json").read_text())
    ours, other = body["figures"]["runs"]
    assert (ours["contestant"], other["contestant"]) == ("miStudio", "twin") and ours["fvu"] == other["fvu"]
    first, second = body["figures"]["summary"]
    assert "ours_times" not in first and second["ours_times"] > 0
    assert body["environment"]["versions"]["torch"] == ours["versions"]["torch"]
    assert tables.train_sae(body["figures"]) in capsys.readouterr().out


def test_a_summary_takes_the_best_rate_and_neighbours_in_time():
    def one(name, pair, lr, speed, fvu):
        row = {"contestant": name, "pair": pair, "arch": "topk", "width": 8, "lr": lr, "tokens_per_s": speed}
        return row | {"fvu": fvu, "l0": 3.0, "dead": 0.0, "peak_rss_mb": 100.0 + pair}

    runs = [one("miStudio", 1, 1e-3, 100, 0.4), one("peer", 1, 1e-3, 50, 0.5)]
    runs += [one("miStudio", 2, 4e-3, 40, 0.3), one("peer", 2, 4e-3, 10, 0.6)]
    ours, peer = train_sae.summarise(runs, "topk", 8)
    assert (ours["best_lr"], ours["fvu"], ours["tokens_per_s"]) == (4e-3, 0.3, 70)
    assert (peer["best_lr"], peer["fvu"], peer["ours_times"], peer["peak_rss_mb"]) == (1e-3, 0.5, 3.0, 102.0)


def test_activations_of_a_text_are_made(tmp_path):
    tinymodels.make(tmp_path / "bert", "bert")
    (tmp_path / "text.txt").write_text("\n".join([*tinymodels.sentences(60), "the cat", "the cat"]))
    made = acts.make_acts(
        tmp_path / "x.npy", rows=200, text=tmp_path / "text.txt", model=str(tmp_path / "bert"), layer=1, length=16
    )
    rows = np.load(tmp_path / "x.npy")
    assert made["rows"] == 200 and rows.shape == (200, tinymodels.DIM) and rows.dtype == np.float32
    assert np.isfinite(rows).all() and len(np.unique(rows, axis=0)) > 100
    assert len(acts.shuffled(acts.texts(tmp_path / "text.txt"))) == len(set(tinymodels.sentences(60))) + 1


def test_the_document_shows_the_results_that_are_kept():
    document = tables.DOCUMENT.read_text()
    assert tables.rendered(document, run.RESULTS) == document, "run python -m benchmarks.tables"
    assert set(re.findall(r"<!-- (\w+) -->", document)) - {"end"} == set(tables.TABLES)
