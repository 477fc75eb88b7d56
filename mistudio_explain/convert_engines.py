"""Messages about engines <-> what the roster says of them."""

from __future__ import annotations

from datetime import datetime

from mistudio.explain.v1 import explanation_pb2

from mistudio_core.engine_records import EngineRecord
from mistudio_explain.engines.roster import EngineStatus, ModelStatus
from mistudio_rpc import messages

_MOST_MODELS, _MOST_PROCESSES = 1000, 64


def engine_message(status: EngineStatus) -> explanation_pb2.Engine:
    """An engine as callers see it: no address, no key."""
    settings = status.settings
    return explanation_pb2.Engine(
        name=settings.name,
        kind=settings.kind,
        default_model=settings.model,
        is_default=settings.is_default,
        state=_state(status.state),
        message=status.message[:4000],
        models=[_model(m) for m in status.models[:_MOST_MODELS]],
        processes=[_process(p) for p in status.processes[:_MOST_PROCESSES]],
        costs_money=settings.costs_money,
        concurrency=settings.concurrency,
    )


def _state(name: str) -> explanation_pb2.EngineState.ValueType:
    return explanation_pb2.EngineState.Value(f"ENGINE_STATE_{(name or 'unspecified').upper()}")


def _model(status: ModelStatus) -> explanation_pb2.EngineModel:
    return explanation_pb2.EngineModel(
        name=status.info.name[:200],
        loaded=status.info.loaded,
        size_bytes=status.info.size_bytes,
        context_tokens=status.info.context_tokens,
        progress=status.progress,
        activity=status.activity[:200],
    )


def _process(record: EngineRecord) -> explanation_pb2.EngineProcess:
    return explanation_pb2.EngineProcess(
        device=record.device,
        state=_state(record.state),
        model=record.model[:500],
        pid=record.pid,
        port=record.port,
        restarts=record.restarts,
        since=messages.timestamp(datetime.fromisoformat(record.since)) if record.since else None,
        in_flight=record.in_flight,
        memory_bytes=record.memory_bytes,
        log_file=record.log_file,
        message=record.message[:4000],
    )
