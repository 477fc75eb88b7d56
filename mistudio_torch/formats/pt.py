"""The one way to a `.pt` file: a process of its own, with limits, that can read tensors and nothing else.

`mistudio_torch.lm.unpickle` is that process; it leaves a safetensors file, of which the tensors come.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio_core.errors import InvalidInput, MistudioError
from mistudio_torch.formats.tensors import StoredTensors, open_safetensors
from mistudio_torch.lm.pickles import convert_file

if TYPE_CHECKING:
    from torch import Tensor

_TIMEOUT_S = 600.0


def open_pt(path: Path) -> StoredTensors:
    """The tensors of a state dict. Raises InvalidInput for whatever else is in it, LimitReached on time or memory.

    They are held in memory: what the isolated process writes is gone when this returns.
    """
    with tempfile.TemporaryDirectory(prefix="mistudio-pt-") as place:
        (Path(place) / "out").mkdir()
        safe = Path(place) / "out" / "tensors.safetensors"
        try:
            convert_file(path, safe, timeout_s=_TIMEOUT_S, model="the SAE")
        except MistudioError as error:
            if error.reason not in ("MODEL_UNSAFE_FORMAT", "MODEL_INVALID"):
                raise
            raise InvalidInput(
                f"{error.message} A state dict of tensors is read.", facts={"file": path.name}
            ) from error
        stored = open_safetensors(safe)
        held = stored.read_all()

    def load(names: Collection[str]) -> dict[str, Tensor]:
        return {name: held[name] for name in names}

    return StoredTensors(path.name, stored.specs, load)
