"""Where artifacts are written and read, on a folder that services and workers share.

Write: stage -> fsync each file -> manifest last -> rename -> fsync the parent; only then may a
database row name it. Read: the manifest against the row's digest, then each 64 MiB slice when it
is first opened. Nothing here knows about jobs' states or databases.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mistudio_core.artifacts.files import SLICE_BYTES, disk_errors, fsync_path, hash_file, hash_slice
from mistudio_core.artifacts.records import KINDS, ArtifactRecord
from mistudio_core.errors import Corrupt
from mistudio_core.failpoints import failpoint

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")


class ArtifactWriter:
    """A staged artifact: write files to `path(name)`, then `seal()` or `discard()`."""

    def __init__(self, store: ArtifactStore, uri: str, kind: str, job_id: str, attempt: int, step: int) -> None:
        """Made by `ArtifactStore.stage`."""
        if kind not in KINDS:
            raise ValueError(f"unknown artifact kind {kind!r}")
        self._store = store
        self._identity = {"uri": uri, "kind": kind, "job_id": job_id, "attempt": attempt, "step": step}
        self.folder = store.staging / uuid.uuid4().hex
        self.folder.mkdir(parents=True)

    def path(self, name: str) -> Path:
        """Where to write the file `name`."""
        if not _NAME.match(name) or name == MANIFEST:
            raise ValueError(f"not a file name for an artifact: {name!r}")
        return self.folder / name

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file whole."""
        with disk_errors(self.folder, name):
            failpoint(f"{self._identity['kind']}.write")
            self.path(name).write_bytes(data)

    def seal(self) -> ArtifactRecord:
        """Makes the files durable and visible under their final folder, and returns the record.

        Raises DiskFull; other OSError passes. After any error the staging folder is gone.
        """
        kind = str(self._identity["kind"])
        try:
            with disk_errors(self.folder, f"{kind} artifact"):
                return self._seal(kind)
        except BaseException:
            self.discard()
            raise

    def _seal(self, kind: str) -> ArtifactRecord:
        failpoint(f"{kind}.before_fsync")
        paths = sorted(p for p in self.folder.iterdir())
        for path in paths:
            fsync_path(path)
        folder = self._store.folder_of(f"{kind}/{uuid.uuid4().hex}")
        record = ArtifactRecord(
            **self._identity,  # type: ignore[arg-type]  # the five identity fields, as stage() typed them
            files=tuple(hash_file(p) for p in paths),
            folder=folder,
        )
        failpoint(f"{kind}.before_manifest")
        manifest = self.folder / MANIFEST
        manifest.write_bytes(record.manifest())
        fsync_path(manifest)
        fsync_path(self.folder)
        target = self._store.root / folder
        target.parent.mkdir(parents=True, exist_ok=True)
        failpoint(f"{kind}.before_rename")
        self.folder.rename(target)
        fsync_path(target.parent)
        failpoint(f"{kind}.after_rename")
        return record

    def discard(self) -> None:
        """Removes what was staged."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ArtifactReader:
    """An artifact opened for reading; verifies each slice the first time it is used."""

    def __init__(self, root: Path, record: ArtifactRecord) -> None:
        """Made by `ArtifactStore.open`, which has verified the manifest."""
        self.root = root
        self.record = record
        self._folder = root / record.folder
        self._verified: set[tuple[str, int]] = set()

    def path(self, name: str) -> Path:
        """Path of a file, every slice verified. Raises Corrupt."""
        count = len(self.record.file(name).slice_sha256)
        for index in range(count):
            self._verify(name, index)
        return self._folder / name

    def read_bytes(self, name: str) -> bytes:
        """A small file whole, verified."""
        return self.path(name).read_bytes()

    def chunks(self, name: str, offset: int = 0, chunk_bytes: int = 1024 * 1024) -> Iterator[tuple[int, bytes]]:
        """(position, bytes) from `offset` on; each slice is verified before its first byte is given."""
        size = self.record.file(name).size_bytes
        with (self._folder / name).open("rb") as handle:
            while offset < size:
                index = offset // SLICE_BYTES
                self._verify(name, index)
                handle.seek(offset)
                block = handle.read(min(chunk_bytes, (index + 1) * SLICE_BYTES - offset))
                if not block:
                    raise self._corrupt(name)
                yield offset, block
                offset += len(block)

    def _verify(self, name: str, index: int) -> None:
        if (name, index) in self._verified:
            return
        record = self.record.file(name)
        path = self._folder / name
        if not path.is_file() or path.stat().st_size != record.size_bytes:
            raise self._corrupt(name)
        actual = hash_slice(path, index)
        if actual != record.slice_sha256[index]:
            raise self._corrupt(name, expected=record.slice_sha256[index], actual=actual)
        self._verified.add((name, index))

    def _corrupt(self, name: str, expected: str = "", actual: str = "") -> Corrupt:
        uri = f"{self.record.uri}/{name}"
        return Corrupt(
            f"Artifact {uri} is damaged: its bytes do not match the recorded SHA-256. "
            "Nothing of it was used. Restore it from a backup or run its job again.",
            facts={"uri": uri, "expected_sha256": expected, "actual_sha256": actual},
        )


class ArtifactStore:
    """A folder of artifacts."""

    def __init__(self, root: Path, area: str = "") -> None:
        """`root` is shared by services and workers of one installation.

        Where several homes share it, each writes and cleans a folder `area` of its own, and all read everything.
        """
        self.root, self.area = root, area
        self.staging = root / area / "staging"

    def folder_of(self, name: str) -> str:
        """A name in this store's area as a folder under the root."""
        return f"{self.area}/{name}" if self.area else name

    def own_folders(self) -> set[str]:
        """Folders of all artifacts in this store's area, whether a row names them or not."""
        return {str(p.parent.relative_to(self.root)) for p in (self.root / self.area).glob(f"*/*/{MANIFEST}")}

    def stage(self, uri: str, kind: str, *, job_id: str = "", attempt: int = 0, step: int = 0) -> ArtifactWriter:
        """Begins an artifact. Raises DiskFull."""
        with disk_errors(self.root, f"{kind} artifact"):
            return ArtifactWriter(self, uri, kind, job_id, attempt, step)

    def open(self, record: ArtifactRecord, sha256: str | None = None) -> ArtifactReader:
        """Opens an artifact after checking its manifest against the digest of the row. Raises Corrupt."""
        path = self.root / record.folder / MANIFEST
        expected = sha256 or record.sha256
        try:
            with path.open("rb") as handle:
                found = ArtifactRecord.parse(handle.read(MAX_MANIFEST_BYTES), record.folder)
        except FileNotFoundError as error:
            raise Corrupt(
                f"Artifact {record.uri} is missing from the store. Restore it from a backup or run its job again.",
                facts={"uri": record.uri},
            ) from error
        if found.sha256 != expected:
            raise Corrupt(
                f"Artifact {record.uri} is damaged: its manifest does not match the recorded SHA-256.",
                facts={"uri": record.uri, "expected_sha256": expected, "actual_sha256": found.sha256},
            )
        return ArtifactReader(self.root, found)

    def remove(self, record: ArtifactRecord) -> None:
        """Deletes an artifact's files; the row must be gone first."""
        shutil.rmtree(self.root / record.folder, ignore_errors=True)

    def clear_staging(self) -> None:
        """Removes what writers that died left behind; only while no worker runs."""
        shutil.rmtree(self.staging, ignore_errors=True)
