"""`mistudio run`: from a model and a text to explained features, as three jobs submitted at once.

The submission itself is in `pipeline.py`, which `mistudio demo` uses too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mistudio_cli import options
from mistudio_cli import train_options as o
from mistudio_cli.explain import Fallback
from mistudio_core.errors import MistudioError

if TYPE_CHECKING:
    from mistudio_cli.pipeline import Results


def run(
    corpus: o.LocalCorpus,
    model_name: o.RecipeModel = None,
    layer_number: o.Layer = None,
    recipe: o.Recipe = "demo",
    granularity: o.Granularity = None,
    selectivity: o.Selectivity = None,
    hidden_dim: o.HiddenDim = None,
    k: o.K = None,
    learning_rate: o.LearningRate = None,
    token_budget: o.TokenBudget = None,
    max_epochs: o.MaxEpochs = None,
    seed: o.Seed = None,
    engine: Annotated[
        str | None, o.option("--engine", "Engine that explains.", "the configured one, else lexical")
    ] = None,
    max_features: Annotated[int | None, o.option("--max-features", "Most features to explain.", "100")] = None,
    allow_lexical_fallback: Fallback = False,
    request_id: o.RequestId = None,
    huggingface_token_file: options.TokenFile = None,
    detach: options.Detach = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Train, find and explain in one go; Ctrl-C leaves the watch, not the jobs."""
    given = dict(locals())  # parameters have the names of the requests' fields
    from mistudio.explain.v1 import explain_service_pb2
    from mistudio.find.v1 import find_service_pb2

    from mistudio_cli import pipeline
    from mistudio_cli.flow import to_the_end
    from mistudio_cli.output import emit, say
    from mistudio_cli.requests import fill
    from mistudio_cli.session import connect
    from mistudio_cli.summary import BEST, show_result
    from mistudio_cli.train import named, training_request

    training = named(training_request(recipe, given, huggingface_token_file))
    explain = fill(
        explain_service_pb2.StartExplainRequest(allow_lexical_fallback=allow_lexical_fallback),
        {"engine": engine, "max_features": max_features},
    )
    with connect(home, address) as client:
        training.corpus_file = pipeline.corpus_name(client, corpus)
        made = pipeline.submit(client, training, find_service_pb2.StartFindRequest(), explain)
        if as_json:
            emit(made.ids() if detach else {"started": made.ids()})
        else:
            say(f"Jobs {made.train}, {made.find}, {made.explain}: {made.message}")
        if detach:
            return
        try:
            to_the_end(client, made.jobs(), home=home, as_json=as_json)
        except MistudioError:
            if not as_json:
                for _, job_id in made.jobs():
                    show_result(client, job_id)  # what did complete is worth having
            raise
        _show(pipeline.results(client, made, best=BEST), as_json=as_json)


def _show(results: Results, *, as_json: bool) -> None:
    from mistudio_cli.output import emit, message_json
    from mistudio_cli.summary import best_json, show_explain, show_find, show_training

    if as_json:
        made = {"train": results.train, "find": results.find, "explain": results.explain}
        result = {name: message_json(message) for name, message in made.items()}
        emit({"result": result, "best_features": best_json(results.best)})
        return
    show_training(results.train)
    show_find(results.find)
    show_explain(results.explain, results.best)
