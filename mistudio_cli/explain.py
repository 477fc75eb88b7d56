"""`mistudio explain`: explains the features of a Find job in plain language, and watches it.

Options are the fields of StartExplainRequest that this release honours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mistudio_cli import options
from mistudio_cli.train_options import RequestId, option

if TYPE_CHECKING:
    from mistudio_rpc.client import Client

FeatureIds = Annotated[list[int] | None, option("--feature-id", "Explain exactly this feature; may be repeated.")]
Fallback = Annotated[
    bool, typer.Option("--allow-lexical-fallback", help="Use the lexical engine where the named one does not answer.")
]

Strategy = Annotated[
    str | None,
    option(
        "--strategy",
        "How evidence is put: top_and_contrast, quantiles, contrast_pair, promoted_tokens or code.",
        "top_and_contrast",
    ),
]


def explain(
    find_job_id: Annotated[str, typer.Argument(help="The Find job to explain.", show_default=False)],
    wait_for_find: Annotated[
        bool, typer.Option("--wait", help="Accept a job that has not finished; start when it completes.")
    ] = False,
    engine: Annotated[str | None, option("--engine", "Engine by its name.", "the configured one, else lexical")] = None,
    model: Annotated[str | None, option("--engine-model", "Model of the engine.", "the engine's own")] = None,
    max_features: Annotated[int | None, option("--max-features", "Most features to explain.", "100")] = None,
    min_coherence: Annotated[float | None, option("--min-coherence", "Least coherence, 0 to 1.", "0.4")] = None,
    feature_ids: FeatureIds = None,
    allow_lexical_fallback: Fallback = False,
    concurrency: Annotated[int | None, option("--concurrency", "Explanations asked for at a time.", "4")] = None,
    seed: Annotated[int | None, option("--seed", "Seed of every random choice.", "0")] = None,
    audience: Annotated[
        str | None, option("--audience", "Whom it is for: engineer, business or regulator.", "engineer")
    ] = None,
    strategy: Strategy = None,
    budget_usd: Annotated[
        float | None, option("--budget-usd", "Most to spend on engines that cost money, US dollars.", "0, none of them")
    ] = None,
    min_quality: Annotated[
        float | None, option("--min-quality", "Ask again below this quality, then flag; 0 to 1.", "0, never")
    ] = None,
    judge_engine: Annotated[
        str | None, option("--judge", "Engine that judges; lexical and embedding need none.", "the configured one")
    ] = None,
    judge_model: Annotated[str | None, option("--judge-model", "Model of the judging engine.", "its own")] = None,
    few_shot: Annotated[str | None, option("--few-shot", "Set of example explanations.", "the built-in one")] = None,
    use_cache: Annotated[
        bool | None,
        typer.Option("--cache/--no-cache", help="Take equal explanations from earlier runs.", show_default=False),
    ] = None,
    request_id: RequestId = None,
    detach: options.Detach = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Explain features in plain language, and watch it."""
    given = dict(locals())  # parameters have the names of the request's fields
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.flow import after_start
    from mistudio_cli.requests import fill, new_request_id
    from mistudio_cli.session import connect

    request = fill(explain_service_pb2.StartExplainRequest(), given)
    request.request_id = request.request_id or new_request_id()
    with connect(home, address) as client:
        response = client.explain.StartExplain(request)
        after_start(
            client,
            "explain",
            response,
            home=home,
            detach=detach,
            as_json=as_json,
            result=lambda: show_result(client, response.job_id, as_json=as_json),
        )


def show_result(client: Client, job_id: str, *, as_json: bool) -> None:
    """The best explanations of a completed run."""
    from mistudio.explain.v1 import explain_service_pb2

    from mistudio_cli.output import emit, message_json
    from mistudio_cli.summary import BEST, best_json, show_explain

    result = client.explain.GetExplainResult(explain_service_pb2.GetExplainResultRequest(job_id=job_id))
    page = explain_service_pb2.ListExplanationsRequest(job_id=job_id, page_size=BEST)
    best = client.explain.ListExplanations(page)
    if as_json:
        emit({"result": message_json(result), "best_features": best_json(best)})
    else:
        show_explain(result, best)
