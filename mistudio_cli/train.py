"""`mistudio train`: trains an SAE on a model's activations, and watches it.

Options are the fields of StartTrainingRequest that this release honours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio_cli import options
from mistudio_cli import train_options as o

if TYPE_CHECKING:
    from mistudio.train.v1 import train_service_pb2

    from mistudio_rpc.client import Client


def train(
    corpus_file: o.Corpus,
    model_name: o.RecipeModel = None,
    layer_number: o.Layer = None,
    auto_layer: o.AutoLayer = False,
    recipe: o.Recipe = "published",
    granularity: o.Granularity = None,
    selectivity: o.Selectivity = None,
    architecture: o.Architecture = None,
    hidden_dim: o.HiddenDim = None,
    k: o.K = None,
    sparsity_coeff: o.Sparsity = None,
    learning_rate: o.LearningRate = None,
    batch_size: o.BatchSize = None,
    max_epochs: o.MaxEpochs = None,
    min_loss: o.MinLoss = None,
    token_budget: o.TokenBudget = None,
    sae_batch_tokens: o.SaeBatch = None,
    max_sequence_length: o.MaxLength = None,
    hook: o.Hook = None,
    module_path: o.ModulePath = None,
    hook_name: o.HookName = None,
    output_hook_name: o.OutputHook = None,
    sweep: o.Sweep = None,
    enable_4bit: o.FourBit = None,
    enable_8bit: o.EightBit = None,
    splice_tokens: o.SpliceTokens = None,
    processes: o.Processes = None,
    cache_activations: o.CacheActivations = False,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    normalize_activations: o.Normalize = None,
    checkpoint_interval_seconds: o.Checkpoint = None,
    heldout_fraction: o.Heldout = None,
    dataset: o.Dataset = None,
    max_code_tokens: o.MaxCodes = None,
    gpu_id: o.GpuId = None,
    min_gpu_memory_gb: o.GpuMemory = None,
    request_id: o.RequestId = None,
    huggingface_token_file: options.TokenFile = None,
    detach: options.Detach = False,
    home: options.Home = None,
    address: options.Address = None,
    as_json: options.Json = False,
) -> None:
    """Train an SAE and watch it; Ctrl-C leaves the watch, not the job."""
    given = dict(locals())  # parameters have the names of the request's fields
    from mistudio_cli.flow import after_start
    from mistudio_cli.session import connect

    request = named(training_request(recipe, given, huggingface_token_file))
    with connect(home, address) as client:
        job = client.train.StartTraining(request)
        shown = partial(show_result, client, job.job_id, as_json=as_json)
        after_start(client, "train", job, home=home, detach=detach, as_json=as_json, result=shown)


def training_request(
    name: str, given: Mapping[str, Any], token_file: Path | None = None
) -> train_service_pb2.StartTrainingRequest:
    """The request of a recipe and the options that replace its values. Raises InvalidInput."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.recipes import settings
    from mistudio_cli.requests import fill, new_request_id
    from mistudio_cli.session import huggingface_token

    presets = settings(name, **{key: given.get(key) for key in ("granularity", "selectivity", "architecture")})
    values = {**presets, **{key: value for key, value in given.items() if value is not None}}
    request = fill(train_service_pb2.StartTrainingRequest(), values)
    request.request_id = request.request_id or new_request_id()
    secret = huggingface_token(token_file)
    if secret:
        request.huggingface_token = secret.reveal()
    return request


def named(request: train_service_pb2.StartTrainingRequest) -> train_service_pb2.StartTrainingRequest:
    """The request, if it names a model. Raises InvalidInput."""
    from mistudio_core.errors import InvalidInput

    if not request.model_name:
        raise InvalidInput.field("model", "", "a model, or a recipe that names one", "See `mistudio recipes list`.")
    return request


def show_result(client: Client, job_id: str, *, as_json: bool) -> None:
    """The result of a completed training job."""
    from mistudio.train.v1 import train_service_pb2

    from mistudio_cli.output import emit, message_json
    from mistudio_cli.summary import show_training

    result = client.train.GetTrainingResult(train_service_pb2.GetTrainingResultRequest(job_id=job_id))
    if as_json:
        emit({"result": message_json(result)})
    else:
        show_training(result)
