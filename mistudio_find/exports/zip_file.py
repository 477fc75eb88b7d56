"""ZIP: every single-file form of an analysis, its two summaries, and a text that says what each holds.

The same bytes for the same analysis: no times. Finished files are packed in a thread beside the making of the
next ones, at a level that costs about as much time as the making.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from mistudio_find.exports import FORMATS
from mistudio_find.exports.analysis import Analysis
from mistudio_find.exports.making import make

LEVEL = 2
"""Deflate level: on records 170 MB/s as level 1 with 6 % smaller files; level 6 takes 3.5 times as long for 20 %."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_BUFFER = 1024 * 1024
_PACKED = ("parquet",)
_SUMMARIES = ("pattern_categories.json", "quality_metrics.json")
README = """The analysis of a sparse autoencoder's features, in several forms with the same numbers.

feature_analysis.json         everything: one object, most coherent features first
feature_analysis.xml          everything; control characters that XML cannot hold are shown by their pictures
feature_analysis.parquet      everything: one row a feature, lists as nested columns
feature_analysis.safetensors  everything as tensors; texts as UTF-8 bytes with offsets
feature_analysis.pt           the same tensors for torch.load(weights_only=True)
feature_analysis.csv          one row a feature: every figure, lists as text, the first text only, no tokens;
                              texts are cut after 2,000 characters and defused for spreadsheets
feature_analysis.txt          a report for people; its top says what it leaves out
pattern_categories.json       features by category
quality_metrics.json          features by tier
"""


def write(analysis: Analysis, path: Path) -> None:
    """Writes the file. Raises Corrupt; OSError passes."""
    names = [form.name for form in FORMATS.values() if form.in_bundle]
    with tempfile.TemporaryDirectory(prefix=".bundle", dir=path.parent) as scratch:
        folder = Path(scratch)
        missing = {}
        for name in names:
            target = folder / FORMATS[name].filename
            if FORMATS[name].written_by_find:
                target.symlink_to(analysis.path(target.name).absolute())
            else:
                missing[name] = target
        pack(analysis, path, folder, missing)


def pack(analysis: Analysis, path: Path, folder: Path, missing: dict[str, Path]) -> None:
    """Packs the files of `folder`, making the `missing` forms there first; each is packed as it is complete."""
    waiting: list[Future[None]] = []
    with zipfile.ZipFile(path, "w") as archive, ThreadPoolExecutor(1) as packer:
        archive.writestr(_info("README.txt"), README)
        files = [(analysis.path(name), name) for name in _SUMMARIES]
        ready = [form.filename for form in FORMATS.values() if form.in_bundle and form.name not in missing]
        files += [(folder / name, name) for name in ready]
        waiting += [packer.submit(_add, archive, source, name) for source, name in files]
        if missing:
            make(analysis, missing, lambda name: waiting.append(packer.submit(_add, archive, missing[name], "")))
        for added in waiting:
            added.result()


def _info(name: str, *, stored: bool = False) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    info._compresslevel = LEVEL  # type: ignore[attr-defined]  # public as compress_level from Python 3.13 on
    info.external_attr = 0o644 << 16
    return info


def _add(archive: zipfile.ZipFile, source: Path, name: str) -> None:
    stored = source.suffix.lstrip(".") in _PACKED
    info = _info(name or source.name, stored=stored)
    info.file_size = source.stat().st_size
    with source.open("rb") as given, archive.open(info, "w") as taken:
        shutil.copyfileobj(given, taken, _BUFFER)
