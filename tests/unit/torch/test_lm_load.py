"""Models cut off after a block: same numbers as the whole model, and nothing of what comes later is read."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from mistudio_core.errors import Cancelled, InvalidInput, Unsupported
from mistudio_torch.lm.facts import block_of
from mistudio_torch.lm.hookpoints import parse_hook
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


def rewritten(folder, kept_blocks):
    """The same single file with the tensors of later blocks at its end; returns bytes of all and of the kept ones."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = {n: e for n, e in json.loads(raw[8:start]).items() if n != "__metadata__"}
    body, header, kept = b"", {}, 0
    for name in sorted(entries, key=lambda n: (block_of(n) is not None and block_of(n) >= kept_blocks, n)):
        first, last = entries[name]["data_offsets"]
        header[name] = entries[name] | {"data_offsets": [len(body), len(body) + last - first]}
        body += raw[start + first : start + last]
        kept = len(body) if block_of(name) is None or block_of(name) < kept_blocks else kept
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return len(text) + 8 + kept


def test_a_single_file_is_read_up_to_the_hook_and_no_further(models, tmp_path):
    tinymodels.make(tmp_path / "deep", "llama", layers=12)
    whole = load_lm("deep", 11, model_root=tmp_path)
    end = rewritten(tmp_path / "deep", kept_blocks=5)
    path = tmp_path / "deep" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:end])
    cut = load_lm("deep", 4, model_root=tmp_path)
    assert cut.bytes_read == 4 * sum(p.numel() for p in cut.model.parameters())
    outside = whole.bytes_read - 12 * (whole.bytes_read - cut.bytes_read) // 7
    assert 0 < cut.bytes_read - outside < 0.45 * (whole.bytes_read - outside)
    for name, parameter in cut.model.named_parameters():
        assert torch.equal(parameter, whole.model.get_parameter(name))
    with pytest.raises(InvalidInput, match="ends before") as refusal:
        load_lm("deep", 5, model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    (
        ("data_offsets", [0, 8], "not as long"),
        ("data_offsets", [-4, 60], "not as long"),
        ("shape", [1 << 40], "not as long"),
        ("dtype", "F8_E4M3", "F8_E4M3"),
    ),
)
def test_headers_that_lie_are_refused(models, tmp_path, field, value, message):
    folder = shutil.copytree(models / "llama", tmp_path / "lies")
    raw = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header["model.norm.weight"][field] = value
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[start:])
    with pytest.raises(InvalidInput, match=message) as refusal:
        load_lm("lies", 0, model_root=tmp_path)
    assert refusal.value.reason == "MODEL_INVALID"


def test_a_cancel_stops_the_reading(models):
    def cancel():
        raise Cancelled

    with pytest.raises(Cancelled):
        load_lm("llama", 0, model_root=models, watch=cancel)


@pytest.mark.parametrize(
    ("hook", "nearest"),
    (
        ("layers.1.mlp.downproj", "mlp.down_proj"),
        ("encoder.layer.1", "layers.1"),
        ("layers.1.mlp.actt", "mlp"),
    ),
)
def test_a_module_that_is_not_there_names_those_that_are(models, hook, nearest):
    with pytest.raises(InvalidInput, match=nearest) as refusal:
        load_lm("llama", [parse_hook(hook)], model_root=models)
    assert refusal.value.problems[0].field == "hook_name" and len(str(refusal.value)) < 700


@pytest.mark.parametrize("hook", ("layers.3.mlp", "model.layers.7", "blocks.3.hook_mlp_out", "blocks.4.hook_resid_pre"))
def test_blocks_that_are_not_there_name_the_range(models, hook):
    with pytest.raises(InvalidInput, match=r"0\.\.2") as refusal:
        load_lm("llama", [parse_hook(hook)], model_root=models)
    assert refusal.value.reason == "LAYER_OUT_OF_RANGE"


@pytest.mark.parametrize(
    ("hook", "why"),
    (("layers.1.self_attn.q_norm", "q_norm"), ("rotary_emb", "not one vector"), ("layers.0.mlp.act_fn.input", "")),
)
def test_modules_without_a_vector_a_token(models, tmp_path, hook, why):
    tinymodels.make(tmp_path / "qwen3", "qwen3")
    if not why:
        lm = load_lm("qwen3", [parse_hook(hook)], model_root=tmp_path)
        assert lm.widths == {hook: 32} and lm.width(lm.hooks[0]) == 32
        return
    with pytest.raises(Unsupported, match=why):
        load_lm("qwen3", [parse_hook(hook)], model_root=tmp_path)


def test_hooks_come_once_each(models):
    hook = parse_hook("blocks.0.hook_mlp_out")
    for hooks in ([], [hook, hook]):
        with pytest.raises(InvalidInput, match="once"):
            load_lm("llama", hooks, model_root=models)


def test_a_model_whose_weights_are_quantised_already_is_refused(models, tmp_path):
    folder = shutil.copytree(models / "llama", tmp_path / "fp8")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(Unsupported, match="quantised already"):
        load_lm("fp8", 0, model_root=tmp_path)
