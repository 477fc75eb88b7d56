"""Data sets of the Hugging Face Hub as corpora: named, checked, and stored with the job that reads them.

The worker streams the rows once and commits them as the job's own corpus, so that every later attempt
reads the same bytes by digest. huggingface_hub and datasets are imported inside functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistudio_core.artifacts import ArtifactReader, ArtifactWriter
from mistudio_core.corpus.about import StoredCorpus, open_corpus
from mistudio_core.corpus.columns import Columns, RecordReader
from mistudio_core.corpus.forms import check_schema
from mistudio_core.corpus.sink import DocumentSink, write_about
from mistudio_core.errors import Cancelled, Forbidden, InvalidInput, MistudioError, NotFound, Unavailable, Unsupported
from mistudio_core.jobs.context import JobContext
from mistudio_core.secret import Secret

PREFIX = "hf:"
MAX_DOCUMENTS = 100_000
"""Most documents that are read unless the caller says otherwise."""
MAX_BYTES = 2_000_000_000
"""Most bytes that are stored unless the caller says otherwise."""
_NAME = re.compile(
    r"^hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[A-Za-z0-9][\w./-]{0,99}))?$",
    re.ASCII,
)
_FORMATS = ("json", "parquet", "csv", "text", "arrow")
_TIMEOUT_S = 20.0
_ROWS_A_REPORT = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetOptions:
    """How a data set is read."""

    config: str = ""
    """Its configuration (subset); empty: its own default."""
    split: str = "train"
    """The split."""
    columns: Columns = field(default_factory=Columns)
    """Which column is what."""
    max_documents: int = MAX_DOCUMENTS
    """Most documents that are read, from the first."""
    max_bytes: int = MAX_BYTES
    """Most bytes that are stored."""


def is_dataset(corpus_name: str) -> bool:
    """Whether a corpus is named as a data set of the hub."""
    return corpus_name.startswith(PREFIX)


def parse_name(corpus_name: str) -> tuple[str, str]:
    """(owner/name, revision or "") of a name. Raises InvalidInput."""
    match = _NAME.match(corpus_name)
    if match is None:
        raise InvalidInput.field(
            "corpus_file",
            corpus_name,
            "the name of an uploaded corpus, or hf:<owner>/<name>[@revision]",
            "For example hf:stanfordnlp/imdb.",
        )
    return match["repo"], match["revision"] or ""


def pinned(corpus_name: str, token: Secret | None) -> str:
    """The name with the commit that its revision stands for now: what a later attempt reads must be the same.

    Asks the hub. Raises InvalidInput, NotFound (DATASET_NOT_FOUND), Forbidden (DATASET_GATED), Unavailable.
    """
    repo, revision = parse_name(corpus_name)
    from huggingface_hub import HfApi

    with _hub_errors(repo):
        api = HfApi(endpoint=_endpoint(), token=token.reveal() if token else False)
        info = api.dataset_info(repo, revision=revision or None, timeout=_TIMEOUT_S)
        if info.gated:
            api.auth_check(repo, repo_type="dataset")
    return f"{PREFIX}{repo}@{info.sha}"


def job_corpus(corpus_name: str, options: DatasetOptions, ctx: JobContext, fraction: float) -> StoredCorpus:
    """The corpus of a job: its input, or the data set it names, stored by this attempt or an earlier one.

    `fraction` is the share of the job that is done when it begins. Raises Corrupt where a byte of what was
    stored changed; for a data set what `pinned` and uploads do.
    """
    if not is_dataset(corpus_name):
        return open_corpus(ctx.input("corpus"))
    return open_corpus(ctx.committed("corpus") or _store(corpus_name, options, ctx, fraction))


def _store(corpus_name: str, options: DatasetOptions, ctx: JobContext, fraction: float) -> ArtifactReader:
    """Streams the data set into the job's corpus artifact and commits it."""

    def report(documents: int) -> None:
        ctx.check_cancelled()
        ctx.progress(
            "reading data set", fraction=fraction, current=documents, total=options.max_documents, unit="documents"
        )

    writer = ctx.stage_artifact("corpus", "corpus")
    try:
        stopped = _write(writer, corpus_name, options, ctx.secret("huggingface_token"), report)
    except BaseException:
        writer.discard()
        raise
    ctx.commit(writer)
    if stopped:
        ctx.log(f"The data set has more: reading stopped at {stopped}.")
    stored = ctx.committed("corpus")
    if stored is None:
        raise RuntimeError("a committed corpus is not found")
    return stored


