"""The codes of an imported SAE: the model on the corpus at the SAE's hook, encoded and written.

Only blocks that the hook needs are loaded; one block of activations is in memory at a time. Owns order, checks
and progress of this; harvesting, encoding and files are mistudio_torch's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mistudio_core.corpus.about import open_corpus
from mistudio_core.errors import InvalidInput, LimitReached
from mistudio_core.gpus import GB
from mistudio_core.hostmemory import available_bytes
from mistudio_core.jobs.context import JobContext
from mistudio_find.config import FindConfig
from mistudio_find.imported_sae import ENCODED, LOADED, ORIGIN_FILE, TOKENISED, Imported, check_width, hook_names
from mistudio_torch import encoding
from mistudio_torch.cpu import keep_memory
from mistudio_torch.formats.saelens import WEIGHTS_FILE, plain_metadata, save_sae
from mistudio_torch.harvest import harvest
from mistudio_torch.lm.facts import ModelFacts, block_of
from mistudio_torch.lm.hookpoints import HookPoint, parse_hook
from mistudio_torch.lm.load import LoadedLM, load_lm
from mistudio_torch.metrics import MetricAccumulator
from mistudio_torch.sae import Sae
from mistudio_torch.tokenised import Array, TokenisedCorpus, sample_documents, tokenised

BLOCK_TOKENS = 32_768
"""Tokens harvested at a time."""
BATCH_SIZE = 16
"""Sequences of a forward pass."""
WORST_FVU, DOUBTFUL_FVU = 1.0, 0.9
"""An SAE that is worse than the mean of the activations is refused; one little better is warned of."""
_FIT_TOKENS = 4096
_LENGTH = 512
_PROCESS_BYTES = 520_000_000


def make(config: FindConfig, ctx: JobContext, found: Imported) -> None:
    """Commits the artifacts `sae` and `codes`."""
    keep_memory()
    reads, writes = hook_names(config, found.metadata)
    hooks = [parse_hook(name) for name in dict.fromkeys(name for name in (reads, writes) if name)]
    lm = _load(config, ctx, found.sae, hooks)
    check_width(found.sae, config.model_name, [(hook.name, lm.width(hook)) for hook in hooks])
    corpus = _corpus(config, ctx, lm, found)
    chosen = sample_documents(corpus.real_tokens, config.max_tokens, config.seed)
    _announce(ctx, corpus, chosen)
    ahead: dict[int, Mapping[str, Tensor]] = {}
    plan = encoding.EncodePlan(
        corpus=corpus,
        chosen=chosen,
        activations=_harvester(ctx, lm, corpus, chosen, ahead),
        block_tokens=BLOCK_TOKENS,
        first_documents=max(1, int((corpus.real_tokens[chosen].cumsum() <= _FIT_TOKENS).sum())),
    )
    fvu = _fit(ctx, found, plan, [hook.name for hook in hooks], ahead)
    origin = dict(found.origin) | {
        "hook_name": hooks[0].name,
        "model_revision": lm.facts.revision,
        "corpus_sha256": corpus.sha256,
    }
    digest = _commit_sae(config, ctx, found, origin, lm)
    meta = encoding.codes_meta(
        lm,
        found.sae,
        hook_name=hooks[0].name,
        layer=hooks[0].layer if hooks[0].kind != "module" else lm.layer,
        sae_sha256=digest,
        corpus_sha256=corpus.sha256,
        corpus_name=config.corpus_file,
    )
    meta["origin"] = origin | ({} if fvu is None else {"fvu": fvu})
    item = encoding.CodesOf(artifact="codes", sae=found.sae, hook_name=hooks[0].name, meta=meta)
    encoding.commit_codes(ctx, plan, [item], lambda share: _report(ctx, "encode", share))


def _load(config: FindConfig, ctx: JobContext, sae: Sae, hooks: list[HookPoint]) -> LoadedLM:
    """The model up to the deepest hook; hooks, widths and memory are checked before weights are fetched."""

    def wanted(facts: ModelFacts) -> list[HookPoint]:
        known = [(hook.name, facts.hidden_size) for hook in hooks if hook.kind.startswith("resid")]
        if len(known) == len(hooks):
            check_width(sae, facts.model_name, known)
        _check_memory(facts, sae, hooks, on_gpu=not ctx.device.startswith("cpu"))
        return hooks

    on_cpu = ctx.device.startswith("cpu")
    return load_lm(
        config.model_name,
        wanted,
        token=ctx.secret("huggingface_token"),
        dtype=torch.float32 if on_cpu else torch.bfloat16,
        device="cpu" if on_cpu else ctx.device,
        model_root=config.model_root,
        watch=ctx.check_cancelled,
    )


def _check_memory(facts: ModelFacts, sae: Sae, hooks: list[HookPoint], *, on_gpu: bool) -> None:
    """What model, SAE and one block of activations take at least. Raises LimitReached (INSUFFICIENT_MEMORY)."""
    blocks = 1 + max(hook.layer if hook.kind != "module" else block_of(f"{hook.path}.") or 0 for hook in hooks)
    parameters = blocks * facts.block_parameters + facts.other_parameters - facts.head_parameters
    held = BLOCK_TOKENS * sae.shape.d_in * len(hooks) + 3 * encoding.ENCODE_TOKENS * sae.shape.d_sae
    needed = _PROCESS_BYTES + 4 * held + (0 if on_gpu else 4 * parameters)
    free = available_bytes()
    if needed > free:
        raise LimitReached(
            f"Not enough memory. Required: {needed / GB:.1f} GB for {facts.model_name} up to its hook and the SAE, "
            f"available: {free / GB:.1f} GB. Free some memory, or analyse it on a larger machine.",
            reason="INSUFFICIENT_MEMORY",
            facts={"required_bytes": needed, "available_bytes": free},
        )


def _corpus(config: FindConfig, ctx: JobContext, lm: LoadedLM, found: Imported) -> TokenisedCorpus:
    """The corpus in sequences as long as those that the SAE was trained on, with or without BOS as they were."""
    ctx.check_cancelled()
    stored = open_corpus(ctx.input("corpus"))
    length = min(found.metadata.context_size or _LENGTH, lm.facts.max_positions)
    bos_id = lm.bos_id
    if found.metadata.prepend_bos is False and bos_id is not None:
        ctx.log("The SAE was trained without a BOS token: none is put before the texts.")
        bos_id = None

    def on_batch(documents: int, total: int) -> None:
        ctx.check_cancelled()
        share = min(documents / total, 1.0) if total else 0.0
        fraction = LOADED + (TOKENISED - LOADED) * share
        ctx.progress("load", fraction=fraction, current=documents, total=total, unit="documents")

    return tokenised(
        stored,
        lm.tokenizer,
        ctx.scratch / "tokens",
        max_sequence_length=max(2, length),
        bos_id=bos_id,
        on_batch=on_batch,
    )


def _announce(ctx: JobContext, corpus: TokenisedCorpus, chosen: Array) -> None:
    """Says how much of the corpus is analysed."""
    tokens, every = int(corpus.real_tokens[chosen].sum()), int(corpus.real_tokens.sum())
    part = "" if tokens == every else f" of {len(corpus.real_tokens):,} with {every:,}; max_tokens chooses how many"
    ctx.log(f"{len(chosen):,} documents with {tokens:,} tokens are analysed{part}.")
    if corpus.table.dropped_documents:
        dropped = corpus.table.dropped_documents
        ctx.log(f"{dropped} documents have no token of the model and are left out.", level="warning")


def _harvester(
    ctx: JobContext,
    lm: LoadedLM,
    corpus: TokenisedCorpus,
    chosen: Array,
    ahead: dict[int, Mapping[str, Tensor]],
) -> Callable[[Array], Mapping[str, Tensor]]:
    """Activations of documents; reports how far it is by tokens.

    `ahead` holds those of blocks that were harvested already, by their first document: each is given out once.
    """
    every = max(1, int(corpus.real_tokens[chosen].sum()))
    before = dict(zip(chosen.tolist(), corpus.real_tokens[chosen].cumsum().tolist(), strict=True))

    def activations(documents: Array) -> Mapping[str, Tensor]:
        first = int(documents[0])
        if first in ahead:
            return ahead.pop(first)
        _report(ctx, "harvest", (before[first] - int(corpus.real_tokens[first])) / every)
        return harvest(lm, corpus.table, documents.tolist(), batch_size=BATCH_SIZE, on_batch=ctx.check_cancelled)

    return activations


def _report(ctx: JobContext, stage: str, share: float) -> None:
    ctx.check_cancelled()
    ctx.progress(stage, fraction=TOKENISED + (ENCODED - TOKENISED) * share)


def _fit(
    ctx: JobContext,
    found: Imported,
    plan: encoding.EncodePlan,
    hooks: list[str],
    ahead: dict[int, Mapping[str, Tensor]],
) -> float | None:
    """Fraction of variance unexplained on the first documents; None where what it writes is not known.

    Their activations are left in `ahead`, so that they are not harvested again to be encoded.
    Raises InvalidInput for an SAE that is no better than the mean: it reads something else.
    """
    sae = found.sae
    if len(hooks) == 1 and (found.metadata.is_transcoder or sae.shape.d_in != sae.shape.d_out):
        return None
    first = plan.blocks()[0]
    activations = ahead[int(first[0])] = plan.activations(first)
    x_ND, y_ND = activations[hooks[0]][:_FIT_TOKENS], activations[hooks[-1]][:_FIT_TOKENS]
    sums = MetricAccumulator(sae.shape.d_out, sae.shape.d_sae)
    for part in encoding.parts(len(x_ND)):
        y_hat_ND, codes = sae.reconstruct(x_ND[part])
        sums.add(y_ND[part], y_hat_ND, codes)
    figures = sums.result()
    text = (
        f"The SAE leaves {figures.fvu:.3g} of the variance of {hooks[-1]} unexplained (L0 {figures.l0:.1f}) on "
        f"{len(x_ND):,} tokens."
    )
    if len(x_ND) > 1 and not figures.fvu <= WORST_FVU:
        raise InvalidInput(
            f"{text} It is worse than their mean: it does not belong here. Usual reasons: another layer, hook or "
            "model, or activations that were scaled. Set model_name and hook_name to those that it was trained on.",
            facts={"fvu": figures.fvu, "l0": figures.l0, "hook_name": hooks[0]},
        )
    if figures.fvu > DOUBTFUL_FVU:
        ctx.log(f"{text} Check that model and hook are those that it was trained on.", level="warning")
    else:
        ctx.log(text)
    return float(figures.fvu)


def _commit_sae(
    config: FindConfig, ctx: JobContext, found: Imported, origin: Mapping[str, object], lm: LoadedLM
) -> str:
    """The SAE in our own layout; digest of its file of weights."""
    kept = ctx.committed("sae")
    if kept is not None:
        return kept.record.file(WEIGHTS_FILE).sha256
    metadata = replace(found.metadata, model_name=config.model_name, hook_name=str(origin["hook_name"]))
    writer = ctx.stage_artifact("sae", "sae")
    try:
        save_sae(
            found.sae,
            writer.path,
            metadata=plain_metadata(metadata) | {"model_revision": lm.facts.revision},
        )
        writer.write(ORIGIN_FILE, json.dumps(origin, sort_keys=True, indent=1).encode())
    except BaseException:
        writer.discard()
        raise
    return ctx.commit(writer).file(WEIGHTS_FILE).sha256
