"""Several processes that train one SAE together: shares of a batch, joined gradients, shared activations.

The process group is accelerate's; the code of a run is the same for one process and for many. Every
process holds all weights and does the same update, so none needs to send any.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mistudio_torch.sae import Sae, StepLoss

_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The processes of a run, as one of them sees them."""

    rank: int = 0
    """Number of this process; 0 leads: it alone reports and writes."""
    size: int = 1
    """Number of processes."""

    def share(self, n: int) -> slice:
        """The rows of a batch of n that are this process's."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def joined(self, sae: Sae, loss: StepLoss) -> StepLoss:
        """Gradients and figures of the whole batch, the same in every process."""
        if self.size == 1:
            return loss
        import torch.distributed as dist

        gradients = [p.grad for p in sae.parameters() if p.grad is not None]
        figures = torch.stack([loss.total.float(), loss.fvu.float(), loss.l0.float()])
        flat = torch.cat([g.reshape(-1) for g in gradients] + [figures, loss.fired_F.float()])
        dist.all_reduce(flat)
        flat[: -len(loss.fired_F)] /= self.size
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        for name, buffer in sae.named_buffers():
            if name == "threshold":
                dist.all_reduce(buffer)
                buffer.div_(self.size)
        total, fvu, l0 = flat[at : at + 3]
        return replace(loss, total=total, fvu=fvu, l0=l0, fired_F=flat[at + 3 :] > 0)

    def gathered(self, parts: list[Tensor]) -> list[Tensor]:
        """For each tensor the rows of all processes, in the order of ranks; row counts may differ."""
        if self.size == 1:
            return parts
        import torch.distributed as dist

        found = []
        for part in parts:
            counts = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(counts, torch.tensor(len(part)))
            most = max(int(c) for c in counts)
            padded = torch.zeros(most, *part.shape[1:], dtype=part.dtype)
            padded[: len(part)] = part
            rows = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(rows, padded)
            found.append(torch.cat([r[: int(c)] for r, c in zip(rows, counts, strict=True)]))
        return found

    def agreed(self, value: Any) -> Any:
        """The leader's value, everywhere."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = World()
"""A run of one process."""
