"""SAEDashboard's own SaeVisRunner and save_json for every feature; run by an environment that has it.

    ENV/bin/python -m benchmarks.peers.saedashboard --model FOLDER --data FOLDER --work FOLDER --out FILE.json

Everything is its default. The model is built by TransformerLens from weights that its own converter makes,
because it loads by name only what is in its list.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import evidence
from benchmarks.peers.common import report

_GIVES: dict[str, Callable[[Any], object]] = {
    "top": lambda data: len(data.sequence_data.seq_group_data[0].seq_data) > 0,
    "quantile": lambda data: len(data.sequence_data.seq_group_data) > 2,
    "frequency": lambda data: "DENSITY" in (data.acts_histogram_data.title or ""),
    "histogram": lambda data: len(data.acts_histogram_data.bar_heights) > 0,
    "logits": lambda data: len(data.logits_table_data.top_token_ids) > 0,
    "logit_histogram": lambda data: len(data.logits_histogram_data.bar_heights) > 0,
    "nearest_activation": lambda data: len(data.feature_tables_data.correlated_features_indices) > 0,
    "neurons": lambda data: len(data.feature_tables_data.correlated_neurons_indices) > 0,
}


def hooked(folder: Path) -> Any:
    """A Llama of a local folder as a HookedSAETransformer, float32, weights unprocessed."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    plain = model.config
    config = HookedTransformerConfig(
        n_layers=plain.num_hidden_layers,
        d_model=plain.hidden_size,
        d_head=plain.hidden_size // plain.num_attention_heads,
        n_heads=plain.num_attention_heads,
        n_key_value_heads=plain.num_key_value_heads,
        d_mlp=plain.intermediate_size,
        n_ctx=plain.max_position_embeddings,
        d_vocab=plain.vocab_size,
        act_fn="silu",
        eps=plain.rms_norm_eps,
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=plain.hidden_size // plain.num_attention_heads,
        rotary_base=10_000,
        original_architecture="LlamaForCausalLM",
        device="cpu",
    )
    made = HookedSAETransformer(config)
    state = convert_llama_weights(model, config)
    made.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    made.to(torch.float32)
    return made


def check(model: Any, folder: Path, tokens_CT: torch.Tensor, layer: int) -> None:
    """Raises ValueError where the built model is not the one of the folder."""
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.no_grad():
        wanted = plain(tokens_CT, output_hidden_states=True).hidden_states[layer + 1]
        _, cache = model.run_with_cache(tokens_CT, names_filter=f"blocks.{layer}.hook_resid_post")
    found = cache[f"blocks.{layer}.hook_resid_post"]
    error = float((found - wanted).norm() / wanted.norm())
    if not error < 1e-4:
        raise ValueError(f"TransformerLens' model is {error:.2g} away from that of {folder}")


def dashboards(hook: str, features: list[int], sae: Any, model: Any, tokens_CT: torch.Tensor) -> Any:
    """Its data of these features.

    Its runner folds decoder norms, which SAELens refuses unless features are selected by activation times norm:
    with norms of 1 that is the same. Raises ValueError for other norms.
    """
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    if not torch.allclose(sae.W_dec.norm(dim=1), torch.ones(1), atol=1e-5):
        raise ValueError("Decoder directions must have a norm of 1.")
    sae.cfg.rescale_acts_by_decoder_norm = True
    return SaeVisRunner(SaeVisConfig(hook_point=hook, features=features)).run(
        encoder=sae, model=model, tokens=tokens_CT
    )


def places(found: Any) -> dict[int, list[tuple[int, int, float]]]:
    """The sequences of each feature's first group, whose title is TOP ACTIVATIONS."""
    out = {}
    for feature, data in found.feature_data_dict.items():
        top = data.sequence_data.seq_group_data[0].seq_data[: evidence.PLACES]
        taken = [(s.original_index, s.qualifying_token_index, max_at(s)) for s in top]
        out[int(feature)] = [place for place in taken if place[2] > 0]
    return out


def max_at(sequence: Any) -> float:
    """Activation of the token that a sequence is about: it stands in the middle of the default buffer of 5 and 5."""
    return float(sequence.feat_acts[5])


def main(argv: list[str] | None = None) -> int:
    """Makes dashboards, writes them as JSON, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    evidence.options(parser)
    given = parser.parse_args(argv)
    from sae_lens import SAE

    facts = evidence.facts(given.data)
    tokens_CT = torch.from_numpy(evidence.tokens(given.data))
    hook, every = f"blocks.{facts['layer']}.hook_resid_post", list(range(facts["width"]))
    model = hooked(given.model)
    check(model, given.model, tokens_CT[:4], facts["layer"])
    sae = SAE.load_from_disk(str(given.data / evidence.SAELENS_FOLDER))
    dashboards(hook, every[:2], sae, model, tokens_CT[: evidence.WARM_CONTEXTS])
    stages = evidence.Stages()
    with stages("data"):
        found = dashboards(hook, every, sae, model, tokens_CT)
    with stages("json"):
        found.save_json(given.work / "dashboards.json")
    figures = evidence.figures(stages.seconds, stages.cpu_s, features=len(found.feature_data_dict), work=given.work)
    made = found.feature_data_dict.values()
    gives = [name for name, has in _GIVES.items() if any(has(data) for data in made)]
    evidence.write_places(given.out, places(found))
    names = ("sae-dashboard", "sae-lens", "transformer-lens", "transformers", "torch")
    report(figures | {"gives": gives, "versions": {name: version(name) for name in names}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
