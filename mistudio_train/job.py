"""The one entry of Train's domain: `run(config, ctx)` trains SAEs and commits what came of them.

Called by the worker, by tests and by examples. Owns the order of stages, the training loop and
when a checkpoint is written; knows nothing of services. Input role: `corpus`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.errors import Failed, InvalidInput
from mistudio_core.jobs.context import JobContext
from mistudio_torch.cpu import keep_memory
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.hookpoints import HookPoint
from mistudio_torch.lm.load import LoadedLM, load_lm
from mistudio_torch.lm.source import check_layer
from mistudio_torch.sae import SaeShape
from mistudio_train.activation_cache import ActivationCache, size_of
from mistudio_train.checkpoint import read_states, write_states
from mistudio_train.config import TrainConfig
from mistudio_train.data import Corpus, batch_rows, epoch_blocks, read_corpus
from mistudio_train.finish import finish
from mistudio_train.hub_dataset import job_corpus
from mistudio_train.layer_probe import known_layer, probe
from mistudio_train.member import Member
from mistudio_train.memory_plan import MemoryPlan
from mistudio_train.memory_watch import MemoryWatch
from mistudio_train.parallel import ALONE, World
from mistudio_train.planner import check_memory
from mistudio_train.report import LOADED, TOKENISED, Clock, Reporter
from mistudio_train.result import TrainResult
from mistudio_train.run import Run, model_dtype
from mistudio_train.trainer import Trainer
from mistudio_train.variants import hook_of


def run(config: TrainConfig, ctx: JobContext) -> TrainResult:
    """Trains, evaluates, writes. Commits artifacts `sae`, `codes`, `metadata`, `curves` of each SAE, and checkpoints.

    Raises what load_lm and read_corpus do; LimitReached (INSUFFICIENT_MEMORY); Failed (NON_FINITE_LOSS)
    once no SAE is left; Corrupt; DiskFull; Cancelled; what processes.lead does.
    """
    if config.processes > 1:
        from mistudio_train import processes

        return processes.lead(config, ctx)
    members, stage = _trained(config, ctx, ALONE)
    return finish(stage, members)


def take_part(config: TrainConfig, ctx: JobContext, world: World) -> TrainResult | None:
    """The same as one of several processes: the leader measures and writes alone, the others return None."""
    members, stage = _trained(config, ctx, world)
    return None if world.rank else finish(replace(stage, world=ALONE), members)


def _trained(config: TrainConfig, ctx: JobContext, world: World) -> tuple[list[Member], Run]:
    """Everything up to the end of training."""
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_memory()
    stage, planned = _prepare(config, ctx, world)
    members = _members(stage)
    train(stage, members, MemoryWatch(planned, ctx.device))
    return members, stage


def _prepare(config: TrainConfig, ctx: JobContext, world: World) -> tuple[Run, MemoryPlan]:
    """Model and corpus, checked; and the memory that the run will take."""
    ctx.check_cancelled()
    ctx.progress("loading model", fraction=0.0, message=f"Loading {config.model_name}")
    plans: list[MemoryPlan] = []
    if config.auto_layer and config.layer_number is None:
        config = replace(config, layer_number=known_layer(ctx))
    lm = _load(config, ctx, plans)
    ctx.check_cancelled()
    stored = job_corpus(config.corpus_name, config.dataset, ctx, LOADED)

    def tokenised(documents: int, total: int) -> None:
        ctx.check_cancelled()
        share = min(documents / total, 1.0) if total else 0.0
        fraction = LOADED + (TOKENISED - LOADED) * share
        ctx.progress("tokenising", fraction=fraction, current=documents, total=total, unit="documents")

    corpus = read_corpus(
        stored,
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
    if corpus.table.n_documents == 1:
        ctx.log("The corpus has one document: figures are of the text that was trained on.", level="warning")
    if config.auto_layer and config.layer_number is None:
        config = replace(config, layer_number=world.agreed(probe(config, ctx, lm, corpus)))
        lm = _load(config, ctx, plans)
    variants = config.variants(lm.facts.total_layers)
    cache = _cache(config, ctx, lm, corpus)
    run = Run(config=config, ctx=ctx, lm=lm, corpus=corpus, variants=variants, world=world, cache=cache)
    if run.bfloat16:
        ctx.log(
            "The model is stored in bfloat16: activations to train on come of bfloat16 products, figures and codes of "
            "float32 ones. With dtype float32 all do."
        )
    return run, plans[-1]


def _cache(config: TrainConfig, ctx: JobContext, lm: LoadedLM, corpus: Corpus) -> ActivationCache | None:
    """The cache where it was asked for and a second epoch may come; its size is told before it is made."""
    if not config.cache_activations or config.max_epochs == 1:
        return None
    size = size_of(lm.widths, corpus.real_tokens, corpus.train)
    ctx.log(f"Activations of the training documents are kept on the disk: {size / 1e9:.3g} GB until the job ends.")
    return ActivationCache(ctx.kept / "activations", lm.widths, corpus.real_tokens, corpus.train)


def _load(config: TrainConfig, ctx: JobContext, plans: list[MemoryPlan]) -> LoadedLM:
    """The model up to the deepest hook; hooks, length and memory are checked before weights are fetched."""

    def hooks(facts: ModelFacts) -> list[HookPoint]:
        wanted = {hook.name: hook for variant in config.variants(facts.total_layers) for hook in variant.hooks}
        if config.auto_layer and config.layer_number is None:
            wanted |= {
                h.name: h for h in (hook_of(config.hook, n) for n in config.candidate_layers(facts.total_layers))
            }
        for hook in wanted.values():
            check_layer(facts, hook.layer)
        config.sequence_length_of(facts.max_positions)
        plans.append(check_memory(facts, config, ctx.device))
        return list(wanted.values())

    device = "cpu" if ctx.device.startswith("cpu") else ctx.device
    return load_lm(
        config.model_name,
        hooks,
        token=ctx.secret("huggingface_token"),
        dtype=model_dtype(config, ctx.device),
        device=device,
        quantization=config.quantization,
        cache_dir=config.cache_dir,
        model_root=config.model_root,
        watch=ctx.check_cancelled,
    )


def _members(run: Run) -> list[Member]:
    """One for each SAE, fresh or from the newest checkpoint."""
    config, widths = run.config, run.lm.widths
    all_tokens = config.max_epochs * int(run.corpus.real_tokens[run.corpus.train].sum())
    total = min(all_tokens, config.token_budget or all_tokens)
    members = []
    for variant in run.variants:
        shape = SaeShape(
            architecture=config.architecture,
            d_in=widths[variant.hooks[0].name],
            d_out=widths[variant.hooks[-1].name],
            d_sae=variant.hidden_dim,
            k=variant.k,
            sparsity_coeff=config.sparsity_coeff,
        )
        trainer = Trainer(
            shape,
            seed=variant.seed,
            learning_rate=config.learning_rate,
            total_tokens=total,
            device=run.lm.device,
            world=run.world,
        )
        members.append(Member(variant, trainer))
    checkpoint = run.ctx.latest_checkpoint()
    if checkpoint is not None:
        state = read_states(members, checkpoint, identity=identity(run), processes=run.world.size)
        run.ctx.log(f"Resumed at step {members[0].trainer.progress.step}.")
        if state["threads"] != torch.get_num_threads():
            run.ctx.log(
                "The number of CPU threads changed: bytes may differ from an uninterrupted run.", level="warning"
            )
    return members


def train(run: Run, members: Sequence[Member], watch: MemoryWatch) -> None:
    """The loop: harvest a block, let every SAE step through it; checkpoint between blocks; stop."""
    config = run.config
    clock = Clock(members, config.checkpoint_interval_seconds)
    reporter = Reporter(run, members, clock)
    while active := [m for m in members if m.active]:
        epoch = min(m.trainer.progress.epoch for m in active)
        blocks = epoch_blocks(
            run.corpus,
            seed=config.seed,
            epoch=epoch,
            block_tokens=config.block_tokens,
            total_tokens=members[0].trainer.total_tokens,
        )
        first = min(m.trainer.progress.block for m in active if m.trainer.progress.epoch == epoch)
        with closing(run.blocks(blocks[first:])) as harvested:
            for number, activations in enumerate(harvested, first):
                _train_block(run, members, activations, (epoch, number), reporter)
                if not any(m.waits_for(epoch, number + 1) for m in members) or _spent(members):
                    break
                if run.world.agreed(clock.checkpoint_due() or run.ctx.checkpoint_wanted()):
                    save_checkpoint(run, members)
                    clock.checkpointed()
                    for warning in watch.new_warnings():
                        run.ctx.log(warning, level="warning")
        for member in active:
            _end_epoch(run, member)
    clock.stop()
    if all(m.error for m in members):
        raise Failed(members[0].error or "", reason="NON_FINITE_LOSS")


def _train_block(
    run: Run,
    members: Sequence[Member],
    activations: Mapping[str, Tensor],
    place: tuple[int, int],
    reporter: Reporter,
) -> None:
    """One block through every SAE that waits for it; one that fails leaves the others alone."""
    n_tokens = len(next(iter(activations.values())))
    batches = batch_rows(n_tokens, run.config.sae_batch_tokens, seed=run.config.seed, epoch=place[0], block=place[1])
    for member in members:
        if not member.waits_for(*place) or _over(member):
            continue
        try:
            member.train_block(activations, batches, normalize=run.config.normalize_activations, on_step=reporter.step)
        except (Failed, InvalidInput) as error:
            if len(members) == 1:
                raise
            member.fail(error)
            run.ctx.log(f"{member.variant.name} failed and the others go on: {error.message}", level="error")


def _over(member: Member) -> bool:
    return member.trainer.progress.tokens >= member.trainer.total_tokens


def _spent(members: Sequence[Member]) -> bool:
    """Whether every SAE has had its tokens."""
    return all(_over(m) for m in members if m.active)


def _end_epoch(run: Run, member: Member) -> None:
    """Closes an epoch of an SAE, and the SAE where nothing is left to train."""
    if not member.active:
        return
    trainer, config = member.trainer, run.config
    mean = trainer.finish_epoch()
    epochs, name = len(trainer.progress.epoch_losses), member.variant.name
    run.ctx.log(f"{name and name + ': '}Epoch {epochs}: mean loss {mean:.4f}.")
    early = mean < config.min_loss
    if early:
        run.ctx.log(f"{name and name + ': '}Stopped early: {mean:.4f} is below min_loss.")
    trainer.progress.finished = early or epochs >= config.max_epochs or _over(member)


def save_checkpoint(run: Run, members: Sequence[Member]) -> ArtifactRecord | None:
    """Commits the states as they are between two blocks; the leader's business where there are several processes."""
    if run.world.rank:
        return None
    step = max(m.trainer.progress.step for m in members)
    writer = run.ctx.stage_artifact(f"checkpoints/step_{step:08d}", "checkpoint", step=step)
    try:
        write_states(members, writer, identity=identity(run), processes=run.world.size)
    except BaseException:
        writer.discard()
        raise
    return run.ctx.commit(writer)


def identity(run: Run) -> str:
    """Digest of everything that the result is a function of."""
    config = run.config.numeric()
    del config["processes"]  # a checkpoint names it itself, so that the refusal can say what differs
    body = [config, run.corpus.sha256, run.lm.facts.revision]
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()
