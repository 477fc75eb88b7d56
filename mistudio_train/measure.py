"""Figures of trained SAEs on held-out documents: one pass of the model for all of them.

Reads SAEs that take raw activations; trains and writes nothing. Definitions: docs/metrics.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_torch.encoding import parts
from mistudio_torch.lm.causal import load_causal_lm
from mistudio_torch.lm.weights import Placement
from mistudio_torch.metrics import MetricAccumulator, SaeMetrics, SpliceMetrics, splice_metrics_of
from mistudio_torch.sae import Sae
from mistudio_torch.tokenised import Array, cut_blocks, sample_documents
from mistudio_train.memory_plan import room_of
from mistudio_train.run import Run, model_dtype
from mistudio_train.variants import Variant

_EVALUATE_LEAST, _EVALUATE_MOST = 100_000, 2_000_000
_SPLICE_LEAST, _SPLICE_MOST = 2000, 50_000
_WHOLE_MODEL_SHARE = 0.7
"""Share of the free memory that the whole model may take beside what the job holds already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A trained SAE as it is saved."""

    variant: Variant
    """Which one of the job."""
    sae: Sae
    """In its inference form, for raw activations, on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured of it."""

    metrics: SaeMetrics
    """On held-out activations."""
    frequency_F: Tensor
    """float64: share of held-out tokens on which each feature fires."""
    splice: SpliceMetrics
    """On held-out text, causal models only."""


def measure(run: Run, trained: Sequence[Trained], on_share: Callable[[float], None]) -> list[Measured]:
    """Figures of every SAE, in their order, on held-out tokens: a quarter of those trained on, 100,000 to 2 million."""
    real, heldout = run.corpus.real_tokens, run.corpus.heldout
    most = min(_EVALUATE_MOST, max(_EVALUATE_LEAST, _trained_tokens(run) // 4))
    chosen = heldout[sample_documents(real[heldout], most, run.config.seed)]
    sums = [MetricAccumulator(t.sae.shape.d_out, t.sae.shape.d_sae) for t in trained]
    blocks = cut_blocks(chosen, real, run.config.block_tokens)
    for number, block in enumerate(blocks):
        on_share(0.7 * number / len(blocks))
        activations = run.activations(block)
        for item, accumulator in zip(trained, sums, strict=True):
            x_ND, *target = (activations[hook.name] for hook in item.variant.hooks)
            target_ND = target[0] if target else x_ND
            for part in parts(len(x_ND)):
                run.ctx.check_cancelled()
                y_hat_BD, codes = item.sae.reconstruct(x_ND[part])
                accumulator.add(target_ND[part], y_hat_BD, codes)
    on_share(0.7)
    spliced = splice(run, trained, chosen)
    return [
        Measured(metrics=s.result(), frequency_F=s.fired_F.double() / max(s.tokens, 1), splice=found)
        for s, found in zip(sums, spliced, strict=True)
    ]


def splice(run: Run, trained: Sequence[Trained], documents: Array) -> list[SpliceMetrics]:
    """Loss recovered and KL of every SAE; absent with the reason where the whole model cannot be asked.

    SAEs that read and write the same hooks share the clean and the ablated passes.
    """
    config, most = run.config, splice_tokens(run)
    if not most:
        return [SpliceMetrics.absent("splice_tokens is 0") for _ in trained]
    hooks = {hook.name: hook for item in trained for hook in item.variant.hooks}
    try:
        causal = load_causal_lm(
            config.model_name,
            list(hooks.values()),
            placement=Placement(
                device=str(run.lm.device), dtype=model_dtype(config, run.ctx.device), quantization=config.quantization
            ),
            token=run.ctx.secret("huggingface_token"),
            cache_dir=config.cache_dir,
            model_root=config.model_root,
            available_bytes=int(_WHOLE_MODEL_SHARE * room_of(run.ctx.device).device_bytes),
            watch=run.ctx.check_cancelled,
        )
    except (LimitReached, Unsupported, InvalidInput) as error:
        return [SpliceMetrics.absent(error.message) for _ in trained]
    found: dict[str, SpliceMetrics] = {}
    for names in {tuple(hook.name for hook in item.variant.hooks) for item in trained}:
        group = [t for t in trained if tuple(hook.name for hook in t.variant.hooks) == names]
        saes = [item.sae.to(causal.device) for item in group]
        measured = splice_metrics_of(
            causal,
            causal.taps[names[-1]],
            [functools.partial(_reconstruction, sae) for sae in saes],
            run.corpus.table,
            documents.tolist(),
            batch_size=config.batch_size,
            max_tokens=most,
            read=causal.taps[names[0]] if len(names) > 1 else None,
            on_batch=run.ctx.check_cancelled,
        )
        found |= {item.variant.name: figures for item, figures in zip(group, measured, strict=True)}
        for sae in saes:
            sae.cpu()
    return [found[item.variant.name] for item in trained]


def splice_tokens(run: Run) -> int:
    """Held-out tokens that the whole model is run on: a tenth of what was trained on, 2,000 to 50,000, if not said."""
    if run.config.splice_tokens is not None:
        return run.config.splice_tokens
    return min(_SPLICE_MOST, max(_SPLICE_LEAST, _trained_tokens(run) // 10))


def _trained_tokens(run: Run) -> int:
    """Real tokens that the run trains on, all epochs together."""
    every = int(run.corpus.real_tokens[run.corpus.train].sum()) * run.config.max_epochs
    return min(every, run.config.token_budget or every)


def _reconstruction(sae: Sae, x_ND: Tensor) -> Tensor:
    return sae.reconstruct(x_ND)[0]
