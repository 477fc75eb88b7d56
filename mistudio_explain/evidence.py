"""Reads what Find wrote: the features to explain, best first, and the corpus' word frequencies.

Owns the reading of a `features` artifact (features.jsonl, features.idx, vocabulary.json) and the
choice of features; Find's code is not imported, the artifact is the contract.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
class Driver:
    """A word, or a token that stands in no word, that drives the feature."""

    text: str
    """The word, casefolded, or the token without the space around it."""
    share: float
    """Its share of the feature's activation in evidence documents, 0 to 1."""
    lift: float
    """How many times more often it stands where the feature fires than elsewhere."""
    is_word: bool
    """Whether it is a word; else a sign or a piece."""


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
    top: tuple[TopText, ...]
    """Strongest texts first."""
    contrast: tuple[str, ...]
    """Texts on which it is silent."""
    judge: tuple[JudgeText, ...]
    """Held-out texts, for scoring only."""
    statistics: Mapping[str, Any]
    """Figures over all tokens."""
    near_contrast: int = 0
    """How many of `contrast`, the last ones, are of like topic."""
    quantiles: tuple[TopText, ...] = ()
    """Weaker texts on which it fires, strongest first, from every quantile."""
    driving: tuple[Driver, ...] = ()
    """What drives it, by share of its activation."""
    phrases: tuple[str, ...] = ()
    """Runs of two and three words around its strongest tokens that set them apart, best first."""
    promoted: tuple[str, ...] = ()
    """Tokens whose logits it raises most; empty where that is unknown."""
    suppressed: tuple[str, ...] = ()
    """Tokens whose logits it lowers most."""
    neighbours: tuple[int, ...] = ()
    """The most alike other features, by decoder, else by activation."""
    tags: tuple[str, ...] = ()
    """Subjects by Find's rules, best first."""
    document_share: Callable[[str], float] = field(default=lambda word: 0.0, compare=False, repr=False)
    """Share of the corpus' evidence documents that hold a word."""


def check_texts(evidence_text: str, find_job_id: str) -> None:
    """Raises Unsupported for an analysis whose evidence holds no text, by the short name of its setting."""
    if evidence_text == "none":
        raise Unsupported(
            f"explaining {find_job_id}",
            why="it was made with evidence_text none, so it holds no texts to explain",
            instead="Start Find again with evidence_text full or redacted, and explain that.",
        )


def check_contrast(contrast_texts: int | None, find_job_id: str) -> None:
    """Raises Unsupported for an analysis without silent texts, by its setting; None where that is unknown."""
    if contrast_texts == 0:
        raise Unsupported(
            f"explaining {find_job_id}",
            why="it was made with contrast_texts 0, so it holds no text on which a feature is silent",
            instead="Start Find again with contrast_texts of at least 2 (10 is the default), and explain that.",
        )


def check_strategy(strategy: str, chosen: Sequence[FeatureEvidence]) -> None:
    """Raises Unsupported where no chosen feature has what the strategy shows; call it before any work."""
    if strategy == "promoted_tokens" and chosen and not any(e.promoted for e in chosen):
        raise Unsupported(
            "strategy promoted_tokens",
            why="the Find result names no promoted tokens: its model is not causal, or its files were not at hand",
            instead="Use top_and_contrast, or run Find where the files of a causal model are.",
        )
    if strategy == "contrast_pair" and chosen and not any(e.neighbours for e in chosen):
        raise Unsupported(
            "strategy contrast_pair",
            why="the Find result names no similar features",
            instead="Use top_and_contrast, or run Find again: this one was made without neighbours.",
        )


class FindEvidence:
    """A Find result opened for explaining."""

    def __init__(self, artifact: PathGetter) -> None:
        """Reads index, metadata and word frequencies. Raises Corrupt; Unsupported for an analysis without texts."""
        self.metadata = _metadata(artifact.path("feature_analysis.json"))
        settings, job_id = self.metadata.get("config", {}), self.metadata.get("job_id", "")
        check_texts(settings.get("evidence_text", ""), job_id)
        check_contrast(settings.get("contrast_texts"), job_id)
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
        documents, frequencies = max(1, self._documents), self._frequencies
        self._document_share = lambda word: frequencies.get(word, 1) / documents

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

    def one(self, feature_id: int) -> FeatureEvidence:
        """The evidence of one feature, for example of a neighbour. Raises NotFound (FEATURE_NOT_FOUND), Corrupt."""
        return self.choose(feature_ids=(feature_id,), min_coherence=0.0, max_features=1)[0]

    def neighbour_of(self, evidence: FeatureEvidence) -> FeatureEvidence | None:
        """The feature that is most like this one; None where none is known. Raises Corrupt."""
        return self.one(evidence.neighbours[0]) if evidence.neighbours else None

    def reaching(self, coherence: float) -> int:
        """Number of features of at least this coherence. Raises Corrupt."""
        with self._lines.open("rb") as handle:
            return bisect_left(range(self.total), True, key=lambda rank: self._coherence(handle, rank) < coherence)

    def coherence_at(self, rank: int) -> float:
        """Coherence of the feature that stands at this place by coherence, from 0. Raises Corrupt."""
        with self._lines.open("rb") as handle:
            return self._coherence(handle, rank)

    def _coherence(self, handle: Any, rank: int) -> float:
        evidence = self._read(handle, rank)
        return evidence.coherence if evidence.top else -1.0

    def _read(self, handle: Any, rank: int) -> FeatureEvidence:
        handle.seek(self._offsets[rank])
        try:
            record = _json(handle.read(self._offsets[rank + 1] - self._offsets[rank]))
            return _evidence(record, self._document_share)
        except (KeyError, TypeError) as error:
            raise Corrupt(_DAMAGED) from error


def _evidence(record: Mapping[str, Any], document_share: Callable[[str], float]) -> FeatureEvidence:
    return FeatureEvidence(
        feature_id=record["feature_id"],
        coherence=record["coherence_score"],
        quality_level=record["quality_level"],
        category=record["pattern_category"],
        complexity=record["complexity"],
        keywords=tuple(record["pattern_keywords"]),
        top=tuple(map(_text, record["top_activations"])),
        contrast=tuple(record["contrast_texts"]),
        judge=tuple(JudgeText(**t) for t in record["judge_texts"]),
        statistics=record["activation_statistics"],
        near_contrast=record.get("near_contrast_texts", 0),
        quantiles=tuple(map(_text, record.get("quantile_activations", ()))),
        driving=tuple(map(_driver, record["driving_tokens"])),
        phrases=tuple(p["text"] for p in record.get("driving_phrases", ())),
        promoted=tuple(t["token"] for t in record.get("promoted_tokens", ())),
        suppressed=tuple(t["token"] for t in record.get("suppressed_tokens", ())),
        neighbours=tuple(
            n["feature_id"] for n in record.get("nearest_by_decoder") or record.get("nearest_by_activation", ())
        ),
        tags=tuple(record.get("semantic_tags", ())),
        document_share=document_share,
    )


def _text(record: Mapping[str, Any]) -> TopText:
    return TopText(
        text=record["text"],
        tokens=tuple(record["tokens"]),
        activations=tuple(record["activations"]),
        context=record["context"],
        position=record["position"],
        document_tokens=record["document_tokens"],
    )


def _driver(record: Mapping[str, Any]) -> Driver:
    text = record["text"]
    is_word = any(words(text))
    return Driver(
        text=text if is_word else text.strip(), share=record["share"], lift=record.get("lift", 1.0), is_word=is_word
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
