"""Which layer to read, where the request leaves it to the job: a few are probed, and the reason is kept.

A layer is worth reading where a sparse code can say much that the current token alone does not.
Numerics and the choice; docs/metrics.md has the definitions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from mistudio_core.jobs.context import JobContext
from mistudio_torch.harvest import harvest
from mistudio_torch.lm.load import LoadedLM
from mistudio_torch.sae import SaeShape
from mistudio_torch.tokenised import Array
from mistudio_train.config import TrainConfig
from mistudio_train.data import Corpus
from mistudio_train.trainer import Trainer
from mistudio_train.variants import hook_of

_TRAIN_TOKENS, _JUDGE_TOKENS = 24_576, 8_192
_PASSES, _STEP_TOKENS, _RATE = 4, 512, 3e-3
_WIDTH, _K = 1024, 32
_FILE = "layer.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerScore:
    """What one layer gave."""

    layer: int
    """Block, from 0."""
    context_share: float
    """Share of the variance that lies between occurrences of one token, 0 to 1."""
    explained_variance: float
    """Of a short top-k SAE, on tokens that it did not see."""

    @property
    def score(self) -> float:
        """What is both sparse and of the context."""
        return self.context_share * max(self.explained_variance, 0.0)


def known_layer(ctx: JobContext) -> int | None:
    """The layer that an attempt before this one chose; None where none has."""
    file = ctx.kept / _FILE
    return int(json.loads(file.read_text(encoding="utf-8"))["layer"]) if file.exists() else None


def probe(config: TrainConfig, ctx: JobContext, lm: LoadedLM, corpus: Corpus) -> int:
    """The layer of `config.candidate_layers` with the largest score; says in the log how they did. Raises Cancelled."""
    seen, judged = _documents(corpus, config.seed)
    rows = {
        part: harvest(lm, corpus.table, documents, batch_size=config.batch_size, on_batch=ctx.check_cancelled)
        for part, documents in (("seen", seen), ("judged", judged))
    }
    token_N = _tokens(corpus, seen)
    scores = []
    for layer in config.candidate_layers(lm.facts.total_layers):
        ctx.check_cancelled()
        name = hook_of(config.hook, layer).name
        scores.append(
            LayerScore(
                layer=layer,
                context_share=context_share(rows["seen"][name], token_N),
                explained_variance=_short_sae(rows["seen"][name], rows["judged"][name], config.seed),
            )
        )
    best = max(scores, key=lambda s: (s.score, -s.layer))
    file = ctx.kept / _FILE
    file.with_suffix(".part").write_text(
        json.dumps({"layer": best.layer, "scores": [asdict(s) for s in scores]}), encoding="utf-8"
    )
    file.with_suffix(".part").replace(file)
    ctx.log(_reason(best, scores, lm.facts.total_layers))
    return best.layer


def context_share(x_ND: Tensor, token_N: Array) -> float:
    """Variance between occurrences of one token, over the whole variance; over tokens that occur twice or more.

    sum over tokens t of n_t / (n_t - 1) * sum of ||x - mean_t||^2, over the same without the tokens: both without bias.
    0 where no token occurs twice.
    """
    _, inverse, counts = np.unique(token_N, return_inverse=True, return_counts=True)
    twice = counts[inverse] > 1
    if not twice.any():
        return 0.0
    x = x_ND.double().numpy()[twice]
    _, group, sizes = np.unique(inverse[twice], return_inverse=True, return_counts=True)
    means = np.zeros((len(sizes), x.shape[1]))
    np.add.at(means, group, x)
    means /= sizes[:, None]
    within = (((x - means[group]) ** 2).sum(1) * (sizes / (sizes - 1))[group]).sum()
    whole = ((x - x.mean(0)) ** 2).sum() * len(x) / (len(x) - 1)
    return float(min(within / whole, 1.0)) if whole > 0 else 0.0


def _short_sae(x_ND: Tensor, judged_ND: Tensor, seed: int) -> float:
    """Explained variance of `judged_ND` after a few passes over `x_ND`."""
    width = x_ND.shape[1]
    shape = SaeShape(architecture="topk", d_in=width, d_out=width, d_sae=max(_WIDTH, width), k=_K, sparsity_coeff=0.0)
    trainer = Trainer(
        shape, seed=seed, learning_rate=_RATE, total_tokens=_PASSES * len(x_ND), device=torch.device("cpu")
    )
    x_n, _ = trainer.prepare(x_ND)
    for turn in range(_PASSES):
        order = np.random.default_rng([seed, turn]).permutation(len(x_n))
        for rows in np.array_split(order, max(1, len(x_n) // _STEP_TOKENS)):
            trainer.step(x_n[torch.from_numpy(rows)])
    sae = trainer.folded()
    with torch.no_grad():
        error = (sae.decode(sae.encode(judged_ND), len(judged_ND)) - judged_ND).double().square().sum()
        whole = (judged_ND - judged_ND.mean(0)).double().square().sum()
    return 1.0 - float(error / whole) if whole > 0 else 0.0


def _documents(corpus: Corpus, seed: int) -> tuple[list[int], list[int]]:
    """Training documents to learn from and to judge by, in a random order that the seed gives."""
    order = np.random.default_rng([seed, 1 << 20]).permutation(corpus.train)
    ends = np.cumsum(corpus.real_tokens[order])
    wanted = min(_TRAIN_TOKENS, int(ends[-1]) * 3 // 4)
    first = int(np.searchsorted(ends, wanted)) + 1
    last = int(np.searchsorted(ends, wanted + _JUDGE_TOKENS)) + 1
    return order[:first].tolist(), (order[first:last] if first < len(order) else order[:first]).tolist()


def _tokens(corpus: Corpus, documents: Sequence[int]) -> Array:
    """Token id of every row that `harvest` gives for the documents."""
    table = corpus.table
    spans = table.sequences(documents)
    ids = [np.asarray(table.ids_T[a:b])[~np.asarray(table.special_T[a:b])] for a, b in spans]
    return np.concatenate(ids)


def _reason(best: LayerScore, scores: Sequence[LayerScore], total: int) -> str:
    said = (f"{s.layer}: {s.context_share:.2f} x {s.explained_variance:.2f} = {s.score:.2f}" for s in scores)
    return (
        f"Layer {best.layer} of {total} was chosen: there a short SAE explains most of what the context, and not the "
        f"token alone, makes of the activations (share of context x explained variance; {', '.join(said)})."
    )
