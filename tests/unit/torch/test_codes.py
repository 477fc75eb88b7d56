"""The codes store: what goes in comes out, in bounded memory and with the same bytes."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from mistudio_core.errors import Corrupt, Unsupported
from mistudio_torch.codes import CodesReader, CodesWriter
from mistudio_torch.codes.tensorfile import open_tensors

F = 13


def _documents(count=20, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = int(rng.integers(1, 9))
        text = f"Dokument {number} mit Umlaut ä"
        spans = np.stack([np.arange(n), np.arange(n) + 1], 1).astype(np.int32)
        dense = rng.random((n, F)) * (rng.random((n, F)) < 0.3)
        tok, feat = np.nonzero(dense)
        shuffled = rng.permutation(len(tok))
        yield text, rng.integers(0, 99, n).astype(np.uint32), spans, tok[shuffled], feat[shuffled], dense


def _write(folder, labels=("", "a", "b"), spill=10, work=None, stop=None):
    folder.mkdir(exist_ok=True)
    meta = {"model_name": "m", "layer": 1}
    writer = CodesWriter(folder, d_sae=F, meta=meta, spill_triplets=spill, shard_activations=200, work=work)
    for number, (text, ids, spans, tok, feat, dense) in enumerate(_documents()):
        if number < writer.n_documents:
            continue
        if number == stop:
            with writer:  # a kill leaves anything between all and nothing of what came after the last spill
                return None
        label = labels[number % len(labels)]
        writer.add_document(
            text,
            ids,
            spans,
            tok,
            feat,
            dense[tok, feat],
            labels={"kind": label} if label else {},
            heldout=number % 4 == 0,
        )
    writer.close()
    return CodesReader.from_folder(folder)


def test_round_trip(tmp_path):
    reader = _write(tmp_path / "a")
    documents = list(_documents())
    dense = np.concatenate([d[5] for d in documents])
    assert (reader.d_sae, reader.n_tokens, reader.n_documents) == (F, len(dense), 20)
    assert reader.n_nonzero == np.count_nonzero(dense) and reader.meta["layer"] == 1
    for feature in range(F):
        codes = reader.feature(feature)
        expected = np.nonzero(dense[:, feature])[0]
        np.testing.assert_array_equal(codes.positions, expected)
        np.testing.assert_allclose(codes.values, dense[expected, feature], atol=1e-3)
    np.testing.assert_array_equal(reader.frequency(), (dense > 0).sum(0))
    for number, (text, ids, spans, *_) in enumerate(documents):
        start, end = reader.doc_tokens(number)
        assert end - start == len(ids) and reader.text(number) == text
        np.testing.assert_array_equal(reader.token_ids(number), ids)
        np.testing.assert_array_equal(reader.spans(number), spans)
        assert (reader.document_of(np.arange(start, end)) == number).all()
        assert reader.label(number) == ("", "a", "b")[number % 3] and reader.heldout(number) == (number % 4 == 0)


def test_bytes_are_a_function_of_the_content_not_of_the_spills(tmp_path):
    digests = []
    for name, spill in (("a", 5), ("b", 5), ("c", 10_000)):
        _write(tmp_path / name, spill=spill)
        files = sorted((tmp_path / name).iterdir())
        digests.append([(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files])
    assert digests[0] == digests[1] == digests[2]
    assert [n for n, _ in digests[0]] == [
        "codes-00000.safetensors",
        "codes-00001.safetensors",
        "documents.safetensors",
        "labels.json",
        "meta.json",
        "offsets.safetensors",
        "texts.bin",
    ]


@pytest.mark.parametrize("stop", [1, 7, 19])
def test_a_killed_writer_is_taken_up_at_its_last_spill(tmp_path, stop):
    whole = _write(tmp_path / "whole")
    work = tmp_path / "work"
    _write(tmp_path / "dead", work=work, stop=stop)
    again = _write(tmp_path / "again", work=work)
    assert not work.exists()
    for file in whole._texts_path.parent.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    assert again.n_nonzero == whole.n_nonzero


def test_a_work_folder_of_something_else_or_half_lost_is_begun_anew(tmp_path):
    whole = _write(tmp_path / "whole")
    for number, damage in enumerate(("meta", "spill", "texts")):
        work = tmp_path / f"work{number}"
        _write(tmp_path / f"dead{number}", work=work, stop=15)
        if damage == "meta":
            (work / "about.json").write_text("another SAE")
        elif damage == "spill":
            next(work.glob("*.values.npy")).unlink()
        else:
            (work / "texts.bin").write_bytes(b"x")
        reader = _write(tmp_path / f"again{number}", work=work)
        assert reader.n_nonzero == whole.n_nonzero and reader.text(3) == whole.text(3)


def test_parts_cross_shards_and_a_lost_shard_is_named(tmp_path):
    reader = _write(tmp_path / "a")
    assert len(reader.meta["shards"]) > 1
    offsets, positions, bits = reader.part(0, F)
    for feature in range(F):
        codes, here = reader.feature(feature), slice(offsets[feature], offsets[feature + 1])
        np.testing.assert_array_equal(positions[here], codes.positions)
        np.testing.assert_array_equal(bits[here].view(np.float16), codes.values.astype(np.float16))
    assert list(reader.ranges(10**9, 5)) == [(0, 5), (5, 10), (10, 13)]
    path = tmp_path / "a" / "codes-00001.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    broken = CodesReader.from_folder(tmp_path / "a")
    assert len(broken.feature(0).positions)
    with pytest.raises(Corrupt, match="codes-00001"):
        broken.part(0, F)


def test_no_documents(tmp_path):
    writer = CodesWriter(tmp_path, d_sae=3, meta={})
    writer.close()
    reader = CodesReader.from_folder(tmp_path)
    assert reader.n_documents == reader.n_tokens == reader.n_nonzero == 0
    assert len(reader.feature(2).positions) == 0


def test_labels_groups_and_times_come_back(tmp_path):
    given = [
        ({"topic": "a"}, "", None),
        ({}, "grüne", -5),
        ({"topic": "b", "tone": "dry"}, "", 1_700_000_000_000_000),
        ({"tone": "dry"}, "x", None),
    ]
    with CodesWriter(tmp_path, d_sae=3, meta={}) as writer:
        for labels, group, time in given:
            one = np.zeros(1, np.int64)
            ids, spans = one.astype(np.uint32), np.zeros((1, 2), np.int32)
            writer.add_document("x", ids, spans, one, one, one + 1.0, labels=labels, group=group, time=time)
        writer.close()
    found = CodesReader.from_folder(tmp_path).attributes
    assert [(found.labels(d), found.group(d), found.time(d)) for d in range(4)] == given
    assert [found.label(d) for d in range(4)] == ["topic: a", "", "tone: dry, topic: b", "tone: dry"]
    values, ids = found.label_ids("topic")
    assert (values, ids.tolist()) == (["", "a", "b"], [1, 0, 2, 0])


def test_attributes_that_disagree_are_corrupt(tmp_path):
    _write(tmp_path / "a")
    for text in ("[]", '[["", "a"]]', "x"):
        (tmp_path / "a" / "labels.json").write_text(text)
        with pytest.raises(Corrupt):
            CodesReader.from_folder(tmp_path / "a")


def test_without_labels_there_is_no_label_file(tmp_path):
    reader = _write(tmp_path / "a", labels=("",))
    assert not (tmp_path / "a" / "labels.json").exists() and reader.label(3) == ""
    assert not (tmp_path / "a" / "groups.bin").exists() and reader.attributes.time(3) is None


def test_refuses_what_does_not_fit(tmp_path):
    writer = CodesWriter(tmp_path, d_sae=3, meta={})
    ids, spans = np.zeros(2, np.uint32), np.zeros((2, 2), np.int32)
    one = np.ones(1)
    with pytest.raises(ValueError, match="outside of the SAE"):
        writer.add_document("x", ids, spans, np.array([0]), np.array([3]), one)
    with pytest.raises(ValueError, match="outside of the document"):
        writer.add_document("x", ids, spans, np.array([2]), np.array([0]), one)
    with pytest.raises(ValueError, match="disagree"):
        writer.add_document("x", ids, spans[:1], np.array([0]), np.array([0]), one)
    writer.close()


def test_large_values_stay_finite(tmp_path):
    writer = CodesWriter(tmp_path, d_sae=1, meta={})
    writer.add_document(
        "x", np.zeros(1, np.uint32), np.zeros((1, 2), np.int32), np.array([0]), np.array([0]), np.array([1e9])
    )
    writer.close()
    assert CodesReader.from_folder(tmp_path).feature(0).values.tolist() == [65504.0]


def test_damage_is_corrupt(tmp_path):
    _write(tmp_path / "a")
    path = tmp_path / "a" / "documents.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(Corrupt):
        CodesReader.from_folder(tmp_path / "a")
    _write(tmp_path / "b")
    (tmp_path / "b" / "texts.bin").write_bytes(b"short")
    with pytest.raises(Corrupt, match="inconsistent"):
        CodesReader.from_folder(tmp_path / "b")
    (tmp_path / "b" / "meta.json").write_text('{"format_version": 99}')
    with pytest.raises(Unsupported):
        CodesReader.from_folder(tmp_path / "b")


def test_files_are_real_safetensors(tmp_path):
    from safetensors.numpy import load_file

    _write(tmp_path / "a")
    for name in ("codes-00000.safetensors", "offsets.safetensors", "documents.safetensors"):
        path = tmp_path / "a" / name
        ours, theirs = open_tensors(path), load_file(path)
        assert set(ours) == set(theirs)
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_reading_needs_no_torch():
    forbidden = "('torch', 'transformers', 'safetensors')"
    code = f"import sys, mistudio_torch.codes; sys.exit(any(m in sys.modules for m in {forbidden}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
