"""What of a model can be read: the list of its hooks, and whether one that was asked for exists.

Config and safetensors headers are all it reads; no torch. A name that passes here is checked once
more against the live modules (`load`), since headers do not show modules without weights.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.errors import InvalidInput
from mistudio_core.secret import Secret
from mistudio_torch.lm.anatomy import Anatomy, anatomy_of, gives_tokens, no_blocks
from mistudio_torch.lm.facts import ModelFacts
from mistudio_torch.lm.hookpoints import HookPoint
from mistudio_torch.lm.source import ModelSource, check_layer, described, resolve

SHOWN = 8
"""Names that an error lists."""
_WITHOUT_WEIGHTS = re.compile(r"(act|drop|gelu|relu|silu|identity|softmax|rotary)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class HookRecord:
    """One hook that a model has."""

    name: str
    """What to ask for."""
    kind: str
    """One of hookpoints.KINDS."""
    layer: int | None
    """The block it is in; None for a module outside of blocks."""
    width: int | None
    """Length of the vector of a token; None where the headers do not say."""
    module_path: str
    """The module that is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HookCatalogue:
    """The hooks of one model."""

    facts: ModelFacts
    """The model."""
    anatomy: Anatomy
    """Its parts."""

    def records(self, layer: int | None = None) -> list[HookRecord]:
        """All hooks in the order of the model, or those of one block. Raises InvalidInput (LAYER_OUT_OF_RANGE)."""
        if layer is not None:
            check_layer(self.facts, layer)
            return [*self._of_block(layer), *self._modules(layer)]
        found = [record for number in range(self.facts.total_layers) for record in self._of_block(number)]
        return found + list(self._modules(None))

    def check(self, hook: HookPoint) -> int:
        """The deepest block that `hook` needs.

        Raises InvalidInput (LAYER_OUT_OF_RANGE for a block that is not there), naming the nearest hooks that are.
        """
        if hook.kind != "module":
            check_layer(self.facts, hook.layer)
            if not self.anatomy.blocks:
                raise no_blocks(self.facts.model_name)
            if hook.kind in ("mlp_out", "attn_out") and self.anatomy.part(hook.kind, hook.layer) is None:
                raise self.unknown(hook)
            return max(hook.layer - 1, 0) if hook.kind == "resid_pre" else hook.layer
        path = self.anatomy.without_prefix(hook.path)
        number = self.anatomy.number_of(path)
        if number is not None:
            check_layer(self.facts, number)
        parent, _, child = path.rpartition(".")
        weightless = _WITHOUT_WEIGHTS.search(child) and (parent in self.anatomy.modules or not parent)
        if path not in self.anatomy.modules and not weightless:
            raise self.unknown(hook)
        return self.anatomy.deepest_needed(path)

    def unknown(self, hook: HookPoint, known: Sequence[str] = ()) -> InvalidInput:
        """The error for a hook that the model does not have; `known` are names to choose from, by default its own."""
        names = list(known) or [record.name for record in self.records()]
        near = difflib.get_close_matches(hook.name, names, n=SHOWN, cutoff=0.4) or names[:SHOWN]
        return InvalidInput.field(
            "hook_name",
            hook.name,
            f"a hook of {self.facts.model_name}; nearest: {', '.join(near)}",
            f"All {len(names)} are listed by `mistudio models hooks`.",
        )

    def _of_block(self, number: int) -> Iterator[HookRecord]:
        block, width = self.anatomy.block(number), self.facts.hidden_size
        if not self.anatomy.blocks:
            return
        parts = {kind: self.anatomy.part(kind, number) for kind in ("attn_out", "mlp_out")}
        for kind, path in {"resid_pre": f"{block}.input", **parts, "resid_post": block}.items():
            if path is not None:
                name = HookPoint(kind=kind, layer=number).name
                yield HookRecord(name=name, kind=kind, layer=number, width=width, module_path=path)

    def _modules(self, layer: int | None) -> Iterator[HookRecord]:
        for path, width in self.anatomy.modules.items():
            number = self.anatomy.number_of(path)
            if gives_tokens(path) and (layer is None or number == layer):
                yield HookRecord(name=path, kind="module", layer=number, width=width, module_path=path)


def inspect_hooks(name: str, *, token: Secret | None = None, model_root: Path | None = None) -> HookCatalogue:
    """The hooks of a model, from its config and weight headers. Raises what inspect_model does."""
    return hooks_of(resolve(name, token=token, model_root=model_root))


def hooks_of(source: ModelSource) -> HookCatalogue:
    """See inspect_hooks."""
    facts, shapes = described(source)
    anatomy = anatomy_of(facts.model_name, facts.architecture, facts.total_layers, facts.hidden_size, shapes)
    return HookCatalogue(facts=facts, anatomy=anatomy)
