"""Immutable files with a digest: written in one place, verified before use.

`store` writes and opens artifacts on a folder that services and workers share; `records` says
what one is; `opened` keeps them open; `files` holds the durable primitives (hash, fsync, disk-full errors).
"""

from mistudio_core.artifacts.opened import OpenArtifacts
from mistudio_core.artifacts.records import ArtifactRecord, FileRecord
from mistudio_core.artifacts.store import ArtifactReader, ArtifactStore, ArtifactWriter

__all__ = ["ArtifactReader", "ArtifactRecord", "ArtifactStore", "ArtifactWriter", "FileRecord", "OpenArtifacts"]
