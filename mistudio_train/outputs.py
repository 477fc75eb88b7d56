"""What a finished run leaves of each SAE: its weights, sparse codes, metadata, pictures of its training.

Each function writes one artifact. Figures come from `measure`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactRecord, ArtifactWriter
from mistudio_torch.codes import CodesWriter
from mistudio_torch.formats.saelens import save_sae
from mistudio_torch.metrics import DENSITY_LOG10_EDGES
from mistudio_torch.sae import Sae
from mistudio_train.data import Array, Corpus, cut_blocks, sample_documents
from mistudio_train.measure import Measured, Trained, parts
from mistudio_train.member import Member
from mistudio_train.pictures import EVENTS_FILE, curve_files, density_files, event_file
from mistudio_train.run import Run
from mistudio_train.variants import Variant

_PACKAGES = ("mistudio", "torch", "transformers", "tokenizers", "safetensors", "numpy", "numba")


def commit_sae(run: Run, item: Trained, frequency_F: Tensor) -> ArtifactRecord:
    """Writes and commits the `sae` artifact."""
    facts, variant = run.lm.facts, item.variant
    writer = run.ctx.stage_artifact(variant.artifact("sae"), "sae")
    metadata = {
        "model_name": facts.model_name,
        "model_class_name": run.lm.model_class,
        "model_revision": facts.revision,
        "hook_name": variant.hook.name,
        "dataset_path": run.config.corpus_name or None,
        "dataset_sha256": run.corpus.sha256,
        "context_size": run.config.sequence_length_of(facts.max_positions),
        "prepend_bos": run.lm.bos_id is not None,
        "mistudio_version": package_version("mistudio"),
        "trained_as": run.config.architecture,
    }
    if variant.target is not None:
        metadata["hook_name_out"] = variant.target.name
    save_sae(item.sae, writer.path, metadata=metadata, firing_frequency_F=frequency_F)
    return run.ctx.commit(writer)


def commit_codes(
    run: Run, trained: Sequence[Trained], sha256s: Sequence[str], on_share: Callable[[float], None]
) -> int:
    """Writes and commits the `codes` artifact of every SAE on one pass of the model; returns the tokens in each."""
    chosen = sample_documents(run.corpus.real_tokens, run.config.max_code_tokens, run.config.seed)
    writers: list[ArtifactWriter] = []
    try:
        with ExitStack() as stack:
            stores = []
            for item, sha256 in zip(trained, sha256s, strict=True):
                writers.append(run.ctx.stage_artifact(item.variant.artifact("codes"), "codes"))
                meta = _codes_meta(run, item, sha256)
                store = CodesWriter(writers[-1].folder, d_sae=item.sae.shape.d_sae, meta=meta)
                stores.append(stack.enter_context(store))
            _write_codes(run, trained, stores, chosen, on_share)
            for store in stores:
                store.close(run.ctx.check_cancelled)
    except BaseException:
        for writer in writers:
            writer.discard()
        raise
    for writer in writers:
        run.ctx.commit(writer)
    return stores[0].n_tokens


def _codes_meta(run: Run, item: Trained, sae_sha256: str) -> dict[str, Any]:
    """What the codes are of."""
    facts = run.lm.facts
    return {
        "model_name": facts.model_name,
        "model_revision": facts.revision,
        "layer": item.variant.hook.layer if item.variant.hook.kind != "module" else run.lm.layer,
        "hook_name": item.variant.hook.name,
        "architecture": item.sae.shape.architecture,
        "d_model": item.sae.shape.d_in,
        "sae_sha256": sae_sha256,
        "corpus_sha256": run.corpus.sha256,
        "corpus_name": run.config.corpus_name,
        "special_tokens": "excluded: positions count real tokens only",
    }


def _write_codes(
    run: Run,
    trained: Sequence[Trained],
    stores: Sequence[CodesWriter],
    chosen: Array,
    on_share: Callable[[float], None],
) -> None:
    """Harvests the chosen documents block by block and adds each to every store."""
    real = run.corpus.real_tokens
    heldout = np.zeros(len(real), np.bool_)
    heldout[run.corpus.heldout] = True
    documents = run.corpus.documents(chosen)
    blocks = cut_blocks(chosen, real, run.config.block_tokens)
    for number, block in enumerate(blocks):
        on_share(number / len(blocks))
        activations = run.activations(block)
        columns = [_columns(run, t.sae, activations[t.variant.hook.name]) for t in trained]
        start = 0
        for document in block.tolist():
            ids, spans = _document_tokens(run.corpus, document)
            end = start + len(ids)
            text, source = next(documents)
            for store, found in zip(stores, columns, strict=True):
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


def _columns(run: Run, sae: Sae, x_ND: Tensor) -> tuple[Array, Array, Array]:
    """token, feature and value of every code in a block, tokens rising."""
    found: list[tuple[Array, Array, Array]] = []
    for part in parts(len(x_ND)):
        run.ctx.check_cancelled()
        codes = sae.encode(x_ND[part])
        found.append((codes.token_N.numpy() + part.start, codes.feature_N.numpy(), codes.value_N.numpy()))
    token, feature, value = (np.concatenate(column) for column in zip(*found, strict=True))
    return token, feature, value


def _document_tokens(corpus: Corpus, document: int) -> tuple[Array, Array]:
    """Ids and spans of a document's real tokens."""
    table = corpus.table
    sequences = table.sequences([document])
    part = slice(sequences[0][0], sequences[-1][1])
    real = ~np.asarray(table.special_T[part])
    return np.asarray(table.ids_T[part])[real], np.asarray(table.spans_T2[part])[real]


def commit_curves(run: Run, member: Member, measured: Measured) -> ArtifactRecord:
    """Writes and commits the `curves` artifact: pictures of training and feature density, TensorBoard's file."""
    variant, metrics = member.variant, measured.metrics
    title = " ".join(part for part in (run.config.model_name, variant.hook.name, variant.name) if part)
    files = curve_files(member.curves, title=title) | density_files(
        metrics.density_histogram,
        DENSITY_LOG10_EDGES,
        dead=metrics.dead_features,
        dense=metrics.dense_features,
        tokens=metrics.tokens,
        title=title,
    )
    writer = run.ctx.stage_artifact(variant.artifact("curves"), "curves")
    for name, content in (files | {EVENTS_FILE: event_file(member.curves)}).items():
        writer.write(name, content)
    return run.ctx.commit(writer)


def commit_metadata(run: Run, variant: Variant, body: Mapping[str, Any]) -> ArtifactRecord:
    """Writes and commits `metadata.json`: facts, hashes, seed, versions, full configuration, figures."""
    writer = run.ctx.stage_artifact(variant.artifact("metadata"), "metadata")
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
