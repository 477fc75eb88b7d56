"""The one entry of Train's domain: `run(config, ctx)` trains an SAE and commits what came of it.

Called by the worker, by tests and by examples. Owns the order of stages, the training loop and
when a checkpoint is written; knows nothing of services. Input role: `corpus`.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict

import torch

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.corpus.documents import CORPUS_FILE
from mistudio_core.jobs.context import JobContext
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.load import LoadedLM, load_lm
from mistudio_torch.lm.source import check_layer
from mistudio_torch.metrics import METRICS_VERSION, SaeMetrics
from mistudio_torch.sae import SaeShape
from mistudio_torch.sae.saelens import WEIGHTS_FILE
from mistudio_train.checkpoint import read_state, write_state
from mistudio_train.config import TrainConfig
from mistudio_train.data import batch_rows, epoch_blocks, read_corpus
from mistudio_train.memory import check_memory
from mistudio_train.outputs import Run, commit_codes, commit_metadata, commit_sae, evaluate
from mistudio_train.result import (
    CorpusStatistics,
    FeatureStatistics,
    ModelInfo,
    TrainingStats,
    TrainResult,
    quality_gates,
)
from mistudio_train.trainer import StepOutput, Trainer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LOADED, _TOKENISED, _TRAINED, _EVALUATED = 0.02, 0.05, 0.75, 0.80
"""Share of the job that is done after each stage, as reported."""


def run(config: TrainConfig, ctx: JobContext) -> TrainResult:
    """Trains, evaluates, writes. Commits artifacts `sae`, `codes`, `metadata` and checkpoints.

    Raises what load_lm and read_corpus do; LimitReached (INSUFFICIENT_MEMORY); Failed
    (NON_FINITE_LOSS); Corrupt; DiskFull; Cancelled.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    stage = _prepare(config, ctx)
    trainer = _trainer(stage)
    train(stage, trainer)
    return _finish(stage, trainer)


def _prepare(config: TrainConfig, ctx: JobContext) -> Run:
    """Model and corpus, checked."""
    ctx.check_cancelled()
    ctx.progress("loading model", fraction=0.0, message=f"Loading {config.model_name}")
    lm = _load(config, ctx)
    ctx.check_cancelled()
    corpus_input = ctx.input("corpus")

    def tokenised(documents: int) -> None:
        ctx.check_cancelled()
        ctx.progress("tokenising", fraction=_LOADED, current=documents, unit="documents")

    corpus = read_corpus(
        corpus_input.path(CORPUS_FILE),
        corpus_input.record.file(CORPUS_FILE).sha256,
        lm.tokenizer,
        ctx.scratch / "tokens",
        max_sequence_length=config.sequence_length_of(lm.facts.max_positions),
        bos_id=lm.bos_id,
        heldout_fraction=config.heldout_fraction,
        on_batch=tokenised,
    )
    if corpus.table.dropped_documents:
        ctx.log(
            f"{corpus.table.dropped_documents} documents have no token of the model and are left out.", level="warning"
        )
    if set(corpus.train.tolist()) & set(corpus.heldout.tolist()):
        ctx.log("The corpus has one document: figures are of the text that was trained on.", level="warning")
    return Run(config=config, ctx=ctx, lm=lm, corpus=corpus)


def _load(config: TrainConfig, ctx: JobContext) -> LoadedLM:
    """The model up to the layer; layer, length and memory are checked on its facts before weights are fetched."""

    def layer(facts: ModelFacts) -> int:
        chosen = config.layer_of(facts.total_layers)
        check_layer(facts, chosen)
        config.sequence_length_of(facts.max_positions)
        check_memory(facts, config)
        return chosen

    device = "cpu" if ctx.device.startswith("cpu") else ctx.device
    auto = torch.float32 if device == "cpu" else torch.bfloat16
    return load_lm(
        config.model_name,
        layer,
        token=ctx.secret("huggingface_token"),
        dtype=_DTYPES.get(config.dtype, auto),
        device=device,
        cache_dir=config.cache_dir,
        model_root=config.model_root,
        watch=ctx.check_cancelled,
    )


