"""What a training job made: names as in `GetTrainingResultResponse` and the messages it holds.

Plain records; `quality_gates` are judged here, from figures alone.
"""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityGate:
    """One gate and its verdict."""

    name: str
    """`reconstruction`, `activation_rate`, `convergence`, `dead_features`."""
    value: float
    """Measured figure."""
    threshold: str
    """What passes, in words."""
    passed: bool
    """Whether it passes; where not, it is a warning."""
    remedy: str
    """What to do where it does not pass; empty where it does."""


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
    """Not measured in this release."""
    kl_divergence: float | None = None
    """Not measured in this release."""


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
class TrainResult:
    """Everything a caller learns; artifacts are recorded by the context."""

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


def quality_gates(
    *, explained_variance: float, density: float, dead_share: float, epoch_losses: list[float]
) -> tuple[QualityGate, ...]:
    """The four gates. Convergence: the last epoch's mean loss is at most 5 % below the one before it."""
    change = 1.0 if len(epoch_losses) < 2 else (epoch_losses[-2] - epoch_losses[-1]) / max(epoch_losses[-2], 1e-12)
    return (
        _gate(
            "reconstruction",
            explained_variance,
            "explained variance (1 - FVU, mean-centred, held-out) of at least 0.95",
            explained_variance >= 0.95,
            "Train on more tokens, raise hidden_dim or k, or lower sparsity_coeff.",
        ),
        _gate(
            "activation_rate",
            density,
            "1 % to 5 % of the features fire on a token",
            0.01 <= density <= 0.05,
            "Too few: raise k or lower sparsity_coeff. Too many: the reverse, or raise hidden_dim.",
        ),
        _gate(
            "convergence",
            change,
            "mean loss of the last epoch at most 5 % below the one before",
            abs(change) <= 0.05,
            "Raise max_epochs or token_budget.",
        ),
        _gate(
            "dead_features",
            dead_share,
            "at most 10 % of the features never fire on held-out text",
            dead_share <= 0.10,
            "Lower hidden_dim or learning_rate, or use a larger corpus.",
        ),
    )


def _gate(name: str, value: float, threshold: str, passed: bool, remedy: str) -> QualityGate:
    return QualityGate(name=name, value=value, threshold=threshold, passed=passed, remedy="" if passed else remedy)
