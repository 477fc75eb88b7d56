"""Data sets of a hub on localhost: what is stored, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistudio_core.corpus.columns import Columns
from mistudio_core.corpus.documents import iter_documents
from mistudio_core.errors import InvalidInput, MistudioError, Unavailable
from mistudio_core.jobs.local import LocalContext
from mistudio_core.secret import Secret
from mistudio_train.hub_dataset import DatasetOptions, is_dataset, job_corpus, parse_name, pinned
from tests.support import fakehub
from tests.support.corpora import parquet

CONFIGS = """---
configs:
- config_name: plain
  data_files: plain.jsonl
- config_name: few
  data_files: few.jsonl
---
"""
FEATURES = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: kind
    dtype: {class_label: {names: {'0': calm, '1': wild}}}
  splits:
  - {name: train, num_examples: 2}
---
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub with a data set of two configurations, a gated one and one of pictures."""
    import datasets
    from huggingface_hub import HfFileSystem, constants

    names = ("rows", "typed", "closed", "pictures")
    for name in names:
        (tmp_path / name).mkdir()
    rows = [{"text": f"text {n}", "who": n % 3, "when": f"2024-01-{n + 1:02}"} for n in range(20)]
    (tmp_path / "rows" / "README.md").write_text(CONFIGS)
    (tmp_path / "rows" / "plain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "rows" / "few.jsonl").write_text(json.dumps(rows[0]))
    (tmp_path / "typed" / "README.md").write_text(FEATURES)
    (tmp_path / "typed" / "train.parquet").write_bytes(parquet({"text": ["a", "b"], "kind": [1, 0]}))
    (tmp_path / "closed" / "train.jsonl").write_text('{"text": "x"}\n{"text": 3}')
    (tmp_path / "pictures" / "train.png").write_bytes(b"\x89PNG")
    found = {f"a/{name}": tmp_path / name for name in names}
    with fakehub.serve({}, gated={"a/closed": "let me in"}, datasets=found) as running:
        # what both libraries read from HF_ENDPOINT when they were imported
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        for cache in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH"):
            monkeypatch.setattr(datasets.config, cache, tmp_path / "cache" / cache)
        HfFileSystem.clear_instance_cache()
        yield running


def context(tmp_path: Path, token: str = "") -> LocalContext:
    return LocalContext(tmp_path / "job", secrets={"huggingface_token": Secret(token)} if token else {})


def read(ctx: LocalContext, name: str, **options):
    stored = job_corpus(name, DatasetOptions(**options), ctx, 0.0)
    return stored, list(iter_documents(stored.path))


def test_rows_with_what_travels_along_are_stored_once(hub, tmp_path: Path):
    ctx = context(tmp_path)
    name = pinned("hf:a/rows", None)
    assert name == f"hf:a/rows@{fakehub.COMMIT}"
    columns = Columns(group="who", time="when")
    stored, documents = read(ctx, name, config="plain", columns=columns)
    assert [(d.text, d.group) for d in documents[:2]] == [("text 0", "0"), ("text 1", "1")]
    assert stored.about.source == name
    assert stored.about.statistics.documents == 20
    assert ctx.artifacts[-1].uri == f"/data/samples/{ctx.job_id}/corpus"
    asked = len(hub.requests)
    again, _ = read(context(tmp_path), name, config="plain", columns=columns)
    assert again.sha256 == stored.sha256
    assert len(hub.requests) == asked, "a later attempt reads what was stored"


def test_class_numbers_become_names(hub, tmp_path: Path):
    _, documents = read(context(tmp_path), "hf:a/typed", columns=Columns(labels=("kind",)))
    assert [d.labels for d in documents] == [{"kind": "wild"}, {"kind": "calm"}]


def test_limits(hub, tmp_path: Path):
    for number, (limit, count) in enumerate((({"max_documents": 5}, 5), ({"max_bytes": 60}, 3))):
        ctx = context(tmp_path / str(number))
        assert len(read(ctx, "hf:a/rows", config="plain", **limit)[1]) == count
        assert "reading stopped at max_" in ctx.log_lines[-1][1]


@pytest.mark.parametrize(
    ("name", "options", "reason", "words"),
    [
        ("hf:a/none", {}, "DATASET_NOT_FOUND", "a/none"),
        ("hf:a/rows", {}, "DATASET_NOT_FOUND", "'plain', 'few'"),
        ("hf:a/rows", {"config": "other"}, "DATASET_NOT_FOUND", "other"),
        ("hf:a/rows", {"config": "plain", "split": "night"}, "DATASET_NOT_FOUND", "night"),
        ("hf:a/rows", {"config": "plain", "columns": Columns(text="body")}, "CORPUS_COLUMN_MISSING", "text, who"),
        ("hf:a/typed", {"columns": Columns(time="when")}, "CORPUS_COLUMN_MISSING", "text, kind"),
        ("hf:a/closed", {}, "CORPUS_RECORD_INVALID", "Row 2"),
        ("hf:a/pictures", {}, "UNSUPPORTED", "imagefolder"),
    ],
)
def test_what_cannot_be_read_leaves_nothing(hub, tmp_path: Path, name: str, options, reason: str, words: str):
    ctx = context(tmp_path)
    with pytest.raises(MistudioError) as caught:
        read(ctx, name, **options)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert not ctx.artifacts
    assert not list(ctx.store.staging.iterdir())


def test_a_gated_data_set_needs_its_token(hub):
    with pytest.raises(MistudioError) as caught:
        pinned("hf:a/closed", None)
    assert caught.value.reason == "DATASET_GATED"
    assert pinned("hf:a/closed", Secret("let me in")).endswith(fakehub.COMMIT)


def test_a_hub_that_cannot_be_reached_is_told(hub, monkeypatch: pytest.MonkeyPatch):
    hub.fail_with = 503
    with pytest.raises(Unavailable) as caught:
        pinned("hf:a/rows", None)
    assert caught.value.reason == "HUB_UNAVAILABLE"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="upload the text"):
        pinned("hf:a/rows", None)


@pytest.mark.parametrize("name", ["hf:", "hf:x", "hf:a/b/c", "hf:../x", "hf:a/b@", "hf:a/b c", "hf:a/" + "b" * 97])
def test_a_name_that_is_none(name: str):
    assert is_dataset(name)
    with pytest.raises(InvalidInput, match="corpus_file"):
        parse_name(name)
