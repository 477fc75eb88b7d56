"""What a training job made: names as in `GetTrainingResultResponse` and the messages it holds.

Plain records without torch; `training_stats` puts figures together, `gates` judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mistudio_train.gates import QualityGate, quality_gates

if TYPE_CHECKING:
    from mistudio_torch.metrics import SaeMetrics, SpliceMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureStatistics:
    """Figures about the features on held-out text."""

    total_features: int
    """Width of the SAE."""
    active_features: int
    """Features that fired at least once."""
    dead_features: int
    """Features that never fired."""
    mean_activation: float
    """Mean over tokens and features, zeros included."""
    sparsity_achieved: float
    """L0 / width."""
    dense_features: int = 0
    """Features that fired on more than 10 % of the tokens."""
    density_histogram: tuple[int, ...] = ()
    """Features by log10 of firing frequency; edges: mistudio_torch.metrics.DENSITY_LOG10_EDGES."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How much of the machine the training used."""

    matrix_peak_flops: float
    """Fastest matrix product measured on the device, flop/s."""
    matrix_peak_share: float | None
    """Useful flops of training the SAE over that peak times the seconds of its steps, harvest left out.

    None where other work disturbed the measurement of the peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingStats:
    """How the run went; definitions in docs/metrics.md."""

    final_loss: float
    """FVU on held-out activations."""
    total_epochs: int
    """Passes over the corpus that were begun."""
    training_time_seconds: float
    """Seconds of all attempts together."""
    convergence_epoch: int
    """First epoch whose mean loss is within 1 % of the best, from 1."""
    feature_statistics: FeatureStatistics
    """Figures about the features."""
    explained_variance: float
    """1 - FVU on held-out documents."""
    fvu: float
    """Fraction of variance unexplained on held-out documents."""
    l0: float
    """Features that fire on a token, mean."""
    cosine: float
    """Mean cosine of activation and reconstruction."""
    tokens: int
    """Tokens trained on."""
    tokens_per_second: float
    """Harvest included."""
    heldout_tokens: int
    """Tokens the figures were measured on."""
    quality_gates: tuple[QualityGate, ...]
    """Verdicts."""
    metrics_version: str
    """Version of the definitions."""
    deterministic: bool
    """Whether a killed and resumed run gives the same bytes."""
    ce_loss_recovered: float | None = None
    """Against zero ablation; None where it was not measured, and `splice` says why."""
    kl_divergence: float | None = None
    """Nats a predicted token; None where it was not measured, and `splice` says why."""
    splice: SpliceMetrics | None = None
    """Next-token figures of the spliced model, or why there are none."""
    explained_variance_uncentred: float | None = None
    """1 - squared error over squared length, for comparison with tools that print it."""
    l1: float | None = None
    """Sum of activations on a token, mean."""
    norm_ratio: float | None = None
    """Mean length of the reconstruction over that of the activation."""
    matrix_peak_flops: float | None = None
    """Measured peak of the machine, flop/s."""
    matrix_peak_share: float | None = None
    """Share of it that was useful."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """The model and the layer taken from it."""

    model_name: str
    """The name that was asked for."""
    actual_model_loaded: str
    """The name that was loaded."""
    architecture: str
    """`model_type`."""
    total_layers: int
    """Blocks."""
    selected_layer: int
    """The block that was read."""
    hidden_size: int
    """Width."""
    vocab_size: int
    """Vocabulary."""
    requires_token: bool
    """Whether the hub asks for a token."""
    revision: str
    """Commit or digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusStatistics:
    """What the corpus came to."""

    sha256: str
    """Digest of the corpus file."""
    documents: int
    """Documents with at least one token."""
    dropped_documents: int
    """Documents without any."""
    heldout_documents: int
    """Held out."""
    tokens: int
    """Tokens, special ones excluded."""
    code_tokens: int
    """Tokens whose codes were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeResult:
    """One SAE of a job."""

    name: str
    """Name among the job's SAEs, for example `layer3_width2048`; empty where it is the only one."""
    hook_name: str
    """What it reads."""
    output_hook_name: str
    """What it writes, where it is a transcoder; empty where that is what it reads."""
    hidden_dim: int
    """Width."""
    k: int
    """Features that fire a token, as asked for; top-k family only."""
    seed: int
    """Seed of its initial weights."""
    error: str
    """Why it failed; empty where it did not."""
    sae_sha256: str = ""
    """Digest of its sae_weights.safetensors; empty where it failed."""
    training_stats: TrainingStats | None = None
    """How it went; None where it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Everything a caller learns; artifacts are recorded by the context. Single figures are of the first good SAE."""

    training_stats: TrainingStats
    """How it went."""
    feature_count: int
    """Width of the SAE."""
    model_info: ModelInfo
    """The model."""
    sae_sha256: str
    """Digest of sae_weights.safetensors."""
    corpus: CorpusStatistics
    """The corpus."""
    saes: tuple[SaeResult, ...]
    """Every SAE of the job, in the order of its sweep."""


def training_stats(
    *,
    metrics: SaeMetrics,
    splice: SpliceMetrics,
    epoch_losses: Sequence[float],
    losses: Sequence[float],
    architecture: str,
    hidden_dim: int,
    tokens: int,
    seconds: float,
    metrics_version: str,
    deterministic: bool,
    speed: Speed | None = None,
) -> TrainingStats:
    """All figures of one SAE.

    `epoch_losses` are mean current_loss of the epochs that were begun, `losses` of consecutive equal
    stretches of the run (CurveRecorder.tenths), `tokens` and `seconds` those of training.
    """
    best = min(epoch_losses)
    return TrainingStats(
        final_loss=metrics.fvu,
        total_epochs=len(epoch_losses),
        training_time_seconds=seconds,
        convergence_epoch=1 + next(i for i, loss in enumerate(epoch_losses) if loss <= best * 1.01),
        feature_statistics=feature_statistics(metrics, hidden_dim),
        explained_variance=metrics.explained_variance,
        fvu=metrics.fvu,
        l0=metrics.l0,
        cosine=metrics.cosine,
        tokens=tokens,
        tokens_per_second=tokens / max(seconds, 1e-9),
        heldout_tokens=metrics.tokens,
        quality_gates=quality_gates(
            architecture=architecture,
            hidden_dim=hidden_dim,
            explained_variance=metrics.explained_variance,
            density=metrics.density,
            dead_share=metrics.dead_features / hidden_dim,
            losses=losses,
        ),
        metrics_version=metrics_version,
        deterministic=deterministic,
        ce_loss_recovered=splice.ce_loss_recovered,
        kl_divergence=splice.kl_divergence,
        splice=splice,
        explained_variance_uncentred=metrics.explained_variance_uncentred,
        l1=metrics.l1,
        norm_ratio=metrics.norm_ratio,
        matrix_peak_flops=None if speed is None else speed.matrix_peak_flops,
        matrix_peak_share=None if speed is None else speed.matrix_peak_share,
    )


def feature_statistics(metrics: SaeMetrics, hidden_dim: int) -> FeatureStatistics:
    """Figures about the features."""
    return FeatureStatistics(
        total_features=hidden_dim,
        active_features=metrics.active_features,
        dead_features=metrics.dead_features,
        mean_activation=metrics.mean_activation,
        sparsity_achieved=metrics.density,
        dense_features=metrics.dense_features,
        density_histogram=metrics.density_histogram,
    )
