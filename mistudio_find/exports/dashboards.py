"""What Neuronpedia and SAEDashboard call a feature's evidence: names, histogram, logit and neighbour lists, texts.

Both forms are made from this one view, so that they agree. Figures that miStudio does not measure (neuron
alignment, correlated neurons, logit histograms) are empty lists, as their own writers leave them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mistudio_find.exports.analysis import Analysis

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SHORT_HOOKS = {"hook_resid_post": "res", "hook_resid_pre": "res", "hook_mlp_out": "mlp", "hook_attn_out": "att"}
_EMPTY_FIGURES = (
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1"),
    *("correlated_features_l1", "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist"),
)
TOP_BIN = -1.0
"""Bin limits of a text that was chosen as one of the strongest, not from a part of the range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashboard:
    """Where the features belong, in the words of the field."""

    model_id: str
    """The model's name without its owner; only letters, digits, dot, dash and underscore."""
    layer: int
    """Layer of the hook."""
    set_name: str
    """Name of the family of SAEs, for example `mistudio-res-512`."""
    hook_name: str
    """The hook, as `blocks.3.hook_resid_post`."""
    dataset: str
    """What the corpus is called."""
    prompts: int
    """Documents that were analysed."""
    tokens_in_prompt: int
    """Mean number of tokens a document, rounded up."""
    width: int
    """Number of features."""

    @property
    def source_id(self) -> str:
        """Name of the source: layer and set."""
        return f"{self.layer}-{self.set_name}"


def dashboard(analysis: Analysis) -> Dashboard:
    """The names of an analysis, from what its job recorded."""
    metadata, lineage = analysis.metadata, analysis.lineage
    hook = str(lineage.get("hook_name", ""))
    found = re.search(r"\d+", str(lineage.get("layer", ""))) or re.search(r"\d+", hook)
    model = _UNSAFE.sub("-", str(metadata.get("model_name", "")).rstrip("/").rpartition("/")[2]).strip("-.")
    documents, tokens = int(metadata.get("documents", 0)), int(metadata.get("tokens", 0))
    corpus = str(lineage.get("corpus_name", "")) or f"sha256:{lineage.get('corpus_sha256', '')}"
    return Dashboard(
        model_id=model or "model",
        layer=int(found[0]) if found else 0,
        set_name=f"mistudio-{_SHORT_HOOKS.get(hook.rpartition('.')[2], 'sae')}-{analysis.total}",
        hook_name=hook,
        dataset=corpus,
        prompts=documents,
        tokens_in_prompt=-(-tokens // documents) if documents else 0,
        width=analysis.total,
    )


def figures(record: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a feature under their snake_case names."""
    statistics = record["activation_statistics"]
    edges = statistics["histogram_edges"]
    neighbours = record["nearest_by_activation"]
    return {
        **{name: [] for name in _EMPTY_FIGURES},
        "correlated_features_indices": [n["feature_id"] for n in neighbours],
        "correlated_features_pearson": [n["similarity"] for n in neighbours],
        "neg_str": [t["token"] for t in record["suppressed_tokens"]],
        "neg_values": [t["effect"] for t in record["suppressed_tokens"]],
        "pos_str": [t["token"] for t in record["promoted_tokens"]],
        "pos_values": [t["effect"] for t in record["promoted_tokens"]],
        "frac_nonzero": statistics["frequency"],
        "freq_hist_data_bar_heights": statistics["histogram_counts"],
        "freq_hist_data_bar_values": [(a + b) / 2 for a, b in pairwise(edges)],
    }


def activations(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The texts with tokens and values: the strongest, then those of every quantile with the bin they stand in.

    A text without tokens has nothing to show and is passed over.
    """
    for text in record["top_activations"]:
        if text["tokens"]:
            yield _activation(text, TOP_BIN, TOP_BIN, TOP_BIN)
    statistics = record["activation_statistics"]
    for text in record["quantile_activations"]:
        if text["tokens"]:
            yield _activation(text, *_bin(statistics, text["activation_strength"]))


def _activation(text: Mapping[str, Any], low: float, high: float, share: float) -> dict[str, Any]:
    values = text["activations"]
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": share,
        "tokens": text["tokens"],
        "values": values,
        "qualifying_token_index": max(range(len(values)), key=values.__getitem__) if values else 0,
    }


def _bin(statistics: Mapping[str, Any], strength: float) -> tuple[float, float, float]:
    """(lower edge, upper edge, share of the feature's tokens) of the histogram bin that holds a strength."""
    edges, counts = statistics["histogram_edges"], statistics["histogram_counts"]
    for (low, high), count in zip(pairwise(edges), counts, strict=False):
        if low <= strength <= high:
            return low, high, count / max(1, sum(counts))
    return TOP_BIN, TOP_BIN, TOP_BIN
