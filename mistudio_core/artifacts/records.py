"""What an artifact is: a logical URI, a kind, files with digests, and who wrote it.

The manifest is the JSON form of these records; its SHA-256 is the artifact's digest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from mistudio_core.errors import Corrupt

KINDS = ("corpus", "sae", "checkpoint", "codes", "metadata", "features", "explanations", "report", "curves", "export")
"""Short names of mistudio.artifact.v1.ArtifactKind, in its order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """One file of an artifact."""

    name: str
    """File name inside the artifact."""
    size_bytes: int
    """Size in bytes."""
    sha256: str
    """Digest of the whole file, hex."""
    slice_sha256: tuple[str, ...]
    """Digest of each 64 MiB slice in order, hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArtifactRecord:
    """A committed artifact."""

    uri: str
    """Logical name, `/data/...`."""
    kind: str
    """One of KINDS."""
    folder: str
    """Folder under the store's root; never shown to callers."""
    files: tuple[FileRecord, ...]
    """In name order."""
    job_id: str = ""
    """The job that wrote it; empty for uploads."""
    attempt: int = 0
    """The attempt that wrote it; 0 for uploads."""
    step: int = 0
    """Training step of a checkpoint."""

    def manifest(self) -> bytes:
        """The manifest: canonical JSON of everything but the folder."""
        body = asdict(self)
        del body["folder"]
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @property
    def sha256(self) -> str:
        """Digest of the manifest: identifies every byte of the artifact."""
        return hashlib.sha256(self.manifest()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(f.size_bytes for f in self.files)

    def file(self, name: str) -> FileRecord:
        """The record of one file. Raises Corrupt where the artifact lacks it."""
        for record in self.files:
            if record.name == name:
                return record
        raise Corrupt(f"Artifact {self.uri} has no file {name!r}. It was not written by this version of miStudio.")

    @staticmethod
    def parse(manifest: bytes, folder: str) -> ArtifactRecord:
        """Reads a manifest back. Raises Corrupt for what is none."""
        try:
            body = json.loads(manifest)
            files = tuple(FileRecord(**{**f, "slice_sha256": tuple(f["slice_sha256"])}) for f in body.pop("files"))
            return ArtifactRecord(**body, files=files, folder=folder)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Corrupt(
                "An artifact's manifest cannot be read. Restore it from a backup or run its job again."
            ) from error