def _trainer(run: Run) -> Trainer:
    """A trainer, fresh or from the newest checkpoint."""
    config = run.config
    shape = SaeShape(
        architecture=config.architecture,
        d_in=run.lm.facts.hidden_size,
        d_sae=config.hidden_dim,
        k=config.k,
        sparsity_coeff=config.sparsity_coeff,
    )
    all_tokens = config.max_epochs * int(run.corpus.real_tokens[run.corpus.train].sum())
    total = min(all_tokens, config.token_budget or all_tokens)
    trainer = Trainer(
        shape, seed=config.seed, learning_rate=config.learning_rate, total_tokens=total, device=run.lm.device
    )
    checkpoint = run.ctx.latest_checkpoint()
    if checkpoint is not None:
        state = read_state(trainer, checkpoint, identity=identity(run))
        run.ctx.log(f"Resumed at step {trainer.progress.step}.")
        if state["threads"] != torch.get_num_threads():
            run.ctx.log(
                "The number of CPU threads changed: bytes may differ from an uninterrupted run.", level="warning"
            )
    return trainer


def train(run: Run, trainer: Trainer) -> None:
    """The loop: harvest a block, shuffle it, step; observe; checkpoint between blocks; stop."""
    config, ctx, progress = run.config, run.ctx, trainer.progress
    clock = _Clock(trainer, config.checkpoint_interval_seconds)
    while progress.epoch < config.max_epochs and progress.tokens < trainer.total_tokens:
        epoch = progress.epoch
        blocks = epoch_blocks(run.corpus, seed=config.seed, epoch=epoch, block_tokens=config.block_tokens)
        for number in range(progress.block, len(blocks)):
            x_ND = trainer.prepare(run.activations(blocks[number]), normalize=config.normalize_activations)
            for rows in batch_rows(len(x_ND), config.sae_batch_tokens, seed=config.seed, epoch=epoch, block=number):
                ctx.check_cancelled()
                observe(run, trainer, trainer.step(x_ND[torch.from_numpy(rows)]), clock)
                if progress.tokens >= trainer.total_tokens:
                    break
            progress.block = number + 1
            if progress.tokens >= trainer.total_tokens:
                break
            if clock.checkpoint_due():
                save_checkpoint(run, trainer)
                clock.checkpointed()
        mean = trainer.finish_epoch()
        ctx.log(f"Epoch {epoch + 1}: mean loss {mean:.4f}.")
        if mean < config.min_loss:
            ctx.log(f"Stopped early: {mean:.4f} is below min_loss.")
            break
    clock.stop()


def observe(run: Run, trainer: Trainer, out: StepOutput, clock: _Clock) -> None:
    """Reports a step."""
    done = trainer.progress.tokens / trainer.total_tokens
    rate = clock.tokens_per_second()
    remaining = (trainer.total_tokens - trainer.progress.tokens) / rate / (_TRAINED - _TOKENISED) if rate else None
    run.ctx.metrics(out.step, out.metrics() | {"tokens_per_second": rate, "epoch": float(trainer.progress.epoch + 1)})
    run.ctx.progress(
        "harvest and train",
        fraction=_TOKENISED + (_TRAINED - _TOKENISED) * min(done, 1.0),
        current=trainer.progress.tokens,
        total=trainer.total_tokens,
        unit="tokens",
        remaining_s=remaining,
        message=f"Epoch {trainer.progress.epoch + 1}, step {out.step}, loss {out.current_loss:.4f}",
    )


def save_checkpoint(run: Run, trainer: Trainer) -> ArtifactRecord:
    """Commits the state as it is between two blocks."""
    step = trainer.progress.step
    writer = run.ctx.stage_artifact(f"checkpoints/step_{step:08d}", "checkpoint", step=step)
    try:
        write_state(trainer, writer, identity=identity(run))
    except BaseException:
        writer.discard()
        raise
    return run.ctx.commit(writer)


