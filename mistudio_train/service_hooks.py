"""The RPC of TrainService that lists a model's hooks: translates messages, asks `mistudio_torch.lm.hookable`."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor

from mistudio.feature.v1 import sae_pb2
from mistudio.train.v1 import train_service_pb2, training_pb2

from mistudio_core.secret import Secret
from mistudio_rpc.paging import RankPage
from mistudio_rpc.runtime import Runtime
from mistudio_rpc.types import Context
from mistudio_torch.lm.hookable import HookRecord, inspect_hooks

PAGE = 500
"""Hooks a page, where the request says nothing."""


class HookMethods:
    """Part of the servicer; see the contract for every method."""

    _runtime: Runtime
    _hub: ThreadPoolExecutor

    async def ListHooks(
        self, request: train_service_pb2.ListHooksRequest, _: Context
    ) -> train_service_pb2.ListHooksResponse:
        """See the contract."""
        token = Secret(request.huggingface_token)
        ask = functools.partial(
            inspect_hooks, request.model_name, token=token or None, model_root=self._runtime.home.models
        )
        catalogue = await asyncio.get_running_loop().run_in_executor(self._hub, ask)
        records = catalogue.records(request.layer_number if request.HasField("layer_number") else None)
        page = RankPage.parse(request.page_token, request.page_size or PAGE)
        hooks = page.fit(map(hook_message, records[page.start : page.start + page.size]))
        return train_service_pb2.ListHooksResponse(
            model_name=request.model_name,
            hooks=hooks,
            next_page_token=page.next_token(len(hooks), len(records)),
            total_hooks=len(records),
        )


def hook_message(record: HookRecord) -> training_pb2.ModelHook:
    """A hook in the published form."""
    return training_pb2.ModelHook(
        name=record.name,
        kind=sae_pb2.Hook.Value(f"HOOK_{record.kind.upper()}"),
        layer_number=record.layer,
        width=record.width,
        module_path=record.module_path,
    )
