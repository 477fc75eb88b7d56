"""What a model takes, from its files: parameters against safetensors made here, caches against arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mistudio_core.errors import Corrupt, LimitReached, NotFound
from mistudio_explain.engines.vllm_models import (
    Room,
    check_room,
    context_of,
    find_model,
    has_chat_template,
    list_models,
    model_memory,
    weight_bytes,
)
from mistudio_explain.engines.vllm_settings import VllmSettings

CONFIG = {
    "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 1000,
    "intermediate_size": 128,
}  # fmt: skip


def model(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, folder / "model.safetensors")
    return folder


def settings(**values: object) -> VllmSettings:
    return VllmSettings(**{"name": "local", "kind": "vllm", "model": "m", **values})  # type: ignore[arg-type]


def test_parameters_are_counted_from_headers(tmp_path: Path):
    folder = model(
        tmp_path / "m",
        a=torch.zeros(10, 100),
        b=torch.zeros(7, dtype=torch.bfloat16),
        c=torch.zeros(3, dtype=torch.int8),
    )
    assert weight_bytes(folder, wide=False) == 1000 * 2 + 7 * 2 + 3
    assert weight_bytes(folder, wide=True) == 1000 * 4 + 7 * 2 + 3
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(Corrupt, match="Fetch the model again"):
        weight_bytes(folder, wide=False)


def test_the_cache_of_a_request_is_keys_and_values_of_every_layer(tmp_path: Path):
    folder = model(tmp_path / "m", a=torch.zeros(1))
    needs = model_memory(folder, settings(max_model_len=1000), on_gpu=True)
    assert needs.cache == 2 * 4 * 2 * 8 * 2 * 1000  # both, layers, heads of keys, width, bytes, tokens
    assert model_memory(folder, settings(kv_cache_gb=3.0), on_gpu=False).cache == 3e9
    assert context_of(folder, settings(max_model_len=0)) == 0
    (folder / "config.json").write_text(json.dumps({"text_config": CONFIG, "max_position_embeddings": 10}))
    assert model_memory(folder, settings(max_model_len=0), on_gpu=True).cache == 2 * 4 * 2 * 8 * 2 * 10
    assert context_of(folder, settings(max_model_len=1000)) == 10  # vLLM refuses more than the model can
    assert context_of(folder, settings(max_model_len=7)) == 7


def test_a_model_that_fits_no_device_is_refused_with_figures(tmp_path: Path):
    folder = model(tmp_path / "m", a=torch.zeros(1))
    needs = model_memory(folder, settings(), on_gpu=True).total
    fits = Room(device="cuda:0", total=needs / 0.9 + 1e6, free=0)
    check_room(settings(), "m", folder, [fits])
    with pytest.raises(LimitReached, match=r"cuda:1 has 0\.5 GB, of which memory_fraction allows 0\.[45]") as caught:
        check_room(settings(), "m", folder, [fits, Room(device="cuda:1", total=0.5e9, free=0.5e9)])
    assert caught.value.facts["device"] == "cuda:1"
    assert float(caught.value.facts["required_gb"]) == pytest.approx(needs / 1e9, abs=0.05)


def test_models_are_found_by_folder_and_in_the_hubs_cache(home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model(home.models / "mine", a=torch.zeros(1))
    snapshot = tmp_path / "hub" / "models--org--big" / "snapshots" / "abc"
    model(snapshot, a=torch.zeros(1))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert list_models(home) == ["mine", "org/big"]
    assert find_model(home, settings(), "mine") == home.models / "mine"
    assert find_model(home, settings(), "org/big") == snapshot
    assert find_model(home, settings(download=True), "org/other") is None
    with pytest.raises(NotFound, match="There are: mine, org/big"):
        find_model(home, settings(), "org/other")
    outside = model(tmp_path / "outside", a=torch.zeros(1))
    assert find_model(home, settings(model=str(outside)), str(outside)) == outside


def test_a_chat_template_is_looked_for_where_tokenizers_keep_it(tmp_path: Path):
    assert not has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(tmp_path)
