"""Corpora in a training job: chats, labels, what travels along to the codes, and a corpus that changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mistudio_core.corpus.about import open_corpus
from mistudio_core.corpus.documents import is_heldout
from mistudio_core.errors import Corrupt, InvalidInput, Unsupported
from mistudio_core.jobs.local import LocalContext
from mistudio_torch.codes import CodesReader
from mistudio_torch.lm.load import load_lm
from mistudio_train import job
from mistudio_train.config import TrainConfig
from mistudio_train.data import Corpus, read_corpus
from tests.support import tinymodels
from tests.support.corpora import Stored, jsonl, upload

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.content }} . {% endfor %}"
)
SENTENCES = tinymodels.sentences(80)
RECORDS = [{"text": text, "tone": "ab"[n % 2], "who": n % 5, "when": 10**9 + n} for n, text in enumerate(SENTENCES)]


@pytest.fixture
def labelled(tmp_path: Path) -> Stored:
    return upload(
        tmp_path / "job" / "artifacts", "a.jsonl", jsonl(*RECORDS), labels=("tone",), group="who", time="when"
    )


def config(model_root: Path, **overrides) -> TrainConfig:
    base = {"model_name": "gpt2", "model_root": model_root, "layer_number": 1, "architecture": "topk", "k": 4}
    base |= {"hidden_dim": 48, "max_epochs": 1, "min_loss": 0.0, "sae_batch_tokens": 64, "block_tokens": 256}
    return TrainConfig(**(base | {"max_sequence_length": 16, "threads": 1} | overrides))


def tokenised(stored: Stored, model_root: Path, tmp_path: Path, seen: list | None = None) -> Corpus:
    lm = load_lm("gpt2", 1, model_root=model_root)
    return read_corpus(
        open_corpus(stored.reader),
        lm.tokenizer,
        tmp_path / "tokens",
        max_sequence_length=16,
        bos_id=lm.bos_id,
        heldout_fraction=0.2,
        on_batch=lambda *progress: seen.append(progress) if seen is not None else None,
    )


def test_what_travels_along_reaches_the_codes(model_root, labelled: Stored, tmp_path: Path):
    ctx = LocalContext(tmp_path / "job", inputs={"corpus": labelled.reader})
    job.run(config(model_root), ctx)
    codes = CodesReader(ctx.reader("codes"))
    assert codes.n_documents == 80
    for number in (0, 7, 79):
        assert codes.text(number) == SENTENCES[number]
        assert codes.label(number) == RECORDS[number]["tone"]
        assert codes.attributes.group(number) == str(RECORDS[number]["who"])
        assert codes.attributes.time(number) == RECORDS[number]["when"] * 1_000_000
        assert codes.heldout(number) == is_heldout(SENTENCES[number], 0.1)


def test_progress_has_a_total_and_arrays_are_flat(model_root, labelled: Stored, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    corpus = tokenised(labelled, model_root, tmp_path, seen)
    assert seen[-1] == (80, 80)
    for values in (corpus.lines, corpus.train, corpus.heldout, corpus.real_tokens):
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.int64
    assert [text for text, _ in corpus.documents(np.array([2, 5, 79]))] == [SENTENCES[n] for n in (2, 5, 79)]


def with_template(model_root: Path, tmp_path: Path) -> Path:
    folder = tinymodels.make(tmp_path / "models" / "chatty", "gpt2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder.parent


def chats(tmp_path: Path, roles=("user", "assistant")) -> Stored:
    said = [[{"role": role, "content": text} for role in roles] for text in SENTENCES]
    return upload(tmp_path / "job" / "artifacts", "a.jsonl", jsonl(*({"messages": m} for m in said)))


def test_chats_go_through_the_template(model_root, tmp_path: Path):
    root = with_template(model_root, tmp_path)
    ctx = LocalContext(tmp_path / "job", inputs={"corpus": chats(tmp_path).reader})
    job.run(config(root, model_name="chatty"), ctx)
    codes = CodesReader(ctx.reader("codes"))
    assert codes.text(3) == f"{SENTENCES[3]} . {SENTENCES[3]} . "
    words = [codes.text(3)[a:b] for a, b in codes.spans(3)]
    assert words == codes.text(3).split()


def test_chats_without_a_template_or_with_a_role_it_refuses(model_root, tmp_path: Path):
    ctx = LocalContext(tmp_path / "job", inputs={"corpus": chats(tmp_path).reader})
    with pytest.raises(Unsupported, match="no chat template"):
        job.run(config(model_root), ctx)
    ctx = LocalContext(tmp_path / "job", inputs={"corpus": chats(tmp_path, ("tool",)).reader})
    with pytest.raises(InvalidInput, match="roles tool"):
        job.run(config(with_template(model_root, tmp_path), model_name="chatty"), ctx)


@pytest.mark.parametrize("change", ["shrinks", "grows", "one byte"])
def test_a_corpus_that_changes_between_start_and_resume_is_refused(model_root, labelled: Stored, tmp_path, change: str):
    data = labelled.path.read_bytes()
    changed = {"shrinks": data[:-100], "grows": data + b"{}\n", "one byte": data.replace(b"cat", b"cot", 1)}[change]
    labelled.path.write_bytes(changed)
    ctx = LocalContext(tmp_path / "job")
    ctx._inputs["corpus"] = ctx.store.open(labelled.reader.record)
    with pytest.raises(Corrupt, match="SHA-256") as caught:
        job.run(config(model_root), ctx)
    assert caught.value.reason == "ARTIFACT_CORRUPT"


def test_the_same_text_falls_on_the_same_side_in_every_form(model_root, labelled: Stored, tmp_path: Path):
    plain = upload(tmp_path / "plain", "a.txt", "\n".join(SENTENCES).encode())
    one = tokenised(labelled, model_root, tmp_path / "1")
    two = tokenised(plain, model_root, tmp_path / "2")
    assert one.heldout.tolist() == two.heldout.tolist()
    assert one.train.tolist() == two.train.tolist()
    assert one.sha256 != two.sha256
