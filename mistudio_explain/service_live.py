"""The RPC of ExplainService that writes one explanation while its caller reads: translates messages, no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from mistudio.explain.v1 import explain_service_pb2

from mistudio_core.artifacts import ArtifactReader
from mistudio_explain import convert
from mistudio_explain.config import record_of
from mistudio_explain.engines.settings import choose_engine, load_engines
from mistudio_explain.evidence import FeatureEvidence, FindEvidence
from mistudio_explain.service_base import Reading
from mistudio_explain.streaming import explain_feature, explainer_of
from mistudio_rpc.types import Context

_PIECE = 4000


class LiveMethods(Reading):
    """Part of the servicer; see the contract for every method."""

    async def ExplainFeature(
        self, request: explain_service_pb2.ExplainFeatureRequest, _: Context
    ) -> AsyncIterator[explain_service_pb2.ExplainFeatureResponse]:
        """See the contract. A caller that leaves closes the engine's call with it."""
        config = convert.live_config_of(request)
        settings = choose_engine(load_engines(self._runtime.home.engines_file), config.engine, config.model)
        await self._runtime.completed(request.find_job_id, "find")
        reader = await self._runtime.open_artifact(request.find_job_id, "features")
        find, evidence = await asyncio.to_thread(_evidence, reader, request.feature_id)
        explainer = explainer_of(settings, config, find)
        async with aclosing(explain_feature(explainer, evidence, find, config)) as parts:
            async for part in parts:
                if isinstance(part, str):
                    yield explain_service_pb2.ExplainFeatureResponse(text=part[:_PIECE])
                else:
                    explanation = convert.explanation_message(record_of(part))
                    yield explain_service_pb2.ExplainFeatureResponse(explanation=explanation)


def _evidence(reader: ArtifactReader, feature_id: int) -> tuple[FindEvidence, FeatureEvidence]:
    find = FindEvidence(reader)
    return find, find.one(feature_id)
