"""What a training job is asked to do: names and defaults as in `StartTrainingRequest`.

Validates and nothing else. Where files lie on this machine (`model_root`, `cache_dir`) is part of
it, because the worker has no other configuration; neither goes into artifacts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.lm.hookpoints import BLOCK_KINDS
from mistudio_train.hub_dataset import DatasetOptions
from mistudio_train.variants import Sweep, Variant, variants

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka")
TOP_K_FAMILY = ("topk", "batchtopk", "matryoshka")
PENALISED = ("standard", "jumprelu", "gated")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "nf4", "int8")
_LOCAL = ("model_root", "cache_dir", "threads", "checkpoint_interval_seconds")
_RANGES: dict[str, tuple[float, float]] = {
    "hidden_dim": (8, 1_048_576),
    "sparsity_coeff": (1e-4, 1),
    "learning_rate": (1e-7, 1),
    "batch_size": (1, 128),
    "max_epochs": (1, 10_000),
    "min_loss": (0, 1000),
    "k": (1, 65_536),
    "token_budget": (0, 10**12),
    "sae_batch_tokens": (16, 1_048_576),
    "seed": (0, 2**31 - 1),
    "checkpoint_interval_seconds": (0.1, 3600),
    "heldout_fraction": (0.01, 0.5),
    "max_code_tokens": (1000, 10**9),
    "block_tokens": (64, 1_048_576),
    "threads": (0, 1024),
    "processes": (1, 64),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training job."""

    model_name: str
    """Hub id, folder under the model root, or `package:<name>/<folder>`."""
    layer_number: int | None = None
    """Block that is read, from 0; None: 12, or the middle block of a model with fewer than 13."""
    auto_layer: bool = False
    """Whether the job probes a few layers and chooses one; layer_number is then set by the job itself."""
    hook: str = "resid_post"
    """What is read of the block (`resid_post`, `resid_pre`, `mlp_out`, `attn_out`), or a hook's whole name."""
    output_hook: str = ""
    """What a transcoder writes, in the same words; empty for an autoencoder."""
    sweep: Sweep = field(default_factory=Sweep)
    """Several SAEs on one pass of the model."""
    corpus_name: str = ""
    """Name of the corpus: of an upload, for metadata; or of a data set of the hub, which the job reads itself."""
    dataset: DatasetOptions = field(default_factory=DatasetOptions)
    """How a data set of the hub is read."""
    architecture: str = "standard"
    """One of ARCHITECTURES."""
    hidden_dim: int = 1024
    """Width of the SAE."""
    k: int = 32
    """Features that fire a token, top-k family only."""
    sparsity_coeff: float = 1e-3
    """Weight of the sparsity penalty; standard, jumprelu and gated only."""
    learning_rate: float = 1e-4
    """Peak learning rate of Adam."""
    batch_size: int = 16
    """Sequences a forward pass of the model."""
    max_epochs: int = 50
    """Most passes over the corpus."""
    min_loss: float = 0.01
    """Stop once the mean current_loss of an epoch is below this."""
    max_sequence_length: int | None = None
    """Longest sequence, tokens; None: 512 or the model's limit, whichever is less."""
    token_budget: int = 0
    """Stop after this many tokens; 0: none."""
    sae_batch_tokens: int = 4096
    """Tokens a step of the SAE."""
    seed: int = 0
    """Seed of initial weights and data order."""
    dtype: str = "auto"
    """Number format of the language model, one of DTYPES; auto: bfloat16 on GPU; on CPU float32, of which
    products are bfloat16 while training, where weights are stored so and the processor is fast at it."""
    quantization: str = "none"
    """Of the language model's weights, one of QUANTIZATIONS."""
    normalize_activations: bool = True
    """Whether activations are centred and scaled before the SAE."""
    checkpoint_interval_seconds: float = 60.0
    """Seconds between checkpoints."""
    heldout_fraction: float = 0.1
    """Share of documents held out."""
    max_code_tokens: int = 10_000_000
    """Most tokens whose codes are written."""
    block_tokens: int = 32_768
    """Tokens harvested at a time: the unit of shuffling and of resume."""
    splice_tokens: int | None = None
    """Held-out tokens on which loss recovered and KL are measured, causal models only; 0: not at all; None: a tenth
    of the tokens trained on, 2,000 to 50,000."""
    processes: int = 1
    """Processes that train together, each on its share of every batch."""
    cache_activations: bool = False
    """Whether activations are kept on the disk between epochs. Later epochs then see the very rows of the first, not
    rows that were harvested in other batches: their last bits differ."""
    threads: int = 0
    """CPU threads of torch; 0: torch's own choice. Another number gives another rounding."""
    model_root: Path | None = None
    """Folder under which local models are allowed."""
    cache_dir: Path | None = None
    """Where hub files are kept; None: the hub's default."""

    def __post_init__(self) -> None:
        if not self.model_name or len(self.model_name) > 500:
            raise InvalidInput.field("model_name", self.model_name, "1 to 500 characters")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not math.isfinite(value) or not least <= value <= most:
                raise InvalidInput.field(name, value, f"{least:g} to {most:g}")
        if self.architecture not in ARCHITECTURES:
            known = " or ".join(ARCHITECTURES)
            raise Unsupported(f"architecture {self.architecture!r}", why=f"known are {known}", instead=f"Use {known}.")
        if self.dtype not in DTYPES:
            raise InvalidInput.field("dtype", self.dtype, ", ".join(DTYPES))
        if self.quantization not in QUANTIZATIONS:
            raise InvalidInput.field("quantization", self.quantization, ", ".join(QUANTIZATIONS))
        for variant in self.variants(13):
            if self.architecture in TOP_K_FAMILY and variant.k > variant.hidden_dim:
                raise InvalidInput.field(
                    "k", variant.k, f"1 to hidden_dim, which is {variant.hidden_dim}", "Lower k or raise hidden_dim."
                )
        self._check_choices()
        if self.layer_number is not None and not 0 <= self.layer_number <= 1000:
            raise InvalidInput.field("layer_number", self.layer_number, "0 to 1000")
        if self.splice_tokens is not None and not 0 <= self.splice_tokens <= 10_000_000:
            raise InvalidInput.field("splice_tokens", self.splice_tokens, "0 to 10000000")
        if self.max_sequence_length is not None and not 8 <= self.max_sequence_length <= 1_048_576:
            raise InvalidInput.field("max_sequence_length", self.max_sequence_length, "8 to 1048576")

    def _check_choices(self) -> None:
        """Choices that exclude each other."""
        if self.auto_layer and (self.hook not in BLOCK_KINDS or self.sweep.layers):
            raise InvalidInput.field(
                "auto_layer",
                True,
                "false, where a hook is named in full or layers are swept",
                "Name a kind of hook.",
            )
        if self.cache_activations and self.processes > 1:
            raise Unsupported(
                "cache_activations with several processes",
                why="each process harvests a share of its own",
                instead="Use 1 process, or leave cache_activations off.",
            )

    def numeric(self) -> dict[str, Any]:
        """Everything that the result is a function of: the full configuration without this machine's own."""
        return {k: v for k, v in asdict(self).items() if k not in _LOCAL}

    def layer_of(self, total_layers: int) -> int:
        """The block that is read in a model of `total_layers` blocks, not checked; the deepest that may be."""
        if self.layer_number is not None:
            return self.layer_number
        if self.auto_layer:
            return self.candidate_layers(total_layers)[-1]
        return 12 if total_layers >= 13 else total_layers // 2

    def candidate_layers(self, total_layers: int) -> tuple[int, ...]:
        """The blocks that auto_layer probes: five evenly, fewer in a shallow model, without the last one.

        The last block writes what the model says next, whatever the probe's figures are.
        """
        return tuple(sorted({max(total_layers - 1, 0) * sixth // 6 for sixth in range(1, 6)}))

    def variants(self, total_layers: int) -> tuple[Variant, ...]:
        """The SAEs of the job in a model of `total_layers` blocks. Raises InvalidInput."""
        return variants(
            self.sweep,
            hook=self.hook,
            output_hook=self.output_hook,
            layer=self.layer_of(total_layers),
            hidden_dim=self.hidden_dim,
            k=self.k,
            seed=self.seed,
        )

    def sequence_length_of(self, max_positions: int) -> int:
        """Tokens a sequence. Raises InvalidInput beyond the model's own limit."""
        if self.max_sequence_length is not None and self.max_sequence_length > max_positions:
            raise InvalidInput.field(
                "max_sequence_length", self.max_sequence_length, f"8 to {max_positions}, the model's limit"
            )
        return self.max_sequence_length or min(512, max_positions)
