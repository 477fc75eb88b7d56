"""The embedding judge: how near held-out texts are to an explanation in a local model's space.

Method `embedding-auroc/1`, defined in docs/metrics.md. The model is a folder under the model root or in a
package, never a download; torch is imported when it is loaded, in the worker. Owns pooling and cosine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mistudio_core.errors import Unavailable, Unsupported
from mistudio_core.stats import Array
from mistudio_explain.evidence import FeatureEvidence
from mistudio_explain.explainer import Draft
from mistudio_explain.judging.base import Accuracy, accuracy_of

METHOD = "embedding-auroc/1"
"""Name and version of the measure; the model's name stands behind it in results."""
_LONGEST_METHOD, _MOST_TOKENS, _BATCH = 100, 256, 32
_TINY, _KEPT = 1e-12, 8192


class Embeds(Protocol):
    """What turns texts into vectors."""

    def __call__(self, texts: Sequence[str]) -> Array:
        """float64 (n, D), one row a text."""
        ...


class EmbeddingJudge:
    """Scores texts by the cosine of their embedding and the explanation's."""

    def __init__(self, model: str, load: Callable[[], Embeds]) -> None:
        """`load` makes the model ready; it is called once, by `check` or the first figure."""
        self.method = f"{METHOD} ({model})"[:_LONGEST_METHOD]
        self._load = load
        self._embeds: Embeds | None = None
        self._lock = asyncio.Lock()

    async def check(self) -> None:
        """See Judge: loads the model."""
        await self._ready()

    async def close(self) -> None:
        """Lets the model go."""
        self._embeds = None

    async def _ready(self) -> Embeds:
        async with self._lock:
            if self._embeds is None:
                self._embeds = await asyncio.to_thread(self._load)
            return self._embeds

    async def accuracy(
        self, draft: Draft, evidence: FeatureEvidence, idf: Callable[[str], float], *, seed: int
    ) -> Accuracy:
        """See Judge."""
        embeds = await self._ready()
        said = draft.explanation + (f" {', '.join(draft.keywords)}" if draft.keywords else "")
        async with self._lock:
            # One at a time: the model uses every core by itself.
            vectors = await asyncio.to_thread(embeds, [said, *(t.text for t in evidence.judge)])
        scores: list[float | None] = [*cosines(vectors[1:], vectors[0]).tolist()]
        return accuracy_of(self.method, evidence.judge, scores, seed=seed + evidence.feature_id)


def cosines(texts: Array, explanation: Array) -> Array:
    """float64 (n,): cosine of each row and the explanation, the mean of the rows taken off both.

    Embeddings of one model share a large common part; without it cosines differ by what sets texts apart.
    """
    if not len(texts):
        return np.zeros(0)
    centre = texts.mean(axis=0)
    a, b = texts - centre, explanation - centre
    found: Array = (a @ b) / np.maximum(_TINY, np.linalg.norm(a, axis=1) * np.linalg.norm(b))
    return found


def local_embedder(model: str, model_root: Path | None) -> Callable[[], Embeds]:
    """What loads a local model: mean of the last block's vectors over a text's tokens, at most 256.

    Raises Unsupported for a model that is no local folder, NotFound: before any weight is read.
    """
    from mistudio_torch.lm.source import resolve

    folder = None
    # A name of the hub that is not in its cache is Unavailable: no download is tried.
    with suppress(Unavailable):
        folder = resolve(model, model_root=model_root, cached_only=True).folder if model else None
    if folder is None:
        raise Unsupported(
            "the embedding judge",
            why=f"model {model!r} is no folder under the model root: it would have to be downloaded"
            if model
            else "the Find result does not name its model",
            instead="Name a local model in judge_model, or set judge_engine to lexical.",
        )

    def load() -> Embeds:
        return _Embedder(model, model_root)

    return load


class _Embedder:
    """A model in this process; texts come back often, so the last 8,192 vectors are kept."""

    def __init__(self, model: str, model_root: Path | None) -> None:
        from mistudio_torch.lm.hookpoints import resid_post
        from mistudio_torch.lm.load import load_lm

        self._lm: Any = load_lm(model, lambda facts: [resid_post(facts.total_layers - 1)], model_root=model_root)
        self._known: dict[str, Array] = {}

    def __call__(self, texts: Sequence[str]) -> Array:
        """See Embeds."""
        missing = [t for t in dict.fromkeys(texts) if t not in self._known]
        for at in range(0, len(missing), _BATCH):
            part = missing[at : at + _BATCH]
            self._known.update(zip(part, self._vectors(part), strict=True))
        found = np.stack([self._known[t] for t in texts])
        while len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))
        return found

    def _vectors(self, texts: Sequence[str]) -> Array:
        """float64 (n, D)."""
        import torch

        from mistudio_torch.lm.hooks import capture

        lm = self._lm
        ids = [lm.tokenizer(t)["input_ids"][: min(_MOST_TOKENS, lm.facts.max_positions)] or [lm.pad_id] for t in texts]
        longest = max(map(len, ids))
        ids_BT = torch.tensor([i + [lm.pad_id] * (longest - len(i)) for i in ids], device=lm.device)
        mask_BT = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i in ids], device=lm.device)
        with torch.inference_mode():
            x_BTD = next(iter(capture(lm.model, lm.taps, ids_BT, mask_BT).values())).double()
            mean_BD = (x_BTD * mask_BT[:, :, None]).sum(1) / mask_BT.sum(1, keepdim=True)
        out: Array = mean_BD.cpu().numpy()
        return out
