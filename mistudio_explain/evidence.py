"""Reads what Find wrote: the features to explain, best first, and the corpus' word frequencies.

Owns the reading of a `features` artifact (features.jsonl, features.idx, vocabulary.json) and the
choice of features; Find's code is not imported, the artifact is the contract.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mistudio_core.corpus.words import words
from mistudio_core.errors import Corrupt, NotFound, Unsupported

_WORD_BYTES = 8
_DAMAGED = "The Find result cannot be read. Run the Find job again."


class PathGetter(Protocol):
    """What is needed of an artifact: `ArtifactReader` is one."""

    def path(self, name: str) -> Path:
        """Path of a file, verified."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TopText:
    """A text on which the feature fires."""

    text: str
    """The window around the strongest token."""
    tokens: tuple[str, ...]
    """Its tokens; joined they are the text."""
    activations: tuple[float, ...]
    """One a token, 0 where silent."""
    context: str
    """The document's source or label."""
    position: int
    """Position of the strongest token in the document."""
    document_tokens: int
    """Tokens of the document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeText:
    """A text that explainers never see."""

    text: str
    """The window."""
    activation: float
    """Largest activation; 0 where the feature is silent."""
    near: bool
    """Silent, but of like topic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureEvidence:
    """What Find knows about one feature."""

    feature_id: int
    """Index of the feature in its SAE."""
    coherence: float
    """Coherence, 0 to 1."""
    quality_level: str
    """Tier of the coherence."""
    category: str
    """Kind of pattern."""
    complexity: str
    """low, medium or high."""
    keywords: tuple[str, ...]
    """Words that set its texts apart, best first."""
    drivers: tuple[tuple[str, float], ...]
    """Words under its activating tokens with their share of the activation; "" for no word."""
    top: tuple[TopText, ...]
    """Strongest texts first."""
    contrast: tuple[str, ...]
    """Texts on which it is silent."""
    judge: tuple[JudgeText, ...]
    """Held-out texts, for scoring only."""
    statistics: Mapping[str, Any]
    """Figures over all tokens."""


def check_texts(evidence_text: str, find_job_id: str) -> None:
    """Raises Unsupported for an analysis whose evidence holds no text, by the short name of its setting."""
    if evidence_text == "none":
        raise Unsupported(
            f"explaining {find_job_id}",
            why="it was made with evidence_text none, so it holds no texts to explain",
            instead="Start Find again with evidence_text full or redacted, and explain that.",
        )


class FindEvidence:
    """A Find result opened for explaining."""

    def __init__(self, artifact: PathGetter) -> None:
        """Reads index, metadata and word frequencies. Raises Corrupt; Unsupported for an analysis without texts."""
        self.metadata = _metadata(artifact.path("feature_analysis.json"))
        check_texts(self.metadata.get("config", {}).get("evidence_text", ""), self.metadata.get("job_id", ""))
        raw = artifact.path("features.idx").read_bytes()
        index = memoryview(raw).cast("q") if len(raw) % _WORD_BYTES == 0 and raw else memoryview(b"")
        total = index[0] if len(index) else -1
        if total < 0 or len(index) != 2 + 2 * total:
            raise Corrupt(_DAMAGED)
        self._offsets, self._ranks = index[1 : 2 + total].tolist(), index[2 + total :].tolist()
        self._lines = artifact.path("features.jsonl")
        vocabulary = _json(artifact.path("vocabulary.json").read_bytes())
        self._documents = int(vocabulary["documents"])
        self._frequencies: dict[str, int] = vocabulary["documents_with"]

    @property
    def total(self) -> int:
        """Number of features, dead ones included."""
        return len(self._ranks)

    def idf(self, word: str) -> float:
        """ln((1 + E) / (1 + e)): E evidence documents, e of them with the word (1 for unlisted words)."""
        return math.log((1 + self._documents) / (1 + self._frequencies.get(word, 1)))

    def choose(self, *, feature_ids: Sequence[int], min_coherence: float, max_features: int) -> list[FeatureEvidence]:
        """Exactly `feature_ids`, or the best by coherence. Raises NotFound (FEATURE_NOT_FOUND)."""
        unknown = [i for i in feature_ids if not 0 <= i < self.total]
        if unknown:
            raise NotFound(
                f"There is no feature {unknown[0]}; the Find result has features 0 to {self.total - 1}.",
                reason="FEATURE_NOT_FOUND",
                facts={"feature_id": unknown[0], "total_features": self.total},
            )
        with self._lines.open("rb") as handle:
            if feature_ids:
                chosen = [self._read(handle, self._ranks[i]) for i in feature_ids]
                return sorted(chosen, key=lambda e: (-e.coherence, e.feature_id))
            found: list[FeatureEvidence] = []
            for rank in range(min(self.total, max_features)):
                evidence = self._read(handle, rank)
                if evidence.coherence < min_coherence or not evidence.top:
                    break
                found.append(evidence)
            return found

    def _read(self, handle: Any, rank: int) -> FeatureEvidence:
        handle.seek(self._offsets[rank])
        try:
            return _evidence(_json(handle.read(self._offsets[rank + 1] - self._offsets[rank])))
        except (KeyError, TypeError) as error:
            raise Corrupt(_DAMAGED) from error


def _evidence(record: Mapping[str, Any]) -> FeatureEvidence:
    return FeatureEvidence(
        feature_id=record["feature_id"],
        coherence=record["coherence_score"],
        quality_level=record["quality_level"],
        category=record["pattern_category"],
        complexity=record["complexity"],
        keywords=tuple(record["pattern_keywords"]),
        drivers=tuple((d["text"] if any(words(d["text"])) else "", d["share"]) for d in record["driving_tokens"]),
        top=tuple(
            TopText(
                text=t["text"],
                tokens=tuple(t["tokens"]),
                activations=tuple(t["activations"]),
                context=t["context"],
                position=t["position"],
                document_tokens=t["document_tokens"],
            )
            for t in record["top_activations"]
        ),
        contrast=tuple(record["contrast_texts"]),
        judge=tuple(JudgeText(**t) for t in record["judge_texts"]),
        statistics=record["activation_statistics"],
    )


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Corrupt(_DAMAGED) from error


def _metadata(path: Path) -> dict[str, Any]:
    """`job_metadata`: the first line of the published form, whose features begin on the second."""
    with path.open("rb") as handle:
        first = handle.readline(1 << 20).rstrip()
    try:
        body = json.loads(first + b"]}")
    except ValueError as error:
        raise Corrupt(_DAMAGED) from error
    metadata = body.get("job_metadata") if isinstance(body, dict) else None
    return metadata if isinstance(metadata, dict) else {}
