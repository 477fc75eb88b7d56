"""What a SAELens cfg.json says, in its form since 6.0 and in the flat one before.

The older form: no `metadata`, other names (`hook_point`, `activation_fn_str`), k under
`activation_fn_kwargs`, b_dec subtracted from the input by default. Owns no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from mistudio_core.errors import Unsupported
from mistudio_torch.formats.base import SaeMetadata, layer_of
from mistudio_torch.formats.files import Config

_BASES = ("standard", "topk", "jumprelu", "gated")
LAYOUT_VERSION = "6.0.0"
"""What SAELens reads to tell its two forms of cfg.json apart."""
_PER_TOKEN = ("constant_norm_rescale", "layer_norm")
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_FURTHER = (
    "hook_head_index",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "exclude_special_tokens",
    "neuronpedia_id",
    "seqpos_slice",
)
"""What is carried along as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What the weights mean."""

    name: str
    """Architecture as SAELens names it."""
    base: str
    """Ours: standard, topk, jumprelu or gated."""
    transcoder: bool
    """Whether it writes another hook than it reads."""
    skip: bool
    """Whether there is a skip map."""
    d_in: int
    """Width of what it reads."""
    d_sae: int
    """Features."""
    d_out: int
    """Width of what it writes."""
    k: int
    """topk: features a token."""
    subtracts_b_dec: bool
    """Whether b_dec is subtracted from the input."""
    input_scale: float
    """What the input is multiplied with and the output divided by."""
    rescales_by_norm: bool
    """topk: whether pre-activations count times the norm of their decoder rows."""
    finetuned_scale: bool
    """Whether codes are multiplied with a `scaling_factor` before the decoder."""
    metadata: SaeMetadata
    """Where it belongs."""
    notes: tuple[str, ...]
    """What a person should know."""


def read_settings(given: Config, scaler: Config) -> Settings:
    """Of a cfg.json and an activation_scaler.json, which may be empty. Raises InvalidInput, Unsupported."""
    config = Config(given.file, {_OLD_NAMES.get(key, key): value for key, value in given.values.items()})
    name, base, transcoder, skip = _architecture(config)
    d_in, d_sae = config.integer("d_in"), config.integer("d_sae")
    about = {**config.values, **config.section("metadata").values}
    notes: list[str] = []
    subtracts = config.flag("apply_b_dec_to_input", default=not transcoder)
    if transcoder and subtracts:
        config.refuse("apply_b_dec_to_input", True, "false for a transcoder, whose b_dec has the output's width")
    _reshaping(config, about, notes)
    return Settings(
        name=name,
        base=base,
        transcoder=transcoder,
        skip=skip,
        d_in=d_in,
        d_sae=d_sae,
        d_out=config.integer("d_out") if transcoder else d_in,
        k=_k(config, d_sae) if base == "topk" else 1,
        subtracts_b_dec=subtracts,
        input_scale=_input_scale(config, scaler, transcoder=transcoder, notes=notes),
        rescales_by_norm=base == "topk" and config.flag("rescale_acts_by_decoder_norm", default=False),
        finetuned_scale=config.flag("finetuning_scaling_factor", default=False),
        metadata=_metadata(Config(given.file, about)),
        notes=tuple(notes),
    )


def _architecture(config: Config) -> tuple[str, str, bool, bool]:
    """(SAELens' name, ours, transcoder, skip)."""
    name = config.text("architecture", "standard")
    skip = name.endswith("skip_transcoder")
    base = name.removesuffix("skip_transcoder" if skip else "transcoder").removesuffix("_") or "standard"
    activation = config.text("activation_fn", "topk" if base == "topk" else "relu")
    if base == "standard" and activation == "topk":
        base = "topk"
    elif activation not in ("relu", "topk") or (activation == "topk" and base != "topk"):
        _refuse(
            f"activation function {activation!r} of a {base} SAE", "only ReLU and TopK are read", "Use another SAE."
        )
    if base in ("batchtopk", "matryoshka_batchtopk"):
        _refuse(
            f"architecture {base!r}",
            "that is a training checkpoint",
            "Save it with SAELens' save_inference_model, which makes a JumpReLU SAE of it.",
        )
    if base not in _BASES:
        known = ", ".join([*_BASES, "transcoder, skip_transcoder and jumprelu_ before them"])
        _refuse(f"architecture {name!r}", f"our SAEs are {known}", "Use another SAE.")
    return name, base, name.endswith("transcoder"), skip


def _k(config: Config, d_sae: int) -> int:
    old = config.section("activation_fn_kwargs")
    return old.integer("k", high=d_sae) if old.has("k") else config.integer("k", high=d_sae)


def _input_scale(config: Config, scaler: Config, *, transcoder: bool, notes: list[str]) -> float:
    """The constant by which inputs are scaled; 1 without one. Raises Unsupported for what is no constant."""
    mode = config.values.get("normalize_activations") or "none"
    mode = "expected_average_only_in" if mode is True else mode
    if mode == "none":
        return 1.0
    if mode in _PER_TOKEN:
        _refuse(
            f"normalize_activations = {mode!r}",
            "each token is scaled by its own norm, which no weights can stand for",
            "Train with expected_average_only_in or none.",
        )
    if mode != "expected_average_only_in":
        _refuse(
            f"normalize_activations = {str(mode)[:60]!r}",
            "only a constant factor can be folded into the weights",
            "Fold it with SAELens and save the SAE again.",
        )
    if transcoder:
        _refuse("normalize_activations of a transcoder", "the scale of its output is not recorded", "Fold it first.")
    for place, key in ((scaler, "scaling_factor"), (config, "norm_scaling_factor")):
        if place.has(key):
            factor = place.number(key)
            notes.append(f"Inputs were scaled by {factor:.6g} in training; folded into the weights.")
            return factor
    raise Unsupported(
        "normalize_activations = 'expected_average_only_in' without its factor",
        why="the SAE reads scaled activations, and no activation_scaler.json or norm_scaling_factor says by how much",
        instead="Put the factor into cfg.json as norm_scaling_factor, or fold it with SAELens.",
    )


def _reshaping(config: Config, about: Mapping[str, object], notes: list[str]) -> None:
    hook = about.get("hook_name")
    at_heads = isinstance(hook, str) and "hook_z" in hook
    mode = config.text("reshape_activations", "hook_z" if at_heads else "none")
    if mode not in ("none", "hook_z"):
        config.refuse("reshape_activations", mode, "none or hook_z")
    if mode == "hook_z" and not at_heads:
        config.refuse("reshape_activations", mode, f"none, because the hook is {hook!r} and not a hook_z")
    if mode == "hook_z":
        notes.append("It reads the outputs of all attention heads, flattened: head-major, n_heads x d_head values.")
    if about.get("hook_head_index") is not None:
        notes.append(f"It reads attention head {about['hook_head_index']} alone.")


def _metadata(about: Config) -> SaeMetadata:
    hook = about.text("hook_name")
    layer = about.integer("hook_layer", low=0) if about.has("hook_layer") else layer_of(hook)
    return SaeMetadata(
        model_name=about.text("model_name"),
        hook_name=hook,
        hook_name_out=about.text("hook_name_out"),
        layer=layer,
        context_size=about.integer("context_size", high=1 << 40) if about.has("context_size") else None,
        dataset=about.text("dataset_path"),
        prepend_bos=about.flag("prepend_bos", default=False) if about.has("prepend_bos") else None,
        other={key: about.values[key] for key in _FURTHER if about.has(key)},
    )


def _refuse(what: str, why: str, instead: str) -> NoReturn:
    raise Unsupported(what, why=why, instead=instead)
