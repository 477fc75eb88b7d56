"""Writes the `features` artifact: records stream to scratch in id order, then out in coherence order.

Owns the files and their layout (pages.py reads it back); at no time is more than one record in
memory. CSV has its own file. All JSON is valid Unicode without NaN.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from mistudio_core.artifacts import ArtifactWriter
from mistudio_core.artifacts.files import disk_errors
from mistudio_find.corpus_index import Array, CorpusIndex
from mistudio_find.exports.csv_file import HEADER, csv_row
from mistudio_find.table import TABLE_FILE, TableWriter

ANALYSIS_FILE = "feature_analysis.json"
"""The published form."""
LINES_FILE = "features.jsonl"
"""One record a line, most coherent first, with the judging texts."""
INDEX_FILE = "features.idx"
"""Little-endian int64: total n; n + 1 byte offsets of lines in rank order; the rank of each feature id."""
CSV_FILE = "feature_analysis.csv"
"""One row a feature, safe to open in a spreadsheet."""
VOCABULARY_FILE = "vocabulary.json"
"""Evidence documents, and how many of them hold each word that at least two do."""
_TICK_EVERY, _NOTE_EVERY = 100, 64
_ROW_KEYS = ("feature_id", "coherence_score", "quality_level", "pattern_category", "category_confidence", "dead")
_MOST_WORDS = 50_000


def encoded(value: Any) -> bytes:
    """Compact JSON in UTF-8, numbers as they are; raises TypeError for what JSON cannot hold."""
    return orjson.dumps(value)


def dumps(value: Any) -> str:
    """Compact JSON; raises ValueError for NaN, which no record holds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class RecordSpool:
    """Records in a scratch file, in order of feature id from 0; what a killed run wrote is taken up again.

    Each record is one line of the file, after it its CSV row; the file beside it holds their lengths and
    short rows, and is written after them, so that it never names what is not there.
    """

    def __init__(self, path: Path) -> None:
        """Opens `path`, and reads what it holds already."""
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """What the summary needs of each record."""
        self._lengths: list[tuple[int, int, int]] = []
        self._notes_path = path.with_suffix(".notes")
        end, notes_end = self._take_up()
        with disk_errors(path.parent, "feature records"):
            self._handle: BinaryIO = path.open("ab")
            self._notes: BinaryIO = self._notes_path.open("ab")
            self._handle.truncate(end)
            self._notes.truncate(notes_end)
        self._noted = len(self.rows)

    def _take_up(self) -> tuple[int, int]:
        """Bytes of both files that are whole."""
        size = self.path.stat().st_size if self.path.exists() else 0
        end = notes_end = 0
        for line in self._notes_path.read_bytes().splitlines(keepends=True) if self._notes_path.exists() else ():
            try:
                *lengths, row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or end + lengths[1] + lengths[2] > size:
                break
            end, notes_end = end + lengths[1] + lengths[2], notes_end + len(line)
            self._lengths.append((lengths[0], lengths[1], lengths[2]))
            self.rows.append(row)
        return end, notes_end

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds the next record; `judge_texts`, its last key, stays out of the published form."""
        public = {k: v for k, v in record.items() if k != "judge_texts"}
        head = encoded(public)[:-1]
        line = head + b',"judge_texts":' + encoded(record["judge_texts"]) + b"}\n"
        row = csv_row(record).encode()
        with disk_errors(self.path.parent, "feature records"):
            self._handle.write(line + row)
        self._lengths.append((len(head), len(line), len(row)))
        self.rows.append({key: record[key] for key in _ROW_KEYS})
        if len(self.rows) - self._noted == _NOTE_EVERY:
            self.note()

    def note(self) -> None:
        """Makes what was added so far safe against a kill."""
        with disk_errors(self.path.parent, "feature records"):
            self._handle.flush()
            for at in range(self._noted, len(self.rows)):
                self._notes.write(encoded([*self._lengths[at], self.rows[at]]) + b"\n")
            self._notes.flush()
        self._noted = len(self.rows)

    def close(self) -> None:
        """Ends writing."""
        self.note()
        with disk_errors(self.path.parent, "feature records"):
            self._handle.close()
            self._notes.close()

    def remove(self) -> None:
        """Deletes both files."""
        self.path.unlink()
        self._notes_path.unlink()

    def publish(
        self, writer: ArtifactWriter, order: Array, metadata: Mapping[str, Any], tick: Callable[[float], None]
    ) -> None:
        """Writes the JSON, JSONL, CSV, index and query table files; `order` int64 (n,) are feature ids by rank."""
        lengths = np.array(self._lengths, np.int64).reshape(-1, 3)
        starts = np.cumsum(lengths[:, 1] + lengths[:, 2]) - lengths[:, 1] - lengths[:, 2]
        with (
            disk_errors(writer.folder, "the analysis"),
            self.path.open("rb") as source,
            writer.path(LINES_FILE).open("wb") as lines,
            writer.path(ANALYSIS_FILE).open("wb") as analysis,
            writer.path(CSV_FILE).open("wb") as table,
            TableWriter(writer.path(TABLE_FILE), features=len(order)) as queries,
        ):
            analysis.write(f'{{"job_metadata":{dumps(metadata)},"features":['.encode())
            table.write(HEADER.encode())
            for rank, feature in enumerate(order.tolist()):
                if rank % _TICK_EVERY == 0:
                    tick(rank / len(order))
                source.seek(int(starts[feature]))
                head, size, row = self._lengths[feature]
                line = source.read(size)
                lines.write(line)
                analysis.write((b",\n" if rank else b"\n") + line[:head] + b"}")
                table.write(source.read(row))
                queries.add(rank, orjson.loads(line))
            analysis.write(b"\n]}\n")
        _write_index(writer, lengths[order, 1], order)


def _write_index(writer: ArtifactWriter, lengths: Array, order: Array) -> None:
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    index = np.concatenate([[len(order)], [0], np.cumsum(lengths), ranks]).astype("<i8")
    writer.write(INDEX_FILE, index.tobytes())


def write_vocabulary(writer: ArtifactWriter, index: CorpusIndex) -> None:
    """The commonest 50,000 words of the evidence with their document frequencies."""
    order = np.argsort(-index.documents_with, kind="stable")[:_MOST_WORDS]
    words = {index.vocabulary[at]: int(index.documents_with[at]) for at in order if index.documents_with[at] > 1}
    writer.write(VOCABULARY_FILE, dumps({"documents": index.evidence_documents, "documents_with": words}).encode())


def write_summaries(writer: ArtifactWriter, rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> None:
    """`pattern_categories.json` and `quality_metrics.json` from one short row a feature."""
    categories: dict[str, list[dict[str, Any]]] = {}
    tiers: dict[str, list[int]] = {}
    for row in rows:
        entry = {"feature_id": row["feature_id"], "confidence": row["category_confidence"]}
        categories.setdefault(row["pattern_category"], []).append(entry)
        tiers.setdefault(row["quality_level"], []).append(row["feature_id"])
    live = [row["coherence_score"] for row in rows]
    counts = {name: len(entries) for name, entries in categories.items()}
    writer.write(
        "pattern_categories.json",
        dumps({"versions": versions, "counts": counts, "categories": categories}).encode(),
    )
    quality = {
        "versions": versions,
        "live_features": len(rows),
        "mean_coherence": round(float(np.mean(live)), 6) if live else 0.0,
        "counts": {name: len(ids) for name, ids in tiers.items()},
        "tiers": tiers,
    }
    writer.write("quality_metrics.json", dumps(quality).encode())
