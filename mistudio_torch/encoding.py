"""Sparse codes of a corpus: documents through the model and through SAEs, into `codes` artifacts.

One pass of the model serves all SAEs; one block of activations is in memory at a time. Who harvests,
and what SAEs they are, is the caller's business. N tokens of a block, D width of a hook.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.jobs.context import JobContext
from mistudio_torch.codes import CodesWriter
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.sae import Sae
from mistudio_torch.tokenised import Array, TokenisedCorpus, cut_blocks

ENCODE_TOKENS = 2048
"""Tokens that are encoded at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodesOf:
    """One SAE whose codes are written."""

    artifact: str
    """Name of the artifact."""
    sae: Sae
    """In its inference form, for raw activations, on the CPU."""
    hook_name: str
    """The hook that it reads."""
    meta: Mapping[str, Any]
    """What the codes are of, see `codes_meta`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodePlan:
    """Which documents are encoded, and how."""

    corpus: TokenisedCorpus
    """The corpus."""
    chosen: Array
    """int64: documents of its table, rising."""
    activations: Callable[[Array], Mapping[str, Tensor]]
    """Documents -> hook name -> x_ND of their real tokens, in their order."""
    block_tokens: int
    """Tokens harvested at a time."""
    heldout: Array | None = None
    """int64: documents that were held out from training; None where that is not known."""
    first_documents: int = 0
    """Documents that are harvested in a block of their own, before the others; 0: none."""

    def blocks(self) -> list[Array]:
        """The documents as they are harvested."""
        first, rest = self.chosen[: self.first_documents], self.chosen[self.first_documents :]
        blocks = cut_blocks(rest, self.corpus.real_tokens, self.block_tokens) if len(rest) else []
        return [first, *blocks] if len(first) else blocks


def codes_meta(
    lm: LoadedLM, item: Sae, *, hook_name: str, layer: int, sae_sha256: str, corpus_sha256: str, corpus_name: str
) -> dict[str, Any]:
    """What `meta.json` says of the origin of codes."""
    return {
        "model_name": lm.facts.model_name,
        "model_revision": lm.facts.revision,
        "layer": layer,
        "hook_name": hook_name,
        "architecture": item.shape.architecture,
        "d_model": item.shape.d_in,
        "sae_sha256": sae_sha256,
        "corpus_sha256": corpus_sha256,
        "corpus_name": corpus_name,
        "tokenizer_sha256": tokenizer_sha256(lm.tokenizer),
        "special_tokens": "excluded: positions count real tokens only",
    }


def tokenizer_sha256(tokenizer: Any) -> str:
    """Digest of everything that a fast tokenizer does with a text; hex."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode("utf-8", "replace")).hexdigest()


def commit_codes(ctx: JobContext, plan: EncodePlan, items: Sequence[CodesOf], on_share: Callable[[float], None]) -> int:
    """Writes and commits the `codes` artifact of every SAE; returns the tokens in each. Raises Cancelled, DiskFull."""
    writers: list[ArtifactWriter] = []
    try:
        with ExitStack() as stack:
            stores = []
            for item in items:
                writers.append(ctx.stage_artifact(item.artifact, "codes"))
                work = ctx.kept / "codes" / item.artifact
                store = CodesWriter(writers[-1].folder, d_sae=item.sae.shape.d_sae, meta=item.meta, work=work)
                stores.append(stack.enter_context(store))
            _write_codes(plan, items, stores, ctx.check_cancelled, on_share)
            for store in stores:
                store.close(ctx.check_cancelled)
    except BaseException:
        for writer in writers:
            writer.discard()
        raise
    for writer in writers:
        ctx.commit(writer)
    return stores[0].n_tokens


def _write_codes(
    plan: EncodePlan,
    items: Sequence[CodesOf],
    stores: Sequence[CodesWriter],
    check: Callable[[], None],
    on_share: Callable[[float], None],
) -> None:
    """Harvests the chosen documents block by block and adds each to every store."""
    corpus = plan.corpus
    heldout = np.zeros(len(corpus.real_tokens), np.bool_)
    if plan.heldout is not None:
        heldout[plan.heldout] = True
    documents = corpus.documents(plan.chosen)
    blocks = plan.blocks()
    taken_up, done = [store.n_documents for store in stores], 0
    for number, block in enumerate(blocks):
        on_share(number / len(blocks))
        if done + len(block) <= min(taken_up):  # an attempt before this one has written them
            done += len(block)
            for _ in block:
                next(documents)
            continue
        activations = plan.activations(block)
        columns = [encoded(item.sae, activations[item.hook_name], check) for item in items]
        start = 0
        for document in block.tolist():
            ids, spans = corpus.tokens_of(document)
            end = start + len(ids)
            text, source = next(documents)
            done += 1
            for store, found, known in zip(stores, columns, taken_up, strict=True):
                if done <= known:
                    continue
                first, last = np.searchsorted(found[0], [start, end])
                token, feature, value = (column[first:last] for column in found)
                store.add_document(
                    text,
                    ids,
                    spans,
                    token - start,
                    feature,
                    value,
                    labels=source.labels,
                    group=source.group,
                    time=source.time,
                    heldout=bool(heldout[document]),
                )
            start = end


def encoded(sae: Sae, x_ND: Tensor, check: Callable[[], None] = lambda: None) -> tuple[Array, Array, Array]:
    """Token, feature and value of every code in a block, tokens rising; `check` is called often and may raise."""
    found: list[tuple[Array, Array, Array]] = []
    for part in parts(len(x_ND)):
        check()
        codes = sae.encode(x_ND[part])
        found.append((codes.token_N.numpy() + part.start, codes.feature_N.numpy(), codes.value_N.numpy()))
    token, feature, value = (np.concatenate(column) for column in zip(*found, strict=True))
    return token, feature, value


def parts(n: int) -> Iterator[slice]:
    """Rows in parts of bounded memory."""
    for start in range(0, n, ENCODE_TOKENS):
        yield slice(start, start + ENCODE_TOKENS)