def _write(
    writer: ArtifactWriter,
    corpus_name: str,
    options: DatasetOptions,
    token: Secret | None,
    report: Callable[[int], None],
) -> str:
    """Stores the documents; the limit at which it stopped, empty where it read them all."""
    reader = RecordReader(options.columns, corpus_name, unit="Row")
    sink = DocumentSink(writer, corpus_name, options.columns.labels)
    stopped = ""
    try:
        for number, row in enumerate(_rows(corpus_name, options, token), 1):
            if number % _ROWS_A_REPORT == 1:
                report(sink.statistics.documents)
            document = reader.document(row, number)
            if document is None:
                continue
            if sink.statistics.documents == options.max_documents:
                stopped = f"max_documents, {options.max_documents:,}"
                break
            if sink.size_bytes + len(document.line()) > options.max_bytes and sink.size_bytes:
                stopped = f"max_bytes, {options.max_bytes:,}"
                break
            sink.add(document)
        reader.finish()
    finally:
        sink.close()
    write_about(writer, sink.statistics, size_bytes=sink.size_bytes, source=corpus_name, reader=reader)
    return stopped


def _rows(corpus_name: str, options: DatasetOptions, token: Secret | None) -> Iterator[dict[str, Any]]:
    """The rows of a split, streamed; class numbers of labels by their names."""
    repo, revision = parse_name(corpus_name)
    if Path(repo).exists():  # datasets would read it instead
        raise Unsupported(
            f"data set {repo}", why="a folder of this name is where the service runs", instead="Start it elsewhere."
        )
    import datasets

    with _hub_errors(repo, opening=True):
        builder = datasets.load_dataset_builder(
            repo, options.config or None, revision=revision or None, token=token.reveal() if token else False
        )
        if builder.name not in _FORMATS:
            raise Unsupported(
                f"data set {repo}", why=f"its files are {builder.name}", instead=f"Use one of {', '.join(_FORMATS)}."
            )
        stream = builder.as_streaming_dataset(split=options.split)
        features = dict(stream.features or {})
        if features:
            check_schema(options.columns, tuple(features), corpus_name)
            stream = stream.select_columns([name for name in features if name in options.columns.wanted])
    classes = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    with _hub_errors(repo):
        for row in stream:
            for name, kind in classes.items():
                if isinstance(row.get(name), int) and 0 <= row[name] < kind.num_classes:
                    row[name] = kind.int2str(row[name])
            yield row


@contextmanager
def _hub_errors(repo: str, *, opening: bool = False) -> Iterator[None]:
    """Turns what the hub's libraries raise into miStudio's errors; `opening`: nothing was read yet."""
    try:
        yield
    except (MistudioError, Cancelled, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split()).replace(str(Path.cwd()), "")[:300].rstrip(".")
        known = _of_the_hub(repo, error, text)
        if known is None and opening and isinstance(error, ValueError):  # no such configuration or split
            known = NotFound(f"Data set {repo}: {text}.", reason="DATASET_NOT_FOUND", facts={"dataset": repo})
        raise known or InvalidInput(
            f"Data set {repo} cannot be read: {type(error).__name__}: {text}.",
            reason="CORPUS_UNREADABLE",
            facts={"dataset": repo, "why": text},
        ) from error


def _of_the_hub(repo: str, error: Exception, text: str) -> MistudioError | None:
    """What is a matter of the hub rather than of the data; None for the rest."""
    from huggingface_hub import errors as hub

    facts = {"dataset": repo, "why": text}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, hub.GatedRepoError) or (
        status in (401, 403) and not isinstance(error, hub.RepositoryNotFoundError)
    ):
        return Forbidden(
            f"Data set {repo} is gated: it needs a token with access. Ask for access on the hub, "
            "then pass huggingface_token.",
            reason="DATASET_GATED",
            facts=facts,
        )
    unknown = hub.RepositoryNotFoundError | hub.RevisionNotFoundError | hub.HFValidationError
    if type(error).__name__ == "DatasetNotFoundError" or isinstance(error, unknown):
        return NotFound(
            f"No data set {repo} of this name and revision on the hub. Check the spelling; for a private one "
            "pass huggingface_token.",
            reason="DATASET_NOT_FOUND",
            facts=facts,
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(
            f"Data set {repo} has no data files that can be read: {text[:150]}.",
            reason="DATASET_NOT_FOUND",
            facts=facts,
        )
    if isinstance(error, OSError | hub.HfHubHTTPError) or type(error).__module__.startswith(("http", "fsspec")):
        return Unavailable(
            f"The hub could not be reached for data set {repo} ({type(error).__name__}). Try again, check "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or upload the text: `mistudio upload`.",
            reason="HUB_UNAVAILABLE",
            facts=facts,
        )
    return None


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now, not as it was at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
