"""Which SAEs one job trains: every combination of layers, widths, ks and seeds, on one pass of the model.

Names and records alone; no torch. A job of one SAE has one variant without a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from mistudio_core.errors import InvalidInput
from mistudio_torch.lm.hookpoints import BLOCK_KINDS, HookPoint, parse_hook

MOST_SAES = 64
"""SAEs of one job: all of them are in memory together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Values to combine; an empty one leaves the job's own value."""

    layers: tuple[int, ...] = ()
    """Blocks."""
    widths: tuple[int, ...] = ()
    """Widths of the SAE."""
    ks: tuple[int, ...] = ()
    """Features that fire a token."""
    seeds: tuple[int, ...] = ()
    """Seeds of initial weights."""

    def __bool__(self) -> bool:
        return bool(self.layers or self.widths or self.ks or self.seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One SAE of a job."""

    name: str
    """`layer3_width2048_k32_seed0`, of what varies; empty where nothing does."""
    hook: HookPoint
    """What it reads."""
    target: HookPoint | None
    """What it writes, where it is a transcoder; None where that is what it reads."""
    hidden_dim: int
    """Width."""
    k: int
    """Features that fire a token."""
    seed: int
    """Seed of its initial weights."""

    def artifact(self, what: str) -> str:
        """Name of one of its artifacts or files: `sae`, or `layer3_width2048/sae`."""
        return f"{self.name}/{what}" if self.name else what

    @property
    def hooks(self) -> tuple[HookPoint, ...]:
        """All that is read of the model for it."""
        return (self.hook,) if self.target is None else (self.hook, self.target)


def hook_of(hook: str, layer: int) -> HookPoint:
    """A kind such as `mlp_out` at a block, or a whole name such as `blocks.3.hook_mlp_out`. Raises InvalidInput."""
    return HookPoint(kind=hook, layer=layer) if hook in BLOCK_KINDS else parse_hook(hook)


def variants(
    sweep: Sweep, *, hook: str, output_hook: str, layer: int, hidden_dim: int, k: int, seed: int
) -> tuple[Variant, ...]:
    """Every combination, layers slowest. Raises InvalidInput for values twice, too many, or layers of a fixed hook."""
    if sweep.layers and (hook not in BLOCK_KINDS or (output_hook and output_hook not in BLOCK_KINDS)):
        raise InvalidInput.field(
            "sweep.layers", list(sweep.layers), "nothing, where a hook is named in full", "Name the hook by its kind."
        )
    axes = {"layer": sweep.layers, "width": sweep.widths, "k": sweep.ks, "seed": sweep.seeds}
    for axis, values in axes.items():
        if len(set(values)) != len(values):
            raise InvalidInput.field(f"sweep.{axis}s", list(values), "each value once")
    combined = list(
        product(sweep.layers or (layer,), sweep.widths or (hidden_dim,), sweep.ks or (k,), sweep.seeds or (seed,))
    )
    if len(combined) > MOST_SAES:
        raise InvalidInput.field("sweep", f"{len(combined)} SAEs", f"at most {MOST_SAES} together", "Start two jobs.")
    found = []
    for values in combined:
        named = zip(axes, values, strict=True)
        found.append(
            Variant(
                name="_".join(f"{axis}{value}" for axis, value in named if axes[axis]),
                hook=hook_of(hook, values[0]),
                target=hook_of(output_hook, values[0]) if output_hook else None,
                hidden_dim=values[1],
                k=values[2],
                seed=values[3],
            )
        )
    return tuple(found)
