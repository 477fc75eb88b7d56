"""SAE files of the field, in and out: one file a layout, one line of FORMATS each.

`read_sae` recognises the layout, refuses files that lie, makes our SAE of them and compares it with the
origin's own formula; `write_sae` is the other way. Knows no jobs and no artifacts.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mistudio_core.errors import Conflict, InvalidInput
from mistudio_torch.formats import dictionary_learning, gemma_scope, saelens, sparsify
from mistudio_torch.formats.base import Format, Found, SaeMetadata
from mistudio_torch.formats.check import MAX_FVU, Agreement, Fit, agreement, fit, read_activations
from mistudio_torch.formats.files import SaeFolder
from mistudio_torch.sae import Sae

FORMATS = {
    made.name: made
    for made in (
        Format(
            name="saelens",
            files=(saelens.CONFIG_FILE, saelens.WEIGHTS_FILE),
            read=saelens.read,
            write=saelens.write,
        ),
        Format(
            name="sparsify",
            files=(sparsify.CONFIG_FILE, sparsify.WEIGHTS_FILE),
            read=sparsify.read,
            write=sparsify.write,
        ),
        Format(
            name="dictionary_learning",
            files=(dictionary_learning.CONFIG_FILE, dictionary_learning.WEIGHTS_FILE),
            read=dictionary_learning.read,
            write=dictionary_learning.write,
        ),
        Format(
            name="gemma_scope",
            files=(gemma_scope.NPZ_FILE,),
            read=gemma_scope.read_npz,
            write=gemma_scope.write_npz,
        ),
        Format(
            name="gemma_scope_2",
            files=(gemma_scope.CONFIG_FILE, gemma_scope.WEIGHTS_FILE),
            read=gemma_scope.read_safetensors,
            write=gemma_scope.write_safetensors,
        ),
    )
}
"""Every layout, by its name in `--format`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedSae:
    """An SAE that was read and computes what its origin does."""

    sae: Sae
    """In our form: reads raw activations."""
    format: str
    """Name of its layout, one of FORMATS."""
    kind: str
    """The class or architecture by the origin's name."""
    dtype: str
    """Number format of the file's weights."""
    metadata: SaeMetadata
    """Where it belongs."""
    notes: tuple[str, ...]
    """What a person should know, a sentence each."""
    agreement: Agreement
    """How near it is to the origin's formula."""
    fit: Fit | None = None
    """How it does on the activations that were given."""


def detect(folder: SaeFolder) -> str:
    """The one layout whose files are all there. Raises InvalidInput where there is none or more than one."""
    found = [name for name, made in FORMATS.items() if folder.names.issuperset(made.files)]
    if len(found) == 1:
        return found[0]
    needs = "; ".join(f"{name}: {' and '.join(made.files)}" for name, made in FORMATS.items())
    there = ", ".join(sorted(folder.names)[:12]) or "nothing"
    if found:
        raise InvalidInput.field("format", "auto", " or ".join(found), "The folder has the files of both: say which.")
    raise InvalidInput(
        f"No SAE is recognised in the folder, which has {there}. A folder needs the files of one layout ({needs}).",
        facts={"files": there},
    )


def open_folder(path: Path, form: str) -> tuple[SaeFolder, Format]:
    """The folder and its layout. Raises InvalidInput, NotFound."""
    folder = SaeFolder.at(path)
    name = detect(folder) if form == "auto" else form
    if name not in FORMATS:
        raise InvalidInput.field("format", name, ", ".join(["auto", *FORMATS]))
    missing = [file for file in FORMATS[name].files if file not in folder.names]
    if missing:
        raise InvalidInput.field("format", name, f"a layout whose files are there; {', '.join(missing)} is missing")
    return folder, FORMATS[name]


def read_sae(
    path: Path,
    *,
    form: str = "auto",
    model_name: str = "",
    hook_name: str = "",
    activations: Path | None = None,
    targets: Path | None = None,
    max_fvu: float = MAX_FVU,
) -> ImportedSae:
    """The SAE in a folder, as ours; `model_name` and `hook_name` replace what its files say.

    With `activations` (.npy, N x d_in; a transcoder needs its outputs as `targets`, N x d_out) it must explain
    them, too. Raises InvalidInput for files that lie, that are damaged or that do not reconstruct, Unsupported
    for what our SAEs cannot hold, NotFound, LimitReached.
    """
    folder, made = open_folder(path, form)
    found = made.read(folder)
    near = agreement(found)
    metadata = found.metadata.given(model_name=model_name, hook_name=hook_name)
    notes = list(found.notes)
    if near.l0 == 0:
        notes.append("No feature fires on random rows: only activations can show that the encoder is right.")
    return ImportedSae(
        sae=found.sae,
        format=made.name,
        kind=found.kind,
        dtype=found.dtype,
        metadata=metadata,
        notes=tuple(notes),
        agreement=near,
        fit=_fit(found, activations, targets, max_fvu),
    )


def _fit(found: Found, activations: Path | None, targets: Path | None, max_fvu: float) -> Fit | None:
    if activations is None:
        return None
    shape = found.sae.shape
    x_NI = read_activations(activations, shape.d_in, "activations")
    if targets is None and (shape.d_in != shape.d_out or found.metadata.is_transcoder):
        raise InvalidInput.field("targets", "", "the activations that a transcoder writes, as a second .npy file")
    y_NO = x_NI if targets is None else read_activations(targets, shape.d_out, "targets")
    if len(x_NI) != len(y_NO):
        raise InvalidInput.field("targets", f"{len(y_NO)} rows", f"as many rows as activations, {len(x_NI)}")
    return fit(found, x_NI, y_NO, max_fvu=max_fvu)


def write_sae(sae: Sae, folder: Path, form: str, metadata: SaeMetadata) -> list[Path]:
    """Writes an SAE in its inference form into a new folder and reads it back before the folder appears.

    Raises Unsupported for what the layout cannot hold, Conflict where the folder has something in it.
    """
    if form not in FORMATS:
        raise InvalidInput.field("format", form, ", ".join(FORMATS))
    return _publish(sae, folder, FORMATS[form], lambda staged: FORMATS[form].write(sae, staged, metadata))


def store_sae(imported: ImportedSae, folder: Path) -> list[Path]:
    """Writes an imported SAE in our own store's layout, which is SAELens' and holds every SAE of ours."""
    plain = saelens.plain_metadata(imported.metadata)

    def write(staged: Path) -> None:
        saelens.save_sae(imported.sae, staged.joinpath, metadata=plain)

    return _publish(imported.sae, folder, FORMATS["saelens"], write)


def _publish(sae: Sae, folder: Path, form: Format, write: Callable[[Path], None]) -> list[Path]:
    """The files of a folder that appears whole, or not at all; what was written computes what the SAE does."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already. Choose a folder that is new or empty.", reason="INVALID_FIELD")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sae-", dir=folder.parent) as place:
        staged = Path(place) / folder.name
        staged.mkdir()
        write(staged)
        agreement(dataclasses.replace(form.read(SaeFolder.at(staged)), sae=sae.for_inference()))
        if folder.exists():
            folder.rmdir()
        staged.rename(folder)
    return sorted(folder.iterdir())


__all__ = [
    "FORMATS",
    "Agreement",
    "Fit",
    "Format",
    "ImportedSae",
    "SaeMetadata",
    "detect",
    "open_folder",
    "read_sae",
    "store_sae",
    "write_sae",
]
