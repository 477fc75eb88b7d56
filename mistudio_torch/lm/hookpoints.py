"""Where activations are read: names in the spelling of SAELens and TransformerLens, or any module's path.

Parses and spells names, nothing else: what a model has is `hookable`'s business. Imports no torch,
so that service processes can refuse a name before a job exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mistudio_core.errors import InvalidInput

BLOCK_KINDS = ("resid_post", "resid_pre", "mlp_out", "attn_out")
KINDS = (*BLOCK_KINDS, "module")
LONGEST_NAME = 300
DEEPEST_BLOCK = 1000
"""Block numbers beyond this are no model's."""
_OF_BLOCK = re.compile(r"^blocks\.(\d{1,4})\.hook_(resid_post|resid_pre|mlp_out|attn_out)$")
_PATH = re.compile(r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")
_INPUT = ".input"
_REMEDY = (
    'Use "blocks.<n>.hook_resid_post" (or hook_resid_pre, hook_mlp_out, hook_attn_out), or a module\'s path as '
    '`mistudio models hooks MODEL` lists them; with ".input" at its end it is what goes into the module.'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HookPoint:
    """One place in a model at which a vector is read for every token."""

    kind: str
    """One of KINDS. resid_post and resid_pre: residual stream after and before a block; mlp_out and attn_out:
    what a block's MLP and attention add to it; module: a module's output, or its input."""
    layer: int = 0
    """The block, from 0; 0 and without meaning for `module`."""
    path: str = ""
    """The module's path, `module` only."""
    of_input: bool = False
    """Whether what goes into the module is read, not what comes out of it; `module` only."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput.field("hook", self.kind, ", ".join(KINDS))
        if self.kind == "module" and (len(self.path) > LONGEST_NAME or not _PATH.match(self.path)):
            raise InvalidInput.field("module_path", self.path, "names joined by dots", _REMEDY)
        if self.kind != "module" and (self.path or self.of_input):
            raise InvalidInput.field("module_path", self.path or _INPUT, "nothing, unless hook is module")
        if not 0 <= self.layer <= DEEPEST_BLOCK:
            raise InvalidInput.field("layer_number", self.layer, f"0 to {DEEPEST_BLOCK}", reason="LAYER_OUT_OF_RANGE")

    @property
    def name(self) -> str:
        """The canonical name; parse_hook gives the same point back."""
        if self.kind == "module":
            return self.path + (_INPUT if self.of_input else "")
        return f"blocks.{self.layer}.hook_{self.kind}"


def parse_hook(name: str) -> HookPoint:
    """`blocks.3.hook_mlp_out` or `encoder.layer.3.output.dense` as a point. Raises InvalidInput for what is neither."""
    found = _OF_BLOCK.match(name)
    if found is not None:
        return HookPoint(kind=found.group(2), layer=int(found.group(1)))
    if len(name) > LONGEST_NAME or not _PATH.match(name) or ".hook_" in f".{name}":
        raise InvalidInput.field("hook_name", name, "a block's hook or a module's path", _REMEDY)
    of_input = name.endswith(_INPUT)
    return HookPoint(kind="module", path=name.removesuffix(_INPUT), of_input=of_input)


def resid_post(layer: int) -> HookPoint:
    """The residual stream after block `layer`, from 0."""
    return HookPoint(kind="resid_post", layer=layer)
