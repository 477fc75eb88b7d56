"""The corpus RPCs of TrainService: translates messages, asks `corpora`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from mistudio.train.v1 import train_service_pb2

from mistudio_core.errors import InvalidInput
from mistudio_core.jobs.records import InputReference
from mistudio_core.secret import Secret
from mistudio_rpc.paging import RankPage
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context
from mistudio_train import convert_corpus
from mistudio_train.corpora import Corpora
from mistudio_train.hub_dataset import is_dataset, pinned


class CorpusMethods:
    """Part of the servicer; see the contract for every method."""

    def __init__(self, runtime: Runtime) -> None:
        """Over the process's runtime."""
        self._corpora = Corpora(runtime.artifacts, runtime.jobs, runtime.queries)
        # a hub that is slow must not hold up other work
        self._hub_asks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="datasets")

    async def _corpus_inputs(
        self, request: train_service_pb2.StartTrainingRequest, token: Secret
    ) -> dict[str, InputReference]:
        """The uploaded corpus; none for a data set of the hub, whose name gets the commit that it stands for now."""
        if not is_dataset(request.corpus_file):
            return {"corpus": await self._corpora.reference(request.corpus_file)}
        ask = functools.partial(pinned, request.corpus_file, token)
        request.corpus_file = await asyncio.get_running_loop().run_in_executor(self._hub_asks, ask)
        return {}

    async def UploadCorpus(
        self, requests: AsyncIterator[train_service_pb2.UploadCorpusRequest], _: Context
    ) -> train_service_pb2.UploadCorpusResponse:
        """Nothing is kept of an upload that breaks off or is refused."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "header":
            raise InvalidInput.field("part", "nothing", "a header as the first message of the stream")
        coming = convert_corpus.announcement_of(first.header)
        entry = await self._corpora.receive(coming, _chunks(requests))
        return convert_corpus.upload_message(entry)

    async def ListCorpora(
        self, request: train_service_pb2.ListCorporaRequest, _: Context
    ) -> train_service_pb2.ListCorporaResponse:
        """See the contract."""
        size = request.page_size if request.HasField("page_size") else 100
        entries, more, total = await self._corpora.page(size=size, token=request.page_token)
        corpora = RankPage(0, size).fit(map(convert_corpus.corpus_message, entries))
        more = more or len(corpora) < len(entries)
        return train_service_pb2.ListCorporaResponse(
            corpora=corpora,
            next_page_token=entries[len(corpora) - 1].token if more else "",
            total_corpora=total,
        )

    async def GetCorpus(
        self, request: train_service_pb2.GetCorpusRequest, _: Context
    ) -> train_service_pb2.GetCorpusResponse:
        """See the contract."""
        entry = await self._corpora.get(request.name)
        return train_service_pb2.GetCorpusResponse(corpus=convert_corpus.corpus_message(entry))

    async def DeleteCorpus(
        self, request: train_service_pb2.DeleteCorpusRequest, _: Context
    ) -> train_service_pb2.DeleteCorpusResponse:
        """See the contract."""
        return convert_corpus.deleted_message(request.name, await self._corpora.delete(request.name))


async def _chunks(requests: AsyncIterator[train_service_pb2.UploadCorpusRequest]) -> AsyncIterator[tuple[int, bytes]]:
    async for request in requests:
        yield request.chunk.offset, request.chunk.data
