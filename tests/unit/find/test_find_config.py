"""What a Find job may be asked for: the two ways to name an SAE, and how much text is kept."""

from __future__ import annotations

from typing import Any

import pytest
from mistudio.find.v1 import find_service_pb2

from mistudio_core.errors import InvalidInput
from mistudio_core.home import Home
from mistudio_find import convert
from mistudio_find.config import FindConfig

IMPORT = {"sae_uri": "gpt2-sae", "model_name": "tiny", "corpus_file": "small.txt"}


def config_of(**fields: Any) -> FindConfig:
    return convert.config_of(find_service_pb2.StartFindRequest(**fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sae_uri", "hf:a/b/c"),
        ("model_name", "other"),
        ("corpus_file", "other.txt"),
        ("hook_name", "blocks.1.hook_mlp_out"),
        ("max_tokens", 5000),
    ],
)
def test_each_field_of_an_import_changes_what_the_job_is(field: str, value: Any):
    changed = config_of(**{**IMPORT, field: value})
    assert changed != config_of(**IMPORT) and getattr(changed, field) == value


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "training_job_id"),
        ({"training_job_id": "t", **IMPORT}, "training_job_id"),
        ({"sae_uri": "s", "model_name": "m"}, "corpus_file"),
        ({"sae_uri": "s", "corpus_file": "c"}, "model_name"),
        ({"training_job_id": "t", "model_name": "m"}, "model_name"),
        ({"training_job_id": "t", "corpus_file": "c"}, "corpus_file"),
        ({"training_job_id": "t", "hook_name": "blocks.1.hook_mlp_out"}, "hook_name"),
        ({"training_job_id": "t", "max_tokens": 5000}, "max_tokens"),
        ({"training_job_id": "t", "huggingface_token": "hf_canary"}, "huggingface_token"),
        ({"wait_for_training": True, **IMPORT}, "wait_for_training"),
        ({"sae_name": "width48", **IMPORT}, "sae_name"),
    ],
)
def test_exactly_one_of_the_two_ways(fields: dict[str, Any], named: str):
    with pytest.raises(InvalidInput) as refused:
        config_of(**fields)
    assert refused.value.problems[0].field == named and "canary" not in str(refused.value.problems)


def test_what_is_recorded_names_no_place_of_this_machine(tmp_path):
    request = find_service_pb2.StartFindRequest(**IMPORT, evidence_text=2)
    config = convert.config_of(request, Home(tmp_path))
    assert config.model_root and config.rules_root == tmp_path / "rules"
    assert config.evidence_text == "redacted" and config.described()["sae_uri"] == "gpt2-sae"
    assert str(tmp_path) not in str(config.described())
