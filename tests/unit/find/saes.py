"""Decoders in our store's layout, for the tests of Find; nothing else of an SAE."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mistudio_torch.codes.tensorfile import create


def write_decoder(folder: Path, rows: np.ndarray, **metadata: str) -> Path:
    """The files of an `sae` artifact with these float32 (F, D) directions."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = create(folder / "sae_weights.safetensors", {"W_dec": ("float32", rows.shape)})
    tensors["W_dec"][:] = rows
    about = {"model_name": "toy/model", "hook_name": "blocks.3.hook_resid_post", **metadata}
    (folder / "cfg.json").write_text(json.dumps({"architecture": "topk", "d_sae": len(rows), "metadata": about}))
    return folder
