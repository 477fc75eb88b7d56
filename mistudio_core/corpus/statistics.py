"""Statistics of a corpus while it streams by, in bounded memory, and what they warn of.

Lengths are counted in classes of 0.1 %, copies in a sample of hashes, labels up to a limit. Owns the
figures and the sentences, not how documents are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mistudio_core.corpus.columns import LabelCounts, RecordReader
from mistudio_core.corpus.documents import Document

FEW_DOCUMENTS = 10_000
"""Below this many documents a result is a trial."""
SHORT_CHARACTERS = 20
"""A document below this many characters is very short."""
MANY_COPIES, MANY_SHORT = 0.1, 0.2
"""Shares from which copies and very short documents are worth a warning."""
SHOWN_VALUES = 50
"""Values of a label column that are listed, the most frequent first."""
_EXACT_BITS = 10
_SAMPLE = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelColumn:
    """A label column and its values."""

    name: str
    """The column."""
    different: int
    """Different values."""
    labelled: int
    """Documents with a value."""
    values: dict[str, int] = field(default_factory=dict)
    """Documents by value, the 50 most frequent first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusStatistics:
    """What a corpus holds."""

    documents: int = 0
    """Documents."""
    bytes: int = 0
    """Size of the stored corpus, bytes."""
    mean_characters: float = 0.0
    """Mean length of a document, characters."""
    median_characters: int = 0
    """Median length, exact below 1024, else within 0.1 %."""
    max_characters: int = 0
    """Greatest length, characters."""
    short_documents: int = 0
    """Documents of fewer than 20 characters."""
    duplicate_share: float = 0.0
    """Share of documents that repeat an earlier one."""
    duplicates_estimated: bool = False
    """Whether the share and the number of groups are estimates from a sample of about 50,000 hashes."""
    blank_documents: int = 0
    """Records without text, left out."""
    columns: tuple[str, ...] = ()
    """Columns of the records, in order of appearance; none for plain text."""
    labels: tuple[LabelColumn, ...] = ()
    """Label columns."""
    groups: int = 0
    """Different groups."""
    first_time: int | None = None
    """Earliest time, microseconds since 1970."""
    last_time: int | None = None
    """Latest time, microseconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """For `about.json`."""
        return asdict(self)

    @staticmethod
    def from_json(body: Mapping[str, Any]) -> CorpusStatistics:
        """Reads `to_json` back. Raises TypeError, KeyError."""
        labels = tuple(LabelColumn(**column) for column in body["labels"])
        return CorpusStatistics(**{**body, "labels": labels, "columns": tuple(body["columns"])})


class DistinctSample:
    """Counts different strings: exactly up to 65,536, then from those whose hash ends in zeros.

    Adaptive sampling (Wegman; Flajolet 1990): every occurrence of a sampled string is counted, so the
    ratio of different to all is that of the sample.
    """

    def __init__(self, limit: int = _SAMPLE) -> None:
        """`limit`: most strings that are held."""
        self._limit, self._level = limit, 0
        self._counts: dict[int, int] = {}

    def add(self, text: str) -> None:
        """Counts one string."""
        key = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if key & ((1 << self._level) - 1):
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        while len(self._counts) > self._limit:
            self._level += 1
            mask = (1 << self._level) - 1
            self._counts = {key: count for key, count in self._counts.items() if not key & mask}

    @property
    def estimated(self) -> bool:
        """Whether the figures are estimates."""
        return self._level > 0

    @property
    def different(self) -> int:
        """Number of different strings."""
        return len(self._counts) << self._level

    @property
    def repeated_share(self) -> float:
        """Share of strings that were there before."""
        every = sum(self._counts.values())
        return (every - len(self._counts)) / every if every else 0.0


class StatisticsBuilder:
    """Takes documents one after the other."""

    def __init__(self, labels: tuple[str, ...] = ()) -> None:
        """For the label columns."""
        self.documents = 0
        self._characters = self._longest = self._short = 0
        self._lengths: dict[int, int] = {}
        self._copies, self._groups = DistinctSample(), DistinctSample()
        self._labels = LabelCounts(labels)
        self._first: int | None = None
        self._last: int | None = None

    def add_text(self, text: str) -> None:
        """A document of which only the text is known; `text` has no outer white space."""
        self._add(text, len(text))

    def add(self, document: Document) -> None:
        """A document. Raises LimitReached for a label column with too many values."""
        self._add(document.content, document.characters)
        self._labels.add(document.labels)
        if document.group:
            self._groups.add(document.group)
        if document.time is not None:
            self._first = document.time if self._first is None else min(self._first, document.time)
            self._last = document.time if self._last is None else max(self._last, document.time)

    def _add(self, content: str, characters: int) -> None:
        self.documents += 1
        self._characters += characters
        self._longest = max(self._longest, characters)
        self._short += characters < SHORT_CHARACTERS
        shift = max(characters.bit_length() - _EXACT_BITS, 0)
        length = characters >> shift << shift
        self._lengths[length] = self._lengths.get(length, 0) + 1
        self._copies.add(content)

    def result(self, size_bytes: int, reader: RecordReader | None = None) -> CorpusStatistics:
        """The figures; `reader` knows what the records had."""
        return CorpusStatistics(
            documents=self.documents,
            bytes=size_bytes,
            mean_characters=round(self._characters / max(self.documents, 1), 1),
            median_characters=self._median(),
            max_characters=self._longest,
            short_documents=self._short,
            duplicate_share=round(self._copies.repeated_share, 4),
            duplicates_estimated=self._copies.estimated or self._groups.estimated,
            blank_documents=reader.blank if reader else 0,
            columns=tuple(reader.seen) if reader else (),
            labels=tuple(_label_column(name, counts) for name, counts in self._labels.counts.items()),
            groups=self._groups.different,
            first_time=self._first,
            last_time=self._last,
        )

    def _median(self) -> int:
        left = (self.documents + 1) // 2
        for length in sorted(self._lengths):
            left -= self._lengths[length]
            if left <= 0:
                return length
        return 0


def _label_column(name: str, counts: Mapping[str, int]) -> LabelColumn:
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_VALUES]
    return LabelColumn(name=name, different=len(counts), labelled=sum(counts.values()), values=dict(shown))


def warnings_of(statistics: CorpusStatistics, reader: RecordReader | None = None) -> tuple[str, ...]:
    """What to know before training on a corpus, one sentence or two each."""
    found = _about_size(statistics)
    if reader is not None:
        found += _about_records(reader)
    for column in statistics.labels:
        if column.labelled < statistics.documents:
            without = statistics.documents - column.labelled
            found.append(f"{without:,} documents have no value in label column {column.name!r}.")
    return tuple(found)


def _about_size(statistics: CorpusStatistics) -> list[str]:
    found = []
    if statistics.documents < FEW_DOCUMENTS:
        found.append(
            f"The corpus has {statistics.documents:,} documents. Under {FEW_DOCUMENTS:,}, features describe these "
            "texts rather than the language, rare ones are missed, and held-out figures are rough: it is a trial."
        )
    if statistics.duplicate_share >= MANY_COPIES:
        about = "About " if statistics.duplicates_estimated else ""
        found.append(
            f"{about}{statistics.duplicate_share:.0%} of the documents repeat an earlier one, and features learn them. "
            "Remove them for a broader result."
        )
    if statistics.short_documents >= MANY_SHORT * max(statistics.documents, 1):
        found.append(
            f"{statistics.short_documents:,} of {statistics.documents:,} documents have fewer than {SHORT_CHARACTERS} "
            "characters: they give the model hardly any context. Check that a line is a document."
        )
    return found


def _about_records(reader: RecordReader) -> list[str]:
    found = []
    if reader.blank:
        found.append(f"{reader.blank:,} records have no text and were left out.")
    if reader.both:
        found.append(
            f"{reader.both:,} records have text and messages: the text was read. "
            "Name messages_column to read the chats instead."
        )
    if reader.repaired:
        found.append(f"{reader.repaired:,} texts had half characters (lone surrogates), which were replaced.")
    if reader.dropped_keys:
        names = ", ".join(sorted(reader.dropped_keys)[:10])
        found.append(f"Of messages only role and content are read; left out: {names}.")
    return found
