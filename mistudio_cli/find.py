"""`mistudio find`: gathers the evidence for every feature of a training job or an imported SAE, and watches it.

Options are the fields of StartFindRequest that this release honours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.train_options import RequestId, option

if TYPE_CHECKING:
    from mistudio_rpc.client import Client


def find(
    training_job_id: Annotated[
        str | None, typer.Argument(help="The training job to analyse; none with --sae-uri.", show_default=False)
    ] = None,
    sae_uri: Annotated[
        str | None,
        option(
            "--sae-uri",
            "An SAE of another origin instead: a folder under the model root, the name of an imported one, "
            "hf:<owner>/<name>[@revision][/folder], or the URI of an sae artifact.",
        ),
    ] = None,
    model_name: Annotated[str | None, option("--model", "The model that --sae-uri reads.")] = None,
    corpus_file: Annotated[str | None, option("--corpus", "Uploaded corpus on which --sae-uri is analysed.")] = None,
    hook_name: Annotated[
        str | None, option("--hook", "The hook that --sae-uri reads: blocks.3.hook_resid_post.", "what its files say")
    ] = None,
    max_tokens: Annotated[
        int | None, option("--max-tokens", "Most tokens of the corpus, with --sae-uri.", "10,000,000")
    ] = None,
    huggingface_token_file: options.TokenFile = None,
    wait_for_training: Annotated[
        bool, typer.Option("--wait", help="Accept a job that has not finished; start when it completes.")
    ] = False,
    sae_name: Annotated[
        str | None, option("--sae", "Which SAE of a job with several: its name, as the result lists it.")
    ] = None,
    top_texts: Annotated[int | None, option("--top-texts", "Top texts kept a feature.", "20")] = None,
    context_tokens: Annotated[
        int | None, option("--context-tokens", "Tokens kept on each side of the strongest.", "32")
    ] = None,
    quantiles: Annotated[int | None, option("--quantiles", "Quantiles to sample texts from.", "5")] = None,
    contrast_texts: Annotated[int | None, option("--contrast-texts", "Silent texts kept a feature.", "10")] = None,
    keywords: Annotated[int | None, option("--keywords", "Keywords kept a feature.", "10")] = None,
    seed: Annotated[int | None, option("--seed", "Seed of every random choice.", "0")] = None,
    evidence_text: Annotated[
        str | None,
        option("--evidence-text", "How much corpus text is kept: full, redacted (by rules), or none.", "full"),
    ] = None,
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
