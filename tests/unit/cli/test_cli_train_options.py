"""Options against the contract: every honoured field can be set, recipes hold, bad values name what is allowed."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from mistudio.explain.v1 import explain_service_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.train.v1 import train_service_pb2

from mistudio_cli.explain import explain
from mistudio_cli.find import find
from mistudio_cli.recipes import RECIPES, recipe
from mistudio_cli.requests import fill
from mistudio_cli.train import train, training_request
from mistudio_core.errors import InvalidInput
from mistudio_core.home import Home
from mistudio_rpc.contract import reserved_field
from mistudio_rpc.interceptors import check_message
from mistudio_train.convert import config_of


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (train, train_service_pb2.StartTrainingRequest),
        (find, find_service_pb2.StartFindRequest),
        (explain, explain_service_pb2.StartExplainRequest),
    ],
)
def test_every_honoured_field_has_an_option(command, message):
    fields = {f.name for f in message.DESCRIPTOR.fields if reserved_field(f) is None} - {"huggingface_token"}
    assert fields - set(inspect.signature(command).parameters) == set()


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_makes_a_request(name):
    request = training_request(name, {"model_name": "m", "corpus_file": "c"})
    assert request.request_id
    check_message(request)
    config = config_of(request, Home(Path("/nowhere")))  # what Train itself makes of it
    assert config.architecture == ("standard" if name == "published" else "topk")


def test_an_option_replaces_a_recipe_s_value(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    request = training_request("demo", {"model_name": "m", "k": 8, "hidden_dim": None})
    assert (request.k, request.hidden_dim) == (8, RECIPES["demo"].fields["hidden_dim"])
    assert request.huggingface_token == ""


def test_the_published_recipe_sets_nothing():
    request = training_request("published", {"model_name": "m", "corpus_file": "c"})
    assert {f.name for f, _ in request.ListFields()} == {"model_name", "corpus_file", "request_id"}


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(InvalidInput, match="demo, topk, published"):
        recipe("turbo")


def test_an_unknown_enum_value_names_those_there_are():
    with pytest.raises(InvalidInput, match="standard, topk"):
        fill(train_service_pb2.StartTrainingRequest(), {"architecture": "magic"})


def test_a_value_out_of_range_of_the_field_is_refused():
    with pytest.raises(InvalidInput, match="k: "):
        fill(train_service_pb2.StartTrainingRequest(), {"k": 2**40})


def test_a_hub_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "from-environment")
    assert training_request("demo", {}).huggingface_token == "from-environment"
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert training_request("demo", {}, file).huggingface_token == "from-file"
