"""What a finished run leaves of each SAE: its weights, sparse codes, metadata, pictures of its training.

Each function writes one artifact. Figures come from `measure`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from mistudio_core.artifacts import ArtifactRecord
from mistudio_torch import encoding
from mistudio_torch.formats.saelens import save_sae
from mistudio_torch.metrics import DENSITY_LOG10_EDGES
from mistudio_torch.tokenised import sample_documents
from mistudio_train.measure import Measured, Trained
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
    plan = encoding.EncodePlan(
        corpus=run.corpus,
        chosen=sample_documents(run.corpus.real_tokens, run.config.max_code_tokens, run.config.seed),
        activations=run.activations,
        block_tokens=run.config.block_tokens,
        heldout=run.corpus.heldout,
    )
    items = [
        encoding.CodesOf(
            artifact=item.variant.artifact("codes"),
            sae=item.sae,
            hook_name=item.variant.hook.name,
            meta=_codes_meta(run, item, sha256),
        )
        for item, sha256 in zip(trained, sha256s, strict=True)
    ]
    return encoding.commit_codes(run.ctx, plan, items, on_share)


def _codes_meta(run: Run, item: Trained, sae_sha256: str) -> dict[str, Any]:
    """What the codes are of."""
    hook = item.variant.hook
    return encoding.codes_meta(
        run.lm,
        item.sae,
        hook_name=hook.name,
        layer=hook.layer if hook.kind != "module" else run.lm.layer,
        sae_sha256=sae_sha256,
        corpus_sha256=run.corpus.sha256,
        corpus_name=run.config.corpus_name,
    )


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
