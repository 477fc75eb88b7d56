"""What the evidence comparison runs on: contexts of equal length, and one SAE in the layouts of all contestants.

Contexts are the first tokens of documents that have enough of them, chosen only where their text gives the
same tokens again; the SAE is trained by a job of ours on other documents. Made once in a folder and kept.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import evidence
from mistudio_core.corpus.documents import Document

TRAINED_TOKENS = 196_608
"""Tokens that the SAE is trained on."""
_TRAINED_DOCUMENTS = 5_000


def make(given: argparse.Namespace) -> None:
    """Fills `given.data`, unless it is complete."""
    if (given.data / evidence.FACTS_FILE).exists():
        return
    given.data.mkdir(parents=True, exist_ok=True)
    documents = list(labelled(given.text))
    random.Random(0).shuffle(documents)
    count = given.tokens // given.length
    contexts, others = cut(given.model, documents, count, given.length)
    np.save(given.data / evidence.TOKENS_FILE, np.array([ids for ids, _ in contexts], np.int64))
    lines = b"".join(document.line() for _, document in contexts)
    (given.data / evidence.CORPUS_FILE).write_bytes(lines)
    trained = train(given, [document.text for document in others[:_TRAINED_DOCUMENTS]])
    facts = {"layer": given.layer, "length": given.length, "contexts": count, "width": given.width, "k": given.k}
    facts |= {"model": given.model.name, "text": given.text.name, "trained_tokens": trained}
    (given.data / evidence.FACTS_FILE).write_text(json.dumps(facts, indent=1))


def labelled(path: Path) -> Iterator[Document]:
    """Documents of a .jsonl or .txt file, also .gz: the fields `text` and `label`."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            body = json.loads(line) if ".jsonl" in path.suffixes else {"text": line.strip()}
            if body["text"].strip():
                yield Document(text=body["text"], labels={"label": body["label"]} if "label" in body else {})


def cut(
    model: Path, documents: list[Document], count: int, length: int
) -> tuple[list[tuple[list[int], Document]], list[Document]]:
    """(`count` contexts of `length` tokens with their documents, the documents that were not looked at).

    Raises ValueError where too few documents are long enough.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found: list[tuple[list[int], Document]] = []
    for number, document in enumerate(documents):
        if len(found) == count:
            return found, documents[number:]
        encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
        if len(encoded["input_ids"]) < length:
            continue
        text = document.text[: encoded["offset_mapping"][length - 1][1]]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == length:
            found.append((ids, Document(text=text, labels=document.labels)))
    raise ValueError(f"{len(found)} documents have {length} tokens, {count} are wanted: give a longer --text")


def train(given: argparse.Namespace, texts: list[str]) -> int:
    """Trains the SAE and writes it in both layouts; returns its training tokens."""
    from benchmarks import ours_text
    from mistudio_torch.formats import SaeMetadata, read_sae, write_sae

    plain = {"layer": given.layer, "length": given.length, "width": given.width, "k": given.k, "device": "cpu"}
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "text.txt"
        text.write_text("".join(f"{' '.join(one.split())}\n" for one in texts), encoding="utf-8")
        more: dict[str, Any] = {"model": given.model, "text": text, "lr": 4e-3, "batch": 4096, "seed": 0}
        settings = argparse.Namespace(**plain, **more, tokens=TRAINED_TOKENS)
        context, _ = ours_text.run(settings, Path(place))
        record = next(record for record in context.artifacts if record.kind == "sae")
        sae = read_sae(context.store.open(record).path("cfg.json").parent).sae
    metadata = SaeMetadata(
        model_name=given.model.name,
        hook_name=f"blocks.{given.layer}.hook_resid_post",
        layer=given.layer,
        context_size=given.length,
        prepend_bos=False,
    )
    hook = evidence.SPARSIFY_HOOK.format(layer=given.layer)
    write_sae(sae, given.data / evidence.SAELENS_FOLDER, "saelens", metadata)
    write_sae(sae, given.data / evidence.SPARSIFY_FOLDER / hook, "sparsify", metadata)
    return TRAINED_TOKENS
