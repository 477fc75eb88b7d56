"""`mistudio find`: gathers the evidence for every feature of a training job or an imported SAE, and watches it.

Options are the fields of StartFindRequest that this release honours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio_cli import find_options as o
from mistudio_cli import options
from mistudio_cli.train_options import RequestId

if TYPE_CHECKING:
    from mistudio_rpc.client import Client


def find(
    training_job_id: o.TrainingJob = None,
    sae_uri: o.SaeUri = None,
    model_name: o.Model = None,
    corpus_file: o.Corpus = None,
    hook_name: o.HookName = None,
    max_tokens: o.MaxTokens = None,
    huggingface_token_file: options.TokenFile = None,
    wait_for_training: o.Wait = False,
    sae_name: o.SaeName = None,
    top_texts: o.TopTexts = None,
    context_tokens: o.ContextTokens = None,
    quantiles: o.Quantiles = None,
    contrast_texts: o.ContrastTexts = None,
    keywords: o.Keywords = None,
    seed: o.Seed = None,
    evidence_text: o.EvidenceText = None,
    rules: o.Rules = None,
    request_id: RequestId = None,
    detach: options.Detach = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Find what each feature responds to, and watch it."""
    given = dict(locals())  # parameters have the names of the request's fields
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.flow import after_start
    from mistudio_cli.requests import fill, new_request_id
    from mistudio_cli.session import connect, huggingface_token

    request = fill(find_service_pb2.StartFindRequest(), given)
    secret = huggingface_token(huggingface_token_file) if sae_uri else None
    if secret:
        request.huggingface_token = secret.reveal()
    request.request_id = request.request_id or new_request_id()
    with connect(home, address) as client:
        response = client.find.StartFind(request)
        after_start(
            client,
            "find",
            response,
            home=home,
            detach=detach,
            as_json=as_json,
            result=lambda: show_result(client, response.job_id, as_json=as_json),
        )


def show_result(client: Client, job_id: str, *, as_json: bool) -> None:
    """The summary of a completed analysis."""
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli.output import emit, message_json
    from mistudio_cli.summary import show_find

    result = client.find.GetFindResult(find_service_pb2.GetFindResultRequest(job_id=job_id))
    if as_json:
        emit({"result": message_json(result)})
    else:
        show_find(result)
