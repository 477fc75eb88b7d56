"""Messages of corpora <-> records of the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mistudio.train.v1 import corpus_pb2, train_service_pb2

from mistudio_core.artifacts import ArtifactRecord
from mistudio_core.corpus.about import corpus_file
from mistudio_core.corpus.columns import Columns
from mistudio_core.corpus.forms import IntakeOptions
from mistudio_core.corpus.statistics import CorpusStatistics, LabelColumn
from mistudio_core.errors import InvalidInput
from mistudio_rpc import messages
from mistudio_train.corpora import Announcement, CorpusEntry
from mistudio_train.hub_dataset import DatasetOptions, is_dataset, parse_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def announcement_of(header: train_service_pb2.UploadHeader) -> Announcement:
    """What a header says of the upload to come. Raises InvalidInput."""
    options = IntakeOptions(columns=columns_of(header), separator=header.separator)
    return Announcement(filename=header.filename, name=header.name, size_bytes=header.size_bytes, options=options)


def columns_of(message: train_service_pb2.UploadHeader | corpus_pb2.DatasetOptions) -> Columns:
    """Which column is what. Raises InvalidInput."""
    return Columns(
        text=message.text_column,
        messages=message.messages_column,
        labels=tuple(message.label_columns),
        group=message.group_column,
        time=message.time_column,
    )


def dataset_of(request: train_service_pb2.StartTrainingRequest) -> DatasetOptions:
    """How the data set that a request names is read. Raises InvalidInput."""
    if is_dataset(request.corpus_file):
        parse_name(request.corpus_file)
    elif request.HasField("dataset"):
        raise InvalidInput.field(
            "dataset", request.corpus_file, "set only where corpus_file is hf:<owner>/<name>", "Leave it out."
        )
    message = request.dataset
    given = {name: getattr(message, name) for name in ("max_documents", "max_bytes") if message.HasField(name)}
    return DatasetOptions(config=message.config, split=message.split or "train", columns=columns_of(message), **given)


def upload_message(entry: CorpusEntry) -> train_service_pb2.UploadCorpusResponse:
    """The reply to an upload, in the published form."""
    return train_service_pb2.UploadCorpusResponse(
        message="File uploaded successfully",
        filename=entry.name,
        size_bytes=entry.size_bytes,
        lines_count=entry.about.statistics.documents,
        path=entry.record.uri,
        sha256=entry.sha256,
        source_sha256=entry.about.source_sha256,
        statistics=_statistics(entry.about.statistics),
        warnings=entry.about.warnings,
    )


def corpus_message(entry: CorpusEntry) -> corpus_pb2.Corpus:
    """A stored corpus."""
    about = entry.about
    return corpus_pb2.Corpus(
        name=entry.name,
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
        path=f"{entry.record.uri}/{corpus_file(entry.record)}",
        created_at=messages.timestamp(entry.created_at),
        source=about.source,
        source_sha256=about.source_sha256,
        statistics=_statistics(about.statistics) if about.statistics.documents else None,
        warnings=about.warnings,
    )


def deleted_message(name: str, records: list[ArtifactRecord]) -> train_service_pb2.DeleteCorpusResponse:
    """What a deletion freed."""
    return train_service_pb2.DeleteCorpusResponse(
        name=name, uploads=len(records), size_bytes=sum(record.size_bytes for record in records)
    )


def _statistics(found: CorpusStatistics) -> corpus_pb2.CorpusStatistics:
    return corpus_pb2.CorpusStatistics(
        documents=found.documents,
        size_bytes=found.bytes,
        mean_characters=found.mean_characters,
        median_characters=found.median_characters,
        max_characters=found.max_characters,
        short_documents=found.short_documents,
        duplicate_share=found.duplicate_share,
        duplicates_estimated=found.duplicates_estimated,
        blank_documents=found.blank_documents,
        columns=found.columns,
        labels=[_labels(column) for column in found.labels],
        groups=found.groups,
        first_time=messages.timestamp(_moment(found.first_time)),
        last_time=messages.timestamp(_moment(found.last_time)),
    )


def _labels(column: LabelColumn) -> corpus_pb2.LabelColumn:
    return corpus_pb2.LabelColumn(
        name=column.name,
        different_values=column.different,
        labelled_documents=column.labelled,
        values=[corpus_pb2.LabelCount(value=value, documents=count) for value, count in column.values.items()],
    )


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
