"""delphi's cache of activations (delphi/latents/cache.py, 0.1.3) as a tar file: every activation that was analysed.

`latents/<hook>/{start}_{end}.safetensors` with `locations` (n, 3) [sequence, position, feature - start],
`activations` float16 (n,) and `tokens` (sequences, CONTEXT), and `config.json` beside them. Documents follow
each other without a gap and are cut into sequences of CONTEXT tokens; the last one is filled up with token 0,
on which nothing fires. One file of features is in memory at a time.
"""

from __future__ import annotations

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mistudio_find.corpus_index import Array
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import need_codes
from mistudio_find.exports.tarring import Tar
from mistudio_torch.codes import CodesReader
from mistudio_torch.codes.tensorfile import create, finish, let_go

CONTEXT = 256
"""Tokens a sequence: delphi's default."""
SPLITS = 5
"""Least number of files: delphi's default."""
_COPIED_TOKENS = 1 << 20
MOST_IN_A_FILE = 20_000_000
"""Activations that a file may hold before there are more files; delphi loads a file whole."""


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file. Raises Corrupt, Unsupported; OSError passes."""
    codes = need_codes(analysis, "delphi")
    hook = str(codes.meta.get("hook_name") or analysis.lineage.get("hook_name") or "hook")
    folder = f"latents/{hook.replace('/', '_')}"
    starts = boundaries(codes)
    with Tar(path) as tar, tempfile.TemporaryDirectory(prefix=".delphi", dir=path.parent) as scratch:
        tar.add(f"{folder}/config.json", _config(analysis, codes, len(starts) - 1))
        tokens_SC = _tokens(codes, Path(scratch) / "tokens")
        for start, end in pairwise(starts):
            part = Path(scratch) / "part"
            _write_part(codes, start, end, tokens_SC, part)
            tar.move(f"{folder}/{start}_{end - 1}.safetensors", part)


def boundaries(codes: CodesReader) -> list[int]:
    """First feature of each file, and the width: delphi's linspace, in as many files as keep each small.

    Every file repeats the tokens, so there are no more files than make these as large as the activations.
    """
    width, activations = codes.d_sae, codes.n_nonzero
    wanted = min(-(-activations // MOST_IN_A_FILE), 2 * activations // max(1, codes.n_tokens))
    return sorted({int(at) for at in np.linspace(0, width, min(width, max(SPLITS, wanted)) + 1)})


def _tokens(codes: CodesReader, path: Path) -> Array:
    """uint32 (sequences, CONTEXT), mapped: the documents' tokens, filled up with 0."""
    sequences = max(1, -(-codes.n_tokens // CONTEXT))
    flat = np.memmap(path, np.uint32, "w+", shape=(sequences * CONTEXT,))
    column = codes.token_column
    for first in range(0, len(column), _COPIED_TOKENS):
        flat[first : min(first + _COPIED_TOKENS, len(column))] = column[first : first + _COPIED_TOKENS]
    return flat.reshape(sequences, CONTEXT)


def _write_part(codes: CodesReader, start: int, end: int, tokens_SC: Array, path: Path) -> None:
    """Features start..end-1; their activations lie together, feature by feature. Keeps nothing in memory."""
    counts = codes.frequency()[start:end]
    small = len(tokens_SC) < 1 << 16 and end - start < 1 << 16
    specs = {
        "locations": ("uint16" if small else "uint32", (int(counts.sum()), 3)),
        "activations": ("float16", (int(counts.sum()),)),
        "tokens": ("uint32", tokens_SC.shape),
    }
    out = create(path, specs)
    at = 0
    for feature in range(start, end):
        found = codes.feature(feature)
        n = len(found.positions)
        out["locations"][at : at + n, 0] = found.positions // CONTEXT
        out["locations"][at : at + n, 1] = found.positions % CONTEXT
        out["locations"][at : at + n, 2] = feature - start
        out["activations"][at : at + n] = found.values
        at += n
    out["tokens"][:] = tokens_SC
    let_go(tokens_SC)
    finish(out)
    codes.release()


def _config(analysis: Analysis, codes: CodesReader, splits: int) -> bytes:
    """CacheConfig of delphi, and the model's name."""
    config: dict[str, Any] = {
        "dataset_repo": str(analysis.lineage.get("corpus_name") or codes.meta.get("corpus_sha256", "")),
        "dataset_split": "train",
        "dataset_name": "",
        "dataset_column": "text",
        "batch_size": 32,
        "cache_ctx_len": CONTEXT,
        "n_tokens": codes.n_tokens,
        "n_splits": splits,
        "model_name": str(codes.meta.get("model_name", "")),
    }
    return json.dumps(config, indent=4).encode()
