"""Comparing two analyses: planted permutations are found again, texts are aligned, what cannot be is refused."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio_core.errors import Unsupported
from mistudio_find.aligning import align
from mistudio_find.compare import ACTIVATION, DECODER, IDENTITY, Side, Summary, Wanted, compare
from mistudio_find.comparison_rows import APPEARED, MATCHED, VANISHED, ComparisonRows
from mistudio_find.matching import match
from mistudio_find.weights import Nearest
from mistudio_torch.codes import CodesReader, CodesWriter
from tests.support.analyses import feature
from tests.unit.find.records import Files, write_features
from tests.unit.find.saes import write_decoder
from tests.unit.find.stores import Folder

WIDTH, DIM = 60, 24
RNG = np.random.default_rng(3)
ROWS = RNG.standard_normal((WIDTH, DIM)).astype(np.float32)
ORDER = RNG.permutation(WIDTH)
TEXTS = [" ".join(f"word{w}" for w in RNG.integers(0, 300, 30)) for _ in range(120)]
PLANTED = np.abs(RNG.standard_normal((300, WIDTH))) * (RNG.random((300, WIDTH)) < 0.06)
"""What each feature does on each word."""


def codes(folder: Path, order: np.ndarray, *, pieces: int = 1, texts: list[str] | None = None, **meta: str) -> Path:
    """Codes in which feature i does what PLANTED[:, order[i]] says; each word is cut into so many tokens."""
    folder.mkdir(parents=True)
    lineage = {"corpus_sha256": "cd" * 32, "corpus_name": "c.txt", **meta}
    with CodesWriter(folder, d_sae=len(order), meta=lineage) as writer:
        for text in TEXTS if texts is None else texts:
            spans, triples = [], []
            for word in re.finditer(r"\w+", text):
                cuts = np.linspace(word.start(), word.end(), pieces + 1).astype(int)
                values = PLANTED[int(word.group()[4:])][order]
                for low, high in pairwise(cuts.tolist()):
                    triples += [(len(spans), f, values[f]) for f in np.flatnonzero(values)]
                    spans.append((low, high))
            table = np.array(triples, float)
            ids = np.arange(len(spans), dtype=np.uint32)
            where = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2]
            writer.add_document(text, ids, np.array(spans, np.int32), *where)
        writer.close()
    return folder


def side(folder: Path, rows: np.ndarray, sha: str, *, codes_in: Path | None = None, **about: Any) -> Side:
    """An analysis of features with these decoder directions; `changes` are those of some records."""
    changes = about.pop("changes", {})
    records = [feature(i, sae_sha256=sha * 32, **changes.get(i, {})) for i in range(len(rows))]
    return Side(
        job_id=f"find_{folder.name}",
        features=Files(write_features(folder / "features", records)),
        sae=Folder(write_decoder(folder / "sae", rows, **about)),
        codes=None if codes_in is None else Folder(codes_in),
    )


def compared(tmp_path: Path, one: Side, two: Side, **wanted: Any) -> tuple[Summary, list[dict[str, Any]]]:
    summary = compare(one, two, Wanted(**wanted), tmp_path / "rows.safetensors", parts=1)
    found = ComparisonRows(tmp_path / "rows.safetensors")
    return summary, found.rows(0, found.total)


def pairs(rows: list[dict[str, Any]]) -> dict[int, int]:
    return {row["one"]: row["two"] for row in rows if row["kind"] == MATCHED}


def test_another_seed_of_one_sae_is_matched_feature_by_feature(tmp_path):
    noisy = (ROWS[ORDER] + 0.2 * RNG.standard_normal(ROWS.shape)).astype(np.float32)
    summary, rows = compared(tmp_path, side(tmp_path / "a", ROWS, "aa"), side(tmp_path / "b", noisy, "bb"))
    assert (summary.method, summary.matched, summary.mutual) == (DECODER, WIDTH, WIDTH)
    assert pairs(rows) == {int(own): at for at, own in enumerate(ORDER)}
    similarities = [row["similarity"] for row in rows]
    assert similarities == sorted(similarities, reverse=True) and similarities[-1] > 0.8
    assert (summary.appeared, summary.vanished) == (0, 0)


def test_a_wider_sae_has_the_old_features_and_new_ones(tmp_path):
    wide = np.concatenate([ROWS[ORDER], RNG.standard_normal((30, DIM))]).astype(np.float32)
    narrow = np.concatenate([ROWS, RNG.standard_normal((2, DIM))]).astype(np.float32)
    summary, rows = compared(tmp_path, side(tmp_path / "a", narrow, "aa"), side(tmp_path / "b", wide, "bb"))
    assert pairs(rows) == {int(own): at for at, own in enumerate(ORDER)}
    assert (summary.appeared, summary.vanished) == (30, 2)
    assert {row["one"] for row in rows if row["kind"] == VANISHED} == {WIDTH, WIDTH + 1}
    new = [row for row in rows if row["kind"] == APPEARED]
    assert [row["two"] for row in new] == list(range(WIDTH, WIDTH + 30)) and all(row["similarity"] < 0.7 for row in new)


def test_the_same_sae_on_two_corpora_tells_what_changed(tmp_path):
    changes = {
        1: {"dead": True},
        2: {"coherence_score": 0.05, "quality_level": "poor"},
        3: {"pattern_category": "general"},
        4: {"activation_statistics": {**feature(4)["activation_statistics"], "frequency": 0.001}},
    }
    one = side(tmp_path / "a", ROWS, "aa", changes={0: {"dead": True}})
    summary, rows = compared(tmp_path, one, side(tmp_path / "b", ROWS, "aa", changes=changes))
    assert (summary.method, summary.matched) == (IDENTITY, WIDTH - 2)
    assert all(row["one"] == row["two"] and row["similarity"] == 1 for row in rows if row["kind"] == MATCHED)
    assert [row["two"] for row in rows if row["kind"] == APPEARED] == [0]
    assert [row["one"] for row in rows if row["kind"] == VANISHED] == [1]
    assert summary.changes == {"coherence": 1, "frequency": 1, "category": 1, "tier": 1} and summary.changed == 3
    assert {row["one"]: row["changes"] for row in rows if row["changes"]} == {2: 0b1001, 3: 0b100, 4: 0b10}


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_another_model_is_matched_by_what_its_features_fire_on(tmp_path, pieces):
    """The other model has another width, other tokens, and half of the documents in another order."""
    one = side(tmp_path / "a", ROWS, "aa", codes_in=codes(tmp_path / "c1", np.arange(WIDTH)))
    texts = [*TEXTS[:60][::-1], "word1 word2"]
    other = codes(tmp_path / "c2", ORDER, pieces=pieces, texts=texts)
    two = side(tmp_path / "b", np.ones((WIDTH, 8), np.float32), "bb", codes_in=other, model_name="other/model")
    summary, rows = compared(tmp_path, one, two)
    assert summary.method == ACTIVATION and "different models" in summary.note
    assert ("characters" in summary.note) == (pieces > 1)
    assert pairs(rows) == {int(own): at for at, own in enumerate(ORDER)}
    assert summary.mean_similarity > 0.99 and summary.shared_tokens == 60 * 30


def test_what_cannot_be_compared_is_refused_with_what_to_do(tmp_path):
    one = side(tmp_path / "a", ROWS, "aa", codes_in=codes(tmp_path / "c1", np.arange(WIDTH)))
    elsewhere = codes(tmp_path / "c2", ORDER, corpus_sha256="ee" * 32, corpus_name="d.txt")
    two = side(tmp_path / "b", ROWS, "bb", codes_in=elsewhere, hook_name="blocks.4.hook_resid_post")
    with pytest.raises(Unsupported, match=r"different corpora \(c.txt and d.txt\).*Analyse both SAEs on one corpus"):
        compared(tmp_path, one, two)
    with pytest.raises(Unsupported, match=r"different hooks.*Use activation"):
        compared(tmp_path, one, two, method=DECODER)
    with pytest.raises(Unsupported, match="different SAEs"):
        compared(tmp_path, one, two, method=IDENTITY)
    gone = Side(job_id=two.job_id, features=two.features, sae=two.sae, codes=None)
    with pytest.raises(Unsupported, match=r"activations behind find_b are gone"):
        compared(tmp_path, one, gone)
    few = codes(tmp_path / "c3", ORDER, texts=TEXTS[:5])
    with pytest.raises(Unsupported, match="share 150 tokens"):
        compared(tmp_path, one, side(tmp_path / "d", ROWS, "dd", codes_in=few, model_name="other"))


def test_layers_can_be_compared_by_activation_where_decoders_cannot(tmp_path):
    one = side(tmp_path / "a", ROWS, "aa", codes_in=codes(tmp_path / "c1", np.arange(WIDTH)))
    deeper = {"hook_name": "blocks.4.hook_resid_post"}
    two = side(tmp_path / "b", ROWS, "bb", codes_in=codes(tmp_path / "c2", ORDER), **deeper)
    summary, rows = compared(tmp_path, one, two, min_similarity=0.9)
    assert summary.method == ACTIVATION and summary.min_similarity == 0.9
    assert pairs(rows) == {int(own): at for at, own in enumerate(ORDER)}


def test_aligned_activations_are_those_of_the_characters_they_share(tmp_path):
    """Tokens of half a word beside tokens of a third: each has the largest of those that it shares characters with."""
    halves = CodesReader.from_folder(codes(tmp_path / "a", np.arange(WIDTH), pieces=2))
    thirds = CodesReader.from_folder(codes(tmp_path / "b", np.arange(WIDTH), pieces=3))
    found = align(halves, thirds, 0)
    assert found.by_characters and found.tokens == halves.n_tokens and found.documents == len(TEXTS)
    for name in ("offsets_F", "token_N", "value_N", "feature_N", "turned_N", "starts_T"):
        np.testing.assert_array_equal(getattr(found.one, name), getattr(found.two, name))
    assert found.one.offsets_F[-1] == halves.n_nonzero


def test_pairs_are_taken_from_the_most_alike_on_and_each_feature_once():
    ids = np.array([[0, 1], [0, 1], [1, -1]], np.int32)
    values = np.array([[0.9, 0.8], [0.95, 0.85], [0.85, -2]], np.float32)
    back = Nearest(
        ids_FK=np.array([[1, 0], [1, 2]], np.int32), values_FK=np.array([[0.95, 0.9], [0.85, 0.85]], np.float32)
    )
    live = np.ones(3, bool), np.ones(2, bool)
    found = match(Nearest(ids_FK=ids, values_FK=values), back, *live, 0.5)
    assert list(zip(found.one.tolist(), found.two.tolist(), strict=True)) == [(1, 0), (2, 1)]
    assert found.mutual.tolist() == [True, False]
    without = match(Nearest(ids_FK=ids, values_FK=values), back, np.array([True, False, True]), live[1], 0.5)
    assert list(zip(without.one.tolist(), without.two.tolist(), strict=True)) == [(0, 0), (2, 1)]
    assert np.isnan(without.best_one[1])
