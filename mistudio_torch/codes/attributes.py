"""What documents carry along in a codes artifact: labels by column, a group, a time.

Labels are numbers into the values of `labels.json`, groups lie in `groups.bin` like texts, times are a
column of `documents.safetensors`. Each part is there only where a document has it. Numpy only.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mistudio_core.errors import Corrupt
from mistudio_torch.codes.tensorfile import Array

NO_TIME = -(2**63)
"""Stands in the column of times for a document without one."""
_LABELS, _GROUPS = "labels.json", "groups.bin"


class PathGetter(Protocol):
    """What a reader needs of an artifact: `ArtifactReader` is one."""

    def path(self, name: str) -> Path:
        """Path of a file, verified."""
        ...


class AttributesWriter:
    """Collects attributes in document order; about 16 bytes a document stay in memory."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the artifact."""
        self._folder = folder
        self._documents = 0
        self._values: dict[str, dict[str, int]] = {}
        self._ids: dict[str, array[int]] = {}
        self._group_offsets = array("q", [0])
        self._groups = (folder / _GROUPS).open("wb")
        self._times = array("q")
        self._has_times = False

    def add(self, labels: Mapping[str, str], group: str, time: int | None) -> None:
        """The attributes of the next document."""
        for column in labels.keys() - self._ids.keys():
            self._values[column] = {"": 0}
            self._ids[column] = array("i", bytes(4 * self._documents))
        for column, ids in self._ids.items():
            known = self._values[column]
            ids.append(known.setdefault(labels.get(column, ""), len(known)))
        encoded = group.encode("utf-8", "replace")
        self._groups.write(encoded)
        self._group_offsets.append(self._group_offsets[-1] + len(encoded))
        self._times.append(NO_TIME if time is None else time)
        self._has_times = self._has_times or time is not None
        self._documents += 1

    def close(self) -> None:
        """Closes the file of groups."""
        self._groups.close()

    def columns(self) -> dict[str, Array]:
        """Tensors for `documents.safetensors`; writes or removes the files beside it."""
        found: dict[str, Array] = {}
        names = sorted(self._ids)
        for number, name in enumerate(names):
            found[f"label_ids_{number}"] = np.frombuffer(self._ids[name], np.int32)
        if names:
            values = [list(self._values[name]) for name in names]
            (self._folder / _LABELS).write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        if self._group_offsets[-1]:
            found["group_offsets"] = np.frombuffer(self._group_offsets, np.int64)
        else:
            (self._folder / _GROUPS).unlink()
        if self._has_times:
            found["times"] = np.frombuffer(self._times, np.int64)
        return found

    def meta(self) -> dict[str, object]:
        """What `meta.json` says of them."""
        return {
            "label_columns": sorted(self._ids),
            "has_groups": bool(self._group_offsets[-1]),
            "has_times": self._has_times,
        }


class Attributes:
    """Attributes of the documents of an opened codes artifact, D documents."""

    def __init__(self, artifact: PathGetter, meta: Mapping[str, Any], documents: Mapping[str, Array]) -> None:
        """From `meta.json` and the tensors of `documents.safetensors`. Raises Corrupt."""
        try:
            self.label_columns: tuple[str, ...] = tuple(meta.get("label_columns", ()))
            """Names of the label columns, sorted."""
            self._ids = {name: documents[f"label_ids_{n}"] for n, name in enumerate(self.label_columns)}
            values = json.loads(artifact.path(_LABELS).read_text(encoding="utf-8")) if self.label_columns else []
            self._values: dict[str, list[str]] = dict(zip(self.label_columns, values, strict=True))
            self._group_offsets = documents["group_offsets"] if meta.get("has_groups") else None
            self._groups = np.memmap(artifact.path(_GROUPS), np.uint8, "r") if meta.get("has_groups") else None
            self.times: Array | None = documents["times"] if meta.get("has_times") else None
            """int64 (D,): microseconds since 1970, NO_TIME for none; None where no document has a time."""
        except (KeyError, ValueError, TypeError) as error:
            raise Corrupt("The labels of a codes artifact cannot be read. Run its training job again.") from error
        self._check(len(documents["heldout"]))
        self._change: Callable[[str], str] | None = None

    def change(self, change: Callable[[str], str]) -> None:
        """Gives every label and group as `change` makes it from now on."""
        self._values = {name: [change(value) for value in values] for name, values in self._values.items()}
        self._change = change

    @property
    def has_groups(self) -> bool:
        """Whether any document has a group."""
        return self._groups is not None

    def label_ids(self, column: str) -> tuple[list[str], Array]:
        """(values of a label column, the empty one first; int32 (D,): which of them a document has)."""
        return self._values[column], self._ids[column]

    def labels(self, doc: int) -> dict[str, str]:
        """Value by column of one document; columns in which it has none are left out."""
        found = {name: self._values[name][int(ids[doc])] for name, ids in self._ids.items()}
        return {name: value for name, value in found.items() if value}

    def label(self, doc: int) -> str:
        """The labels in words: the value where there is one column, else `column: value` of each."""
        labels = self.labels(doc)
        if len(self.label_columns) == 1:
            return next(iter(labels.values()), "")
        return ", ".join(f"{name}: {value}" for name, value in labels.items())

    def group(self, doc: int) -> str:
        """The document's group; empty for none."""
        if self._group_offsets is None or self._groups is None:
            return ""
        part = slice(self._group_offsets[doc], self._group_offsets[doc + 1])
        group = self._groups[part].tobytes().decode("utf-8", "replace")
        return group if self._change is None else self._change(group)

    def time(self, doc: int) -> int | None:
        """Microseconds since 1970; None for none."""
        found = NO_TIME if self.times is None else int(self.times[doc])
        return None if found == NO_TIME else found

    def _check(self, documents: int) -> None:
        """Raises Corrupt where lengths disagree."""
        fits = all(
            len(ids) == documents and (not documents or 0 <= ids.min() <= ids.max() < len(self._values[name]))
            for name, ids in self._ids.items()
        )
        if self._group_offsets is not None and self._groups is not None:
            fits = fits and len(self._group_offsets) == documents + 1 and self._group_offsets[-1] == len(self._groups)
        if not fits or (self.times is not None and len(self.times) != documents):
            raise Corrupt("The labels of a codes artifact disagree with its documents. Run its training job again.")
