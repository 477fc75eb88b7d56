"""What a causal model loses when an SAE's reconstruction stands in for an activation: loss recovered and KL.

Four forward passes a batch (clean, zero-ablated, spliced, mean-ablated) up to the model's head, the
second and third from the hook on; the head runs on a few rows at a time, so memory is flat in tokens
and bounded in the vocabulary. Definitions: docs/metrics.md.
B sequences, T positions, N real tokens, P predicted tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_torch.cpu import fast_linear
from mistudio_torch.lm.causal import CausalLM, PassHook, Replacement, hidden_before_head, is_causal, logits_of
from mistudio_torch.lm.hooks import Tap
from mistudio_torch.lm.replay import Replay, blocks_before
from mistudio_torch.tokens import TokenTable, length_buckets, padded

Reconstruct = Callable[[Tensor], Tensor]
"""float32 (N, D) activations on the model's device -> float32 (N, D_out); each row on its own."""

DEFAULT_TOKENS = 50_000
"""Real tokens that are measured where nothing else is said."""
_ROWS = 2048
"""Activations that are reconstructed at a time."""
_POSITIONS = 2048
"""Positions of a forward pass, at most, unless one sequence is longer."""
_HEAD_BYTES = 64 << 20
"""Bytes of one float32 array of log-probabilities; a handful exist at a time."""
_LEAST_COST = 1e-4
"""Nats: an ablation that costs less gives no scale to measure recovery on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpliceMetrics:
    """Next-token figures, nats a predicted token; all absent where `not_measured` says why."""

    tokens: int = 0
    """Predicted tokens P: real tokens with a token before them."""
    ce_clean: float | None = None
    """Mean cross-entropy of the model as it is."""
    ce_spliced: float | None = None
    """With the reconstruction in place of the activation of every real token."""
    ce_zero_ablated: float | None = None
    """With zeros there."""
    ce_mean_ablated: float | None = None
    """With the mean activation of the same tokens there."""
    ce_loss_recovered: float | None = None
    """(zero_ablated - spliced) / (zero_ablated - clean); absent where zeros cost no loss."""
    ce_loss_recovered_mean: float | None = None
    """The same against mean ablation, the harder of the two; absent where the mean costs no loss."""
    kl_divergence: float | None = None
    """Mean KL(clean || spliced)."""
    not_measured: str = ""
    """Why figures are absent; empty where none is."""

    @staticmethod
    def absent(why: str) -> SpliceMetrics:
        """No figure, and the reason."""
        return SpliceMetrics(not_measured=why)


def splice_metrics(
    causal: CausalLM,
    hook: Tap,
    reconstruct: Reconstruct,
    table: TokenTable,
    documents: Sequence[int],
    *,
    batch_size: int,
    max_tokens: int = DEFAULT_TOKENS,
    read: Tap | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> SpliceMetrics:
    """Figures of one SAE at `hook`; see splice_metrics_of."""
    found = splice_metrics_of(
        causal,
        hook,
        [reconstruct],
        table,
        documents,
        batch_size=batch_size,
        max_tokens=max_tokens,
        read=read,
        on_batch=on_batch,
    )
    return found[0]


def splice_metrics_of(
    causal: CausalLM,
    hook: Tap,
    reconstructs: Sequence[Reconstruct],
    table: TokenTable,
    documents: Sequence[int],
    *,
    batch_size: int,
    max_tokens: int = DEFAULT_TOKENS,
    read: Tap | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> list[SpliceMetrics]:
    """Figures of several SAEs at one hook; the clean and the ablated passes are shared.

    What `hook` reads is replaced at real tokens; special tokens keep theirs. The SAEs' input is what `read`
    reads (a transcoder's input), by default `hook` itself. Whole sequences of `documents` in their order, up
    to `max_tokens` real tokens. `on_batch` is called before each forward pass and may raise. Absent with the
    reason for a model whose predictions see later tokens, and where memory ends.
    """

    def measure() -> list[SpliceMetrics]:
        batches = _batches(causal, table, documents, batch_size=batch_size, max_tokens=max_tokens)
        return _measured(causal, hook, read or hook, reconstructs, batches, on_batch)

    return or_absent(measure, len(reconstructs))


@torch.inference_mode()
@fast_linear()
def _measured(
    causal: CausalLM,
    hook: Tap,
    read: Tap,
    reconstructs: Sequence[Reconstruct],
    batches: Sequence[_Batch],
    on_batch: Callable[[], None],
) -> list[SpliceMetrics]:
    """See splice_metrics_of. Raises Unsupported."""
    if not is_causal(causal):
        raise Unsupported(
            f"measuring loss recovered on {causal.facts.model_name}",
            why="its output at a token depends on later tokens",
            instead="It is left out of the result.",
        )
    sums, before = _Sums(len(reconstructs)), blocks_before(causal, hook)
    for batch in batches:
        on_batch()
        replay = Replay(before)
        clean_PD, x_ND, y_ND = batch.read(causal, hook, read, replay)
        sums.add_targets(y_ND)
        on_batch()
        variants = [batch.run(causal, hook, torch.zeros_like(y_ND), replay)]
        for reconstruct in reconstructs:
            on_batch()
            variants.append(batch.run(causal, hook, _in_parts(reconstruct, x_ND), replay))
        sums.add(causal, batch.labels_P, clean_PD, variants)
    for batch in batches:
        on_batch()
        sums.add_mean(causal, batch.labels_P, batch.run(causal, hook, sums.mean_D.expand(batch.real_tokens, -1)))
    return [sums.result(number) for number in range(len(reconstructs))]


def or_absent(measure: Callable[[], list[SpliceMetrics]], saes: int) -> list[SpliceMetrics]:
    """What `measure` gives; where the model or the memory does not allow it, the reason for each of `saes`."""
    try:
        return measure()
    except (InvalidInput, LimitReached) as error:
        why = error.message
    except (MemoryError, torch.OutOfMemoryError):
        why = "The memory of the device does not hold the whole model and its predictions."
    return [SpliceMetrics.absent(why[:1000])] * saes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Sequences padded to one length, and where in them something is predicted."""

    ids_BT: Tensor
    """int64 token ids."""
    mask_BT: Tensor
    """int64, 1 for tokens."""
    real_BT: Tensor
    """bool: neither special nor padding."""

    @property
    def real_tokens(self) -> int:
        """N."""
        return int(self.real_BT.sum())

    @property
    def labels_P(self) -> Tensor:
        """int64: the tokens that are predicted, row by row."""
        return self.ids_BT[:, 1:][self.real_BT[:, 1:]]

    def read(self, causal: CausalLM, hook: Tap, read: Tap, replay: Replay) -> tuple[Tensor, Tensor, Tensor]:
        """The clean pass: what the head gets (P, D'), the SAEs' input x_ND and what they replace, y_ND.

        `replay` keeps what comes before the hook, for `run`.
        """
        place, source = Replacement(hook, self.real_BT), Replacement(read, self.real_BT)
        hidden_BTD = hidden_before_head(causal, self.ids_BT, self.mask_BT, [replay, place, source])
        return self._predicting(hidden_BTD), source.seen_ND, place.seen_ND

    def run(self, causal: CausalLM, hook: Tap, instead_ND: Tensor, replay: Replay | None = None) -> Tensor:
        """A pass with `instead_ND` at the real tokens of `hook`: what the head gets (P, D').

        With the `replay` of the clean pass, from the hook on.
        """
        place = Replacement(hook, self.real_BT, instead_ND)
        hooks: list[PassHook] = [replay, place] if replay else [place]
        return self._predicting(hidden_before_head(causal, self.ids_BT, self.mask_BT, hooks))

    def _predicting(self, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD[:, :-1][self.real_BT[:, 1:].to(hidden_BTD.device)]


def _batches(
    causal: CausalLM, table: TokenTable, documents: Sequence[int], *, batch_size: int, max_tokens: int
) -> list[_Batch]:
    """Batches of like length over the first sequences with `max_tokens` real tokens, at least one sequence."""
    chosen: list[tuple[int, int]] = []
    left, longest = max_tokens, 1
    for first, last in table.sequences(documents):
        real = int(np.count_nonzero(~np.asarray(table.special_T[first:last])))
        if chosen and real > left:
            break
        chosen.append((first, last))
        left, longest = left - real, max(longest, last - first)
    batches = []
    for rows in length_buckets(chosen, min(batch_size, max(1, _POSITIONS // longest))):
        ids_BT, mask_BT = padded(table, [chosen[r] for r in rows], causal.pad_id, widest=longest)
        real_BT = np.zeros(mask_BT.shape, np.bool_)
        for position, row in enumerate(rows):
            first, last = chosen[row]
            real_BT[position, : last - first] = ~np.asarray(table.special_T[first:last])
        if real_BT[:, 1:].any():
            arrays = (torch.from_numpy(a).to(causal.device) for a in (ids_BT, mask_BT, real_BT))
            batches.append(_Batch(**dict(zip(("ids_BT", "mask_BT", "real_BT"), arrays, strict=True))))
    return batches


def _in_parts(reconstruct: Reconstruct, x_ND: Tensor) -> Tensor:
    """The reconstruction of all rows, a bounded number at a time."""
    parts = [reconstruct(x_ND[start : start + _ROWS]) for start in range(0, len(x_ND), _ROWS)]
    return torch.cat([part_ND.to(x_ND.device) for part_ND in parts])


class _Sums:
    """Sums of cross-entropies and divergences over predicted tokens, float64."""

    def __init__(self, saes: int) -> None:
        self.tokens = 0
        self.clean = self.zero = self.mean = 0.0
        self.spliced, self.kl = [0.0] * saes, [0.0] * saes
        self._targets = 0
        self._target_sum_D: Tensor | None = None

    @property
    def mean_D(self) -> Tensor:
        """float32: mean of the activations that are replaced."""
        if self._target_sum_D is None:
            raise ValueError("no sequence predicts a token")
        return (self._target_sum_D / self._targets).float()

    def add_targets(self, y_ND: Tensor) -> None:
        """Activations that are replaced."""
        total_D = y_ND.double().sum(0)
        self._target_sum_D = total_D if self._target_sum_D is None else self._target_sum_D + total_D
        self._targets += len(y_ND)

    def add(self, causal: CausalLM, labels_P: Tensor, clean_PD: Tensor, variants: Sequence[Tensor]) -> None:
        """A batch: zero-ablated first, then the SAEs."""
        self.tokens += len(labels_P)
        labels_P = labels_P.to(clean_PD.device)
        for part in _parts(causal, len(labels_P)):
            label_R1 = labels_P[part, None]
            log_p_RV = _log_probabilities(causal, clean_PD[part])
            self.clean -= _total(log_p_RV.gather(1, label_R1))
            for number, variant_PD in enumerate(variants, start=-1):
                log_q_RV = _log_probabilities(causal, variant_PD[part])
                loss = -_total(log_q_RV.gather(1, label_R1))
                if number < 0:
                    self.zero += loss
                    continue
                self.spliced[number] += loss
                self.kl[number] += _total((log_p_RV.exp() * (log_p_RV - log_q_RV)).sum(1))

    def add_mean(self, causal: CausalLM, labels_P: Tensor, hidden_PD: Tensor) -> None:
        """A batch with the mean in place of every activation."""
        labels_P = labels_P.to(hidden_PD.device)
        for part in _parts(causal, len(labels_P)):
            self.mean -= _total(_log_probabilities(causal, hidden_PD[part]).gather(1, labels_P[part, None]))

    def result(self, number: int) -> SpliceMetrics:
        """Figures of one SAE."""
        if not self.tokens:
            return SpliceMetrics.absent("no held-out sequence has two tokens in a row")
        sums = (self.clean, self.spliced[number], self.zero, self.mean, self.kl[number])
        clean, spliced, zero, mean, kl = (total / self.tokens for total in sums)
        for name, value in (("model", clean), ("spliced model", spliced + kl), ("ablated model", zero + mean)):
            if not math.isfinite(value):
                return SpliceMetrics.absent(f"the loss of the {name} is not finite; another dtype may help")
        return SpliceMetrics(
            tokens=self.tokens,
            ce_clean=clean,
            ce_spliced=spliced,
            ce_zero_ablated=zero,
            ce_mean_ablated=mean,
            ce_loss_recovered=recovered(clean, spliced, zero),
            ce_loss_recovered_mean=recovered(clean, spliced, mean),
            kl_divergence=max(kl, 0.0),
        )


def recovered(clean: float, spliced: float, ablated: float) -> float | None:
    """(ablated - spliced) / (ablated - clean): 1 nothing lost, 0 as bad as the ablation; None where that costs none."""
    cost = ablated - clean
    return (ablated - spliced) / cost if cost > _LEAST_COST else None


def _parts(causal: CausalLM, rows: int) -> list[slice]:
    """Slices of rows whose log-probabilities fit into _HEAD_BYTES."""
    step = max(1, _HEAD_BYTES // (4 * causal.facts.vocab_size))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _log_probabilities(causal: CausalLM, hidden_RD: Tensor) -> Tensor:
    """float32 (R, V)."""
    return logits_of(causal, hidden_RD).float().log_softmax(1)


def _total(values: Tensor) -> float:
    return float(values.double().sum())
