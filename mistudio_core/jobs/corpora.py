"""Uploaded corpora as inputs of jobs: the newest of a name, fixed by its digest.

Every service that takes a corpus resolves its name here; how corpora are stored is not its business.
"""

from __future__ import annotations

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.queries import JobQueries
from mistudio_core.jobs.records import InputReference

URI_BASE = "/data/samples/"
"""Where uploaded corpora are, as a logical path."""


def corpus_uri(name: str) -> str:
    """The logical path of an uploaded corpus."""
    return URI_BASE + name


async def corpus_reference(queries: JobQueries, name: str) -> InputReference:
    """The newest corpus of a name as a job's input, fixed by its digest. Raises InvalidInput (CORPUS_NOT_FOUND)."""
    found = await queries.upload(corpus_uri(name))
    if found is None:
        raise InvalidInput(
            f"Corpus file '{name}' not found. Please upload it first: `mistudio upload FILE`.",
            reason="CORPUS_NOT_FOUND",
            facts={"corpus_file": name},
        )
    return InputReference(uri=corpus_uri(name), sha256=found.record.sha256)
