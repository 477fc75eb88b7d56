"""What a finished run leaves: held-out figures, the SAE, the sparse codes, the metadata.

Reads a trained SAE that takes raw activations; trains nothing. Each function writes one artifact.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.jobs.context import JobContext
from mistudio_torch.codes import CodesWriter
from mistudio_torch.harvest import harvest
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.metrics import MetricAccumulator, SaeMetrics
from mistudio_torch.sae import Sae, SparseCodes
from mistudio_torch.sae.saelens import save_sae
from mistudio_train.config import TrainConfig
from mistudio_train.data import Array, Corpus, cut_blocks, sample_documents

_ENCODE_TOKENS = 2048
_EVALUATE_TOKENS = 2_000_000
_PACKAGES = ("mistudio", "torch", "transformers", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What every stage of a job works with."""

    config: TrainConfig
    """What was asked for."""
    ctx: JobContext
    """The runtime."""
    lm: LoadedLM
    """The model, cut off after the layer."""
    corpus: Corpus
    """The tokenised corpus."""

    def activations(self, documents: Array) -> Tensor:
        """x_ND of documents; watches for a cancel before each forward pass."""
        return harvest(
            self.lm,
            self.corpus.table,
            documents.tolist(),
            batch_size=self.config.batch_size,
            on_batch=self.ctx.check_cancelled,
        )

    @property
    def hook_name(self) -> str:
        """SAELens name of the hook."""
        return f"blocks.{self.lm.layer}.hook_resid_post"


def evaluate(run: Run, sae: Sae, on_share: Callable[[float], None]) -> tuple[SaeMetrics, Tensor]:
    """Figures on held-out documents (at most 2 million tokens), and each feature's firing frequency (F,)."""
    real = run.corpus.real_tokens
    heldout = run.corpus.heldout
    heldout = heldout[sample_documents(real[heldout], _EVALUATE_TOKENS, run.config.seed)]
    sums = MetricAccumulator(sae.shape.d_in, sae.shape.d_sae)
    blocks = cut_blocks(heldout, real, run.config.block_tokens)
    for number, block in enumerate(blocks):
        on_share(number / len(blocks))
        x_ND = run.activations(block)
        for x_BD, codes in _encoded(sae, x_ND):
            run.ctx.check_cancelled()
            sums.add(x_BD, sae.decode(codes, len(x_BD)), codes)
    return sums.result(), sums.fired_F.double() / max(sums.tokens, 1)


def _encoded(sae: Sae, x_ND: Tensor) -> Iterator[tuple[Tensor, SparseCodes]]:
    """Parts of a block with their codes, in bounded memory."""
    for start in range(0, len(x_ND), _ENCODE_TOKENS):
        x_BD = x_ND[start : start + _ENCODE_TOKENS]
        yield x_BD, sae.encode(x_BD)


def commit_sae(run: Run, sae: Sae, frequency_F: Tensor) -> ArtifactRecord:
    """Writes and commits the `sae` artifact."""
    facts = run.lm.facts
    writer = run.ctx.stage_artifact("sae", "sae")
    metadata = {
        "model_name": facts.model_name,
        "model_class_name": run.lm.model_class,
        "model_revision": facts.revision,
        "hook_name": run.hook_name,
        "dataset_path": run.config.corpus_name or None,
        "dataset_sha256": run.corpus.sha256,
        "context_size": run.config.sequence_length_of(facts.max_positions),
        "prepend_bos": run.lm.bos_id is not None,
        "mistudio_version": package_version("mistudio"),
    }
    save_sae(sae, writer.path, metadata=metadata, firing_frequency_F=frequency_F)
    return run.ctx.commit(writer)


def commit_codes(run: Run, sae: Sae, sae_sha256: str, on_share: Callable[[float], None]) -> tuple[ArtifactRecord, int]:
    """Writes and commits the `codes` artifact; returns the number of tokens in it."""
    facts, corpus = run.lm.facts, run.corpus
    chosen = sample_documents(corpus.real_tokens, run.config.max_code_tokens, run.config.seed)
    writer = run.ctx.stage_artifact("codes", "codes")
    meta = {
        "model_name": facts.model_name,
        "model_revision": facts.revision,
        "layer": run.lm.layer,
        "hook_name": run.hook_name,
        "architecture": sae.shape.architecture,
        "d_model": facts.hidden_size,
        "sae_sha256": sae_sha256,
        "corpus_sha256": corpus.sha256,
        "corpus_name": run.config.corpus_name,
        "special_tokens": "excluded: positions count real tokens only",
    }
    try:
        with CodesWriter(writer.folder, d_sae=sae.shape.d_sae, meta=meta) as codes:
            _write_codes(run, sae, codes, chosen, on_share)
            codes.close(run.ctx.check_cancelled)
    except BaseException:
        writer.discard()
        raise
    return run.ctx.commit(writer), codes.n_tokens


def _write_codes(run: Run, sae: Sae, codes: CodesWriter, chosen: Array, on_share: Callable[[float], None]) -> None:
    """Harvests the chosen documents block by block and adds each."""
    real = run.corpus.real_tokens
    heldout = set(run.corpus.heldout.tolist())
    wanted = set(chosen.tolist())
    texts = (text for number, text in enumerate(run.corpus.texts()) if number in wanted)
    blocks = cut_blocks(chosen, real, run.config.block_tokens)
    for number, block in enumerate(blocks):
        on_share(number / len(blocks))
        columns = _columns(run, sae, run.activations(block))
        start = 0
        for document in block.tolist():
            ids, spans = _document_tokens(run.corpus, document)
            end = start + len(ids)
            first, last = np.searchsorted(columns[0], [start, end])
            token, feature, value = (column[first:last] for column in columns)
            codes.add_document(next(texts), ids, spans, token - start, feature, value, heldout=document in heldout)
            start = end


def _columns(run: Run, sae: Sae, x_ND: Tensor) -> tuple[Array, Array, Array]:
    """token, feature and value of every code in a block, tokens rising."""
    parts: list[tuple[Array, Array, Array]] = []
    start = 0
    for x_BD, part in _encoded(sae, x_ND):
        run.ctx.check_cancelled()
        parts.append((part.token_N.numpy() + start, part.feature_N.numpy(), part.value_N.numpy()))
        start += len(x_BD)
    token, feature, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return token, feature, value


def _document_tokens(corpus: Corpus, document: int) -> tuple[Array, Array]:
    """Ids and spans of a document's real tokens."""
    table = corpus.table
    sequences = table.sequences([document])
    part = slice(sequences[0][0], sequences[-1][1])
    real = ~np.asarray(table.special_T[part])
    return np.asarray(table.ids_T[part])[real], np.asarray(table.spans_T2[part])[real]


def commit_metadata(run: Run, body: Mapping[str, Any]) -> ArtifactRecord:
    """Writes and commits `metadata.json`: facts, hashes, seed, versions, full configuration, figures."""
    writer = run.ctx.stage_artifact("metadata", "metadata")
    full = {"versions": versions(_PACKAGES), "config": run.config.numeric(), **body}
    writer.write("metadata.json", json.dumps(full, sort_keys=True, indent=1, ensure_ascii=False, default=str).encode())
    return run.ctx.commit(writer)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of what computed the result."""
    found = {name: package_version(name) for name in packages}
    return found | {"python": platform.python_version(), "torch_threads": str(torch.get_num_threads())}


def package_version(name: str) -> str:
    """Version of an installed distribution; empty where it is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
