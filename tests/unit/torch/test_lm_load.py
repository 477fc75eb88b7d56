"""Models cut off after a block: same numbers as the whole model, and nothing of what comes later is read."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from mistudio_core.errors import InvalidInput, Unsupported
from mistudio_torch.lm.hooks import residual_after
from mistudio_torch.lm.load import load_lm
from tests.support import tinymodels

KINDS = ("bert", "llama", "gpt2", "gpt_neox")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", (0, 1, 2))
def test_residual_stream_is_that_of_the_whole_model(models, kind, layer):
    lm = load_lm(kind, layer, model_root=models)
    whole = AutoModel.from_pretrained(models / kind).eval()
    ids = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ours = residual_after(lm.model, lm.block, ids, mask)
    seen = {}
    blocks = next(m for m in whole.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
    blocks[layer].register_forward_hook(lambda m, i, o: seen.update(x=o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        whole(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(ours[mask.bool()], seen["x"][mask.bool()])


@pytest.mark.parametrize("kind", KINDS)
def test_later_blocks_are_not_allocated(models, kind):
    sizes = [sum(p.numel() for p in load_lm(kind, layer, model_root=models).model.parameters()) for layer in range(3)]
    facts = load_lm(kind, 0, model_root=models).facts
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == facts.block_parameters > 0
    assert facts.total_layers == 3 and facts.parameters_up_to(1) >= sizes[1] > 0


@pytest.mark.parametrize("damage", ("deleted", "garbage"))
def test_shards_of_later_blocks_are_not_read(models, tmp_path, damage):
    for kind in ("llama", "bert"):
        folder = shutil.copytree(models / kind, tmp_path / f"{kind}-{damage}")
        tinymodels.shard_by_block(folder)
        whole = load_lm(folder.name, 1, model_root=tmp_path)
        header_only = (folder / "block2.safetensors").read_bytes()
        length = 8 + int.from_bytes(header_only[:8], "little")
        (folder / "block2.safetensors").write_bytes(
            header_only[:length] + (b"\xff" * 3 if damage == "garbage" else b"")
        )
        cut = load_lm(folder.name, 1, model_root=tmp_path)
        for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
            assert torch.equal(one, other)
        with pytest.raises(InvalidInput) as refusal:
            load_lm(folder.name, 2, model_root=tmp_path)
        assert refusal.value.reason == "MODEL_INVALID"


def test_layer_out_of_range_names_the_range(models):
    with pytest.raises(InvalidInput, match=r"0\.\.2") as refusal:
        load_lm("bert", 3, model_root=models)
    assert refusal.value.reason == "LAYER_OUT_OF_RANGE"


def test_custom_code_is_never_run(models, tmp_path):
    folder = shutil.copytree(models / "bert", tmp_path / "custom")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_lm("custom", 0, model_root=tmp_path).layer == 0
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match="never run"):
        load_lm("custom", 0, model_root=tmp_path)
    assert not marker.exists()


def test_missing_weights_are_refused_not_invented(models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(models / "bert", tmp_path / "holes")
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match="missing") as refusal:
        load_lm("holes", 0, model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


def test_bos_is_added_only_where_the_tokenizer_adds_nothing(models):
    assert load_lm("bert", 0, model_root=models).bos_id is None
    assert load_lm("gpt2", 0, model_root=models).bos_id == 2


def test_half_precision(models):
    lm = load_lm("llama", 0, model_root=models, dtype=torch.bfloat16)
    assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}
    out = residual_after(lm.model, lm.block, torch.tensor([[4, 5]]), torch.ones(1, 2, dtype=torch.int64))
    assert out.dtype == torch.float32 and np.isfinite(out.numpy()).all()
