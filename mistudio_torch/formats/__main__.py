"""`python -m mistudio_torch.formats`: inspects, imports and exports SAE files for programs without torch.

Reads one job as JSON from stdin, `{"verb": "inspect" | "import" | "export", "path": ...}`, and writes one JSON
line, `{"answer": ...}` or `{"error": {"kind", "reason", "message", "facts"}}`. Owns the answers' fields, no format.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mistudio_core.errors import InvalidInput, MistudioError
from mistudio_torch.formats import ImportedSae, open_folder, read_sae, store_sae, write_sae
from mistudio_torch.formats.check import MAX_FVU


def inspect(job: Mapping[str, Any]) -> dict[str, Any]:
    """What is in a folder; where it cannot be imported, its files' headers and the reason."""
    folder, form = open_folder(Path(job["path"]), job.get("format") or "auto")
    file = form.files[-1]
    found: dict[str, Any] = {"format": form.name}
    try:
        stored = folder.tensors(file)
        found["tensors"] = {name: [spec.dtype, list(spec.shape)] for name, spec in stored.specs.items()}
        found |= {"importable": True, **facts(read_sae(Path(job["path"]), form=form.name))}
    except InvalidInput as error:
        found |= {"importable": False, "problem": error.message, "reason": error.reason}
    return found


def import_sae(job: Mapping[str, Any]) -> dict[str, Any]:
    """Checks an SAE and writes it to `out` in our own store's layout."""
    imported = read_sae(
        Path(job["path"]),
        form=job.get("format") or "auto",
        model_name=job.get("model") or "",
        hook_name=job.get("hook") or "",
        activations=_path(job.get("activations")),
        targets=_path(job.get("targets")),
        max_fvu=float(job.get("max_fvu") or MAX_FVU),
    )
    files = store_sae(imported, Path(job["out"]))
    return {**facts(imported), "files": [str(file) for file in files]}


def export_sae(job: Mapping[str, Any]) -> dict[str, Any]:
    """Writes an SAE of any layout to `out` in the layout `to`."""
    imported = read_sae(Path(job["path"]), form=job.get("format") or "auto")
    files = write_sae(imported.sae, Path(job["out"]), job["to"], imported.metadata)
    return {**facts(imported), "format": job["to"], "files": [str(file) for file in files]}


def facts(imported: ImportedSae) -> dict[str, Any]:
    """What a person wants to know of an SAE; plain values."""
    sae, shape, metadata = imported.sae, imported.sae.shape, imported.metadata
    threshold_F = getattr(sae, "threshold_F", None)
    norms_F = sae.W_dec_FD.detach().double().norm(dim=1)
    return {
        "format": imported.format,
        "kind": imported.kind,
        "architecture": shape.architecture,
        "d_in": shape.d_in,
        "d_sae": shape.d_sae,
        "d_out": shape.d_out,
        "skip": shape.skip,
        "k": shape.k if shape.architecture == "topk" else None,
        "threshold": None if threshold_F is None else _spread(threshold_F),
        "decoder_norm": _spread(norms_F),
        "dtype": imported.dtype,
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hook_name_out": metadata.hook_name_out,
        "layer": metadata.layer,
        "context_size": metadata.context_size,
        "dataset": metadata.dataset,
        "prepend_bos": metadata.prepend_bos,
        "notes": list(imported.notes),
        "agreement": asdict(imported.agreement),
        "fit": asdict(imported.fit) if imported.fit else None,
    }


def _spread(values: Any) -> dict[str, float]:
    ends = {"min": values.min(), "median": values.median(), "max": values.max()}
    return {name: float(value) for name, value in ends.items()}


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _family(error: MistudioError) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


_VERBS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "inspect": inspect,
    "import": import_sae,
    "export": export_sae,
}


def main() -> int:
    """See the module. 0 where it worked."""

    def tell(**line: object) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    job = json.load(sys.stdin)
    try:
        tell(answer=_VERBS[job["verb"]](job))
    except MistudioError as error:
        kind = next(
            (k for k in ("NotFound", "Conflict", "LimitReached", "Failed") if k in _family(error)), "InvalidInput"
        )
        tell(error={"kind": kind, "reason": error.reason, "message": error.message, "facts": error.facts})
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"{error.strerror or type(error).__name__}: {error.filename or job.get('path')}."
        remedy = "Free some space." if full else "Choose another place."
        tell(
            error={
                "kind": "Failed",
                "reason": "DISK_FULL" if full else "FORBIDDEN",
                "message": f"{what} {remedy}",
                "facts": {},
            }
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