def identity(run: Run) -> str:
    """Digest of everything that the result is a function of."""
    body = [run.config.numeric(), run.corpus.sha256, run.lm.facts.revision, run.lm.layer]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class _Clock:
    """Time, kept away from numerics: training seconds, speed, and when a checkpoint is due."""

    def __init__(self, trainer: Trainer, interval_s: float) -> None:
        self._progress = trainer.progress
        self._interval = interval_s
        self._start = self._last = self._checkpoint = time.monotonic()
        self._tokens = trainer.progress.tokens

    def tokens_per_second(self) -> float:
        """Speed of this attempt, harvest included."""
        return (self._progress.tokens - self._tokens) / max(time.monotonic() - self._start, 1e-9)

    def checkpoint_due(self) -> bool:
        """Whether the interval is over."""
        self.stop()
        return time.monotonic() - self._checkpoint >= self._interval

    def checkpointed(self) -> None:
        """A checkpoint was committed."""
        self._checkpoint = time.monotonic()

    def stop(self) -> None:
        """Adds the time since the last call to the run's training seconds."""
        now = time.monotonic()
        self._progress.seconds += now - self._last
        self._last = now


def _finish(run: Run, trainer: Trainer) -> TrainResult:
    """Evaluates and writes every artifact."""
    ctx, sae = run.ctx, trainer.folded()

    def evaluating(share: float) -> None:
        ctx.progress("evaluating", fraction=_TRAINED + (_EVALUATED - _TRAINED) * share)

    def writing(share: float) -> None:
        ctx.progress("writing", fraction=_EVALUATED + (1.0 - _EVALUATED) * share)

    metrics, frequency_F = evaluate(run, sae, evaluating)
    stats = _stats(run, trainer, metrics)
    for gate in stats.quality_gates:
        if not gate.passed:
            ctx.log(f"Gate {gate.name}: {gate.value:.4g}, but {gate.threshold}. {gate.remedy}", level="warning")
    sae_sha256 = commit_sae(run, sae, frequency_F).file(WEIGHTS_FILE).sha256
    _, code_tokens = commit_codes(run, sae, sae_sha256, writing)
    result = TrainResult(
        training_stats=stats,
        feature_count=run.config.hidden_dim,
        model_info=_model_info(run.lm),
        sae_sha256=sae_sha256,
        corpus=CorpusStatistics(
            sha256=run.corpus.sha256,
            documents=run.corpus.table.n_documents,
            dropped_documents=run.corpus.table.dropped_documents,
            heldout_documents=len(run.corpus.heldout),
            tokens=int(run.corpus.real_tokens.sum()),
            code_tokens=code_tokens,
        ),
    )
    commit_metadata(run, {"job_id": ctx.job_id, "hook_name": run.hook_name, "seed": run.config.seed} | asdict(result))
    ctx.progress("writing", fraction=1.0)
    return result


def _stats(run: Run, trainer: Trainer, metrics: SaeMetrics) -> TrainingStats:
    """Figures of the run."""
    progress = trainer.progress
    losses = progress.epoch_losses
    best = min(losses)
    dead_share = metrics.dead_features / run.config.hidden_dim
    return TrainingStats(
        final_loss=metrics.fvu,
        total_epochs=len(losses),
        training_time_seconds=progress.seconds,
        convergence_epoch=1 + next(i for i, loss in enumerate(losses) if loss <= best * 1.01),
        feature_statistics=FeatureStatistics(
            total_features=run.config.hidden_dim,
            active_features=metrics.active_features,
            dead_features=metrics.dead_features,
            mean_activation=metrics.mean_activation,
            sparsity_achieved=metrics.density,
        ),
        explained_variance=metrics.explained_variance,
        fvu=metrics.fvu,
        l0=metrics.l0,
        cosine=metrics.cosine,
        tokens=progress.tokens,
        tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
        heldout_tokens=metrics.tokens,
        quality_gates=quality_gates(
            explained_variance=metrics.explained_variance,
            density=metrics.density,
            dead_share=dead_share,
            epoch_losses=losses,
        ),
        metrics_version=METRICS_VERSION,
        deterministic=run.lm.device.type == "cpu",
    )


def _model_info(lm: LoadedLM) -> ModelInfo:
    facts = lm.facts
    return ModelInfo(
        model_name=facts.model_name,
        actual_model_loaded=facts.model_name,
        architecture=facts.architecture,
        total_layers=facts.total_layers,
        selected_layer=lm.layer,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        requires_token=facts.requires_token,
        revision=facts.revision,
    )
