"""Every field of every request is honoured or refused: a table over the descriptors.

Reserved fields and values answer UNSUPPORTED. Every other field of a Start* request must change
what the job is (its configuration, device, order or identity); every field of the other requests
must be in the table below, beside the test or code that shows what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from mistudio.explain.v1 import explain_service_pb2
from mistudio.find.v1 import find_service_pb2
from mistudio.train.v1 import train_service_pb2

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_core.home import Home
from mistudio_explain import convert as explain_convert
from mistudio_find import convert as find_convert
from mistudio_rpc.contract import Contract, installed, reserved_field, reserved_value
from mistudio_rpc.interceptors import check_message
from mistudio_train import convert as train_convert
from tests.support.scratch import scratch_contract


def request_types(contract: Contract) -> list[Any]:
    return [m.request_class for m in contract if not m.is_internal and m.reserved is None]


def reserved_cases() -> Iterator[Any]:
    for cls in request_types(scratch_contract()):  # the scratch service always has some
        for field in cls.DESCRIPTOR.fields:
            if reserved_field(field) is not None:
                yield pytest.param(cls, field, None, id=f"{cls.DESCRIPTOR.name}.{field.name}")
            for value in field.enum_type.values if field.enum_type else ():
                if reserved_value(value) is not None:
                    yield pytest.param(cls, field, value.number, id=f"{cls.DESCRIPTOR.name}.{field.name}.{value.name}")


def some_value(field: FieldDescriptor) -> Any:
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: "x",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
        FieldDescriptor.CPPTYPE_INT32: 7,
        FieldDescriptor.CPPTYPE_INT64: 7,
        FieldDescriptor.CPPTYPE_UINT64: 7,
        FieldDescriptor.CPPTYPE_ENUM: 1,
    }
    return kinds[field.cpp_type]


@pytest.mark.parametrize(("cls", "field", "number"), list(reserved_cases()))
def test_what_is_reserved_is_refused_with_what_to_do_instead(cls: Any, field: FieldDescriptor, number: int | None):
    message = cls()
    if number is not None:
        setattr(message, field.name, number)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, some_value(field))
    with pytest.raises(Unsupported) as caught:
        check_message(message)
    assert caught.value.reason == "UNSUPPORTED"
    assert field.name in caught.value.message
    assert caught.value.facts["instead"] in caught.value.message


TRAIN = {"model_name": "m", "corpus_file": "c"}
# a value for each honoured field that differs from its default, and what must stand beside it
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "StartTrainingRequest": {
        "model_name": {"model_name": "other"},
        "corpus_file": {"corpus_file": "other"},
        "layer_number": {"layer_number": 3},
        "hidden_dim": {"hidden_dim": 512},
        "sparsity_coeff": {"sparsity_coeff": 0.01},
        "learning_rate": {"learning_rate": 0.01},
        "batch_size": {"batch_size": 4},
        "max_epochs": {"max_epochs": 2},
        "min_loss": {"min_loss": 0.5},
        "max_sequence_length": {"max_sequence_length": 64},
        "architecture": {"architecture": 2},
        "k": {"architecture": 2, "k": 5},
        "hook_name": {"hook_name": "blocks.4.hook_resid_post"},
        "token_budget": {"token_budget": 99},
        "sae_batch_tokens": {"sae_batch_tokens": 128},
        "seed": {"seed": 5},
        "dtype": {"dtype": 1},
        "normalize_activations": {"normalize_activations": False},
        "checkpoint_interval_seconds": {"checkpoint_interval_seconds": 5.0},
        "heldout_fraction": {"heldout_fraction": 0.2},
        "max_code_tokens": {"max_code_tokens": 5000},
        "hook": {"hook": 2},
        "module_path": {"hook": 4, "module_path": "encoder.layer.1"},
        "output_hook_name": {"output_hook_name": "blocks.4.hook_mlp_out"},
        "enable_4bit": {"enable_4bit": True},
        "enable_8bit": {"enable_8bit": True},
        "sweep": {"sweep": {"widths": [64, 128]}},
        "splice_tokens": {"splice_tokens": 0},
        "processes": {"processes": 2},
        "auto_layer": {"auto_layer": True},
        "cache_activations": {"cache_activations": True},
        "dataset": {"corpus_file": "hf:a/b", "dataset": {"split": "test"}},
    },
    "StartFindRequest": {
        "training_job_id": {"training_job_id": "other"},
        "top_texts": {"top_texts": 3},
        "context_tokens": {"context_tokens": 3},
        "quantiles": {"quantiles": 3},
        "contrast_texts": {"contrast_texts": 3},
        "keywords": {"keywords": 3},
        "seed": {"seed": 3},
        "evidence_text": {"evidence_text": 2},
        "rules": {"rules": "other"},
    },
    "StartExplainRequest": {
        "find_job_id": {"find_job_id": "other"},
        "engine": {"engine": "other"},
        "model": {"model": "other"},
        "max_features": {"max_features": 3},
        "min_coherence": {"min_coherence": 0.9},
        "feature_ids": {"feature_ids": [1, 2]},
        "allow_lexical_fallback": {"allow_lexical_fallback": True},
        "concurrency": {"concurrency": 2},
        "seed": {"seed": 3},
        "audience": {"audience": 2},
        "strategy": {"strategy": 2},
        "budget_usd": {"budget_usd": 0.5},
        "min_quality": {"min_quality": 0.5},
        "judge_engine": {"judge_engine": "embedding"},
        "judge_model": {"judge_model": "other"},
        "few_shot": {"few_shot": "other"},
        "use_cache": {"use_cache": False},
    },
}
# fields that act outside of the configuration, and where that is shown
ELSEWHERE = {
    "StartTrainingRequest": {
        "huggingface_token": "tests/e2e/test_bad_input.py::test_a_gated_model",
        "gpu_id": "tests/e2e/test_bad_input.py::test_a_gpu_that_is_not_there",
        "min_gpu_memory_gb": "tests/e2e/test_bad_input.py::test_more_gpu_memory_than_there_is",
        "request_id": "tests/e2e/test_api.py::test_sixteen_equal_starts",
    },
    "StartFindRequest": {
        "wait_for_training": "tests/e2e/test_bad_input.py::test_find_on_an_unfinished_job",
        "sae_name": "tests/e2e/test_several_saes.py",
        "request_id": "tests/e2e/test_api.py::test_sixteen_equal_starts",
        "huggingface_token": "tests/e2e/test_imported_sae.py::test_a_gated_sae_needs_its_token",
        **dict.fromkeys(
            ("sae_uri", "model_name", "corpus_file", "hook_name", "max_tokens"),
            "tests/unit/find/test_find_config.py::test_each_field_of_an_import_changes_what_the_job_is",
        ),
    },
    "StartExplainRequest": {
        "wait_for_find": "tests/e2e/test_pipeline.py",
        "request_id": "tests/e2e/test_api.py::test_sixteen_equal_starts",
    },
}
# every field of the requests that start nothing
OTHERS = {
    "CancelJobRequest": {"job_id", "etag", "request_id"},
    "DeleteCorpusRequest": {"name"},
    "GetCorpusRequest": {"name"},
    "ListCorporaRequest": {"page_size", "page_token"},
    "CheckMemoryRequest": {  # tests/integration/train/test_memory_rpcs.py
        *("model_name", "layer_number", "architecture", "hidden_dim", "k", "batch_size", "max_sequence_length"),
        *("sae_batch_tokens", "dtype", "enable_4bit", "enable_8bit", "gpu_id", "token_budget", "shape"),
        *("hook", "hook_name", "module_path", "output_hook_name", "sweep", "processes"),
    },
    "ExportExplanationsRequest": {"job_id", "format"},
    "DownloadFindBundleRequest": {"job_id", "offset"},
    "ExportFeaturesRequest": {"job_id", "format", "offset"},
    "GetExplainResultRequest": {"job_id"},
    "GetExplainStatusRequest": {"job_id"},
    "GetExplanationRequest": {"job_id", "feature_id"},
    "GetFeatureRequest": {"job_id", "feature_id"},
    "GetFindResultRequest": {"job_id"},
    "GetFindStatusRequest": {"job_id"},
    "GetGpuStatusRequest": set(),
    "GetHealthRequest": set(),
    "GetJobRequest": {"job_id"},
    "GetTrainingResultRequest": {"job_id"},
    "GetTrainingStatusRequest": {"job_id"},
    "ListArtifactsRequest": {"job_id"},
    "ListEnginesRequest": set(),
    # tests/integration/explain/test_explain_results.py
    "ListExplanationsRequest": {
        *("job_id", "page_size", "page_token", "min_quality", "pattern_category", "safety_assessment"),
    },
    "SearchExplanationsRequest": {"query", "job_id", "min_quality", "page_size", "page_token"},
    "CompareExplainsRequest": {"job_id", "other", "page_size", "page_token"},
    "ListExplainHistoryRequest": {"find_job_id", "page_size", "page_token"},
    # tests/integration/explain/test_explain_reviews.py
    "ReviewExplanationRequest": {"job_id", "feature_id", "approved", "correction", "reason", "author"},
    "ListReviewsRequest": {"job_id", "decided", "page_size", "page_token"},
    # tests/integration/explain/test_explain_feature.py
    "ExplainFeatureRequest": {
        *("find_job_id", "feature_id", "engine", "model", "strategy", "audience", "seed", "budget_usd"),
    },
    # tests/integration/explain/test_engine_rpcs.py
    "WatchEnginesRequest": {"engine"},
    "StartEngineRequest": {"engine", "model"},
    "StopEngineRequest": {"engine", "drain_seconds"},
    "LoadModelRequest": {"engine", "model"},
    "UnloadModelRequest": {"engine", "model"},
    # tests/integration/find/test_find_queries.py
    "ListFeaturesRequest": {"job_id", "page_size", "page_token", "filter", "order_by"},
    "SearchFeaturesRequest": {"query", "job_id", "page_size", "page_token", "filter"},
    "WatchFeaturesRequest": {"job_id", "after_sequence"},
    # tests/integration/find/test_find_history.py
    "CompareFindsRequest": {"job_id", "other", "more", "method", "min_similarity", "page_size", "page_token"},
    "ListFindHistoryRequest": {"corpus_file", "sae_sha256", "model_name", "page_size", "page_token"},
    "PruneFindHistoryRequest": {
        *("keep_newest", "older_than_days", "corpus_file", "sae_sha256", "model_name", "dry_run"),
    },
    # tests/integration/train/test_hooks_rpc.py
    "ListHooksRequest": {"model_name", "layer_number", "huggingface_token", "page_size", "page_token"},
    "ListJobsRequest": {"service", "page_size", "page_token", "status"},
    "ReadArtifactRequest": {"uri", "offset"},
    "UploadCorpusRequest": {"header", "chunk"},
    "ValidateModelRequest": {"model_name", "huggingface_token"},
    "WatchGpuRequest": {"interval_seconds"},
    "WatchJobRequest": {"job_id", "after_sequence"},
}
CONFIG: dict[str, tuple[Any, dict[str, Any], Callable[[Any], Any]]] = {
    "StartTrainingRequest": (
        train_service_pb2.StartTrainingRequest,
        TRAIN,
        lambda r: train_convert.config_of(r, Home(Path("/nowhere"))),
    ),
    "StartFindRequest": (
        find_service_pb2.StartFindRequest,
        {"training_job_id": "t"},
        find_convert.config_of,
    ),
    "StartExplainRequest": (
        explain_service_pb2.StartExplainRequest,
        {"find_job_id": "f"},
        explain_convert.config_of,
    ),
}


def honoured(descriptor: Descriptor) -> set[str]:
    return {f.name for f in descriptor.fields if reserved_field(f) is None}


def test_the_tables_name_every_field_of_every_request():
    for cls in request_types(installed()):
        name = cls.DESCRIPTOR.name
        listed = set(CHANGES[name]) | set(ELSEWHERE[name]) if name in CHANGES else OTHERS[name]
        assert listed == honoured(cls.DESCRIPTOR), name


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in CHANGES.items() for field in fields])
def test_an_honoured_field_changes_what_the_job_is(name: str, field: str):
    cls, base, config_of = CONFIG[name]
    changed = cls(**{**base, **CHANGES[name][field]})
    check_message(changed)
    beside = {k: v for k, v in CHANGES[name][field].items() if k != field and (field, k) != ("module_path", "hook")}
    assert config_of(changed) != config_of(cls(**{**base, **beside}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"k": 5}, "k"), ({"architecture": 2, "sparsity_coeff": 0.1}, "sparsity_coeff")],
)
def test_a_field_of_another_architecture_is_refused(fields: dict[str, Any], named: str):
    request = train_service_pb2.StartTrainingRequest(**TRAIN, **fields)
    with pytest.raises(Unsupported, match=named):
        train_convert.config_of(request, Home(Path("/nowhere")))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"layer_number": 1, "hook_name": "blocks.2.hook_resid_post"}, "hook_name"),
        ({"hook": 4}, "module_path"),
        ({"module_path": "encoder.layer.1"}, "module_path"),
        ({"layer_number": 1, "sweep": {"layers": [1, 2]}}, "sweep.layers"),
        ({"hook_name": "blocks.2.hook_z"}, "hook_name"),
        ({"enable_4bit": True, "enable_8bit": True}, "enable_8bit"),
        ({"sweep": {"widths": list(range(64, 73)), "seeds": list(range(8))}}, "sweep"),
        ({"architecture": 2, "sweep": {"ks": [4, 2000]}}, "k"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], named: str):
    request = train_service_pb2.StartTrainingRequest(**TRAIN, **fields)
    with pytest.raises(InvalidInput, match=named):
        train_convert.config_of(request, Home(Path("/nowhere")))


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("hidden_dim", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("batch_size", 129),
        ("max_epochs", 0),
        ("sparsity_coeff", 2.0),
        ("max_sequence_length", 7),
        ("model_name", ""),
        ("model_name", "m" * 501),
        ("seed", -1),
    ],
)
def test_a_value_outside_of_its_range_is_refused_by_name(field: str, bad: Any):
    request = train_service_pb2.StartTrainingRequest(**{**TRAIN, field: bad})
    with pytest.raises(InvalidInput) as caught:
        check_message(request)
    assert caught.value.reason == "INVALID_FIELD"
    assert caught.value.problems[0].field == field


def test_a_secret_is_not_echoed():
    request = train_service_pb2.StartTrainingRequest(**TRAIN, huggingface_token="hf_canary" * 40)
    with pytest.raises(InvalidInput) as caught:
        check_message(request)
    assert "canary" not in caught.value.message
    assert all("canary" not in p.value for p in caught.value.problems)
