"""The end of a training job: fold, measure, judge, write, for every SAE that trained.

The order matters: figures before files, and each file only once it is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from mistudio_torch.formats.saelens import WEIGHTS_FILE
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.metrics import METRICS_VERSION, matrix_peak, peak_share, useful_flops
from mistudio_torch.sae.sparse import has_fast_bfloat16
from mistudio_train.measure import Measured, Trained, measure
from mistudio_train.member import Member
from mistudio_train.outputs import commit_codes, commit_curves, commit_metadata, commit_sae
from mistudio_train.report import EVALUATED, TRAINED
from mistudio_train.result import (
    CorpusStatistics,
    ModelInfo,
    SaeResult,
    Speed,
    TrainingStats,
    TrainResult,
    training_stats,
)
from mistudio_train.run import Run, model_dtype


def finish(run: Run, members: Sequence[Member]) -> TrainResult:
    """Measures and writes everything; at least one SAE has trained."""
    ctx = run.ctx

    def evaluating(share: float) -> None:
        ctx.progress("evaluating", fraction=TRAINED + (EVALUATED - TRAINED) * share)

    def writing(share: float) -> None:
        ctx.progress("writing", fraction=EVALUATED + (1.0 - EVALUATED) * share)

    good = [m for m in members if m.error is None]
    trained = [Trained(variant=m.variant, sae=m.trainer.folded()) for m in good]
    figures = measure(run, trained, evaluating)
    stats = [_stats(run, m, found) for m, found in zip(good, figures, strict=True)]
    for member, found in zip(good, stats, strict=True):
        _say_gates(run, member, found)
    digests = [
        commit_sae(run, t, f.frequency_F).file(WEIGHTS_FILE).sha256 for t, f in zip(trained, figures, strict=True)
    ]
    for member, found_figures in zip(good, figures, strict=True):
        commit_curves(run, member, found_figures)
    code_tokens = commit_codes(run, trained, digests, writing)
    done = {m.variant.name: (d, s) for m, d, s in zip(good, digests, stats, strict=True)}
    result = TrainResult(
        training_stats=stats[0],
        feature_count=good[0].variant.hidden_dim,
        model_info=_model_info(run.lm, good[0].variant.hook.layer),
        sae_sha256=digests[0],
        corpus=_corpus(run, code_tokens),
        saes=tuple(_sae_result(m, *done.get(m.variant.name, ("", None))) for m in members),
    )
    for member in good:
        commit_metadata(run, member.variant, _metadata(run, result, member))
    ctx.progress("writing", fraction=1.0)
    return result


def _metadata(run: Run, result: TrainResult, member: Member) -> dict[str, object]:
    """What metadata.json says of one SAE beside versions and configuration."""
    own = next(s for s in result.saes if s.name == member.variant.name)
    plain = asdict(result)
    del plain["saes"]
    facts = asdict(own)
    return plain | {
        "job_id": run.ctx.job_id,
        "hook_name": own.hook_name,
        "seed": own.seed,
        "sae": {k: v for k, v in facts.items() if k != "training_stats"},
        "training_stats": facts["training_stats"],
        "feature_count": own.hidden_dim,
        "sae_sha256": own.sae_sha256,
        "processes": run.config.processes,
        "bfloat16_harvest": run.bfloat16 or model_dtype(run.config, run.ctx.device) == torch.bfloat16,
        "bfloat16_selection": has_fast_bfloat16() or run.lm.device.type == "cuda",
    }


def _stats(run: Run, member: Member, found: Measured) -> TrainingStats:
    """Figures of one SAE."""
    progress, shape = member.trainer.progress, member.trainer.sae.shape
    fast = run.lm.device.type == "cuda" or has_fast_bfloat16()
    peak = matrix_peak(run.lm.device, torch.bfloat16 if fast else torch.float32)
    flops = useful_flops(progress.tokens, d_in=shape.d_in, d_out=shape.d_out, d_sae=shape.d_sae, l0=found.metrics.l0)
    return training_stats(
        metrics=found.metrics,
        splice=found.splice,
        epoch_losses=progress.epoch_losses,
        losses=member.curves.tenths(),
        architecture=run.config.architecture,
        hidden_dim=shape.d_sae,
        tokens=progress.tokens,
        seconds=progress.seconds,
        metrics_version=METRICS_VERSION,
        deterministic=run.lm.device.type == "cpu",
        speed=Speed(
            matrix_peak_flops=peak, matrix_peak_share=peak_share(flops, seconds=progress.step_seconds, peak=peak)
        ),
    )


def _say_gates(run: Run, member: Member, stats: TrainingStats) -> None:
    name = member.variant.name
    for gate in stats.quality_gates:
        if not gate.passed:
            run.ctx.log(
                f"{name and name + ': '}Gate {gate.name}: {gate.value:.4g}, but {gate.threshold}. {gate.remedy}",
                level="warning",
            )


def _sae_result(member: Member, sha256: str, stats: TrainingStats | None) -> SaeResult:
    variant = member.variant
    return SaeResult(
        name=variant.name,
        hook_name=variant.hook.name,
        output_hook_name="" if variant.target is None else variant.target.name,
        hidden_dim=variant.hidden_dim,
        k=variant.k,
        seed=variant.seed,
        error=member.error or "",
        sae_sha256=sha256,
        training_stats=stats,
    )


def _corpus(run: Run, code_tokens: int) -> CorpusStatistics:
    table = run.corpus.table
    return CorpusStatistics(
        sha256=run.corpus.sha256,
        documents=table.n_documents,
        dropped_documents=table.dropped_documents,
        heldout_documents=len(run.corpus.heldout),
        tokens=int(run.corpus.real_tokens.sum()),
        code_tokens=code_tokens,
    )


def _model_info(lm: LoadedLM, layer: int) -> ModelInfo:
    facts = lm.facts
    return ModelInfo(
        model_name=facts.model_name,
        actual_model_loaded=facts.model_name,
        architecture=facts.architecture,
        total_layers=facts.total_layers,
        selected_layer=layer,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        requires_token=facts.requires_token,
        revision=facts.revision,
    )
