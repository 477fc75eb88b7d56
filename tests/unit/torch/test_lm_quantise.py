"""Weights in 4 and 8 bits: near the float ones, as small as they should be, refused where they cannot be."""

import pytest
import torch

from benchmarks import model_bytes
from mistudio_core.errors import InvalidInput, LimitReached, Unsupported
from mistudio_torch.lm.hookpoints import parse_hook
from mistudio_torch.lm.hooks import capture
from mistudio_torch.lm.load import load_lm
from mistudio_torch.lm.quantise import held_bytes
from mistudio_torch.lm.weights import embedding_paths, look_up_on_cpu
from tests.support import tinymodels

HOOKS = [parse_hook(name) for name in ("blocks.0.hook_mlp_out", "blocks.1.hook_attn_out", "blocks.1.hook_resid_post")]
IDS = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17, 18, 19]])
TOLERANCE = {"nf4": 0.25, "int8": 0.05}
"""Largest relative error of a hook (Frobenius norm). Four bits leave each weight about 10 % off, 8 bits 1 %."""
SHARE = {"nf4": 1 / 3, "int8": 0.6}
"""Largest size of linear weights beside float16."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("quantised")
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    tinymodels.make(root / "llama", "llama", **sizes)
    tinymodels.make(root / "gpt2", "gpt2", hidden_size=128)
    for kind in ("mixtral", "t5"):
        tinymodels.make(root / kind, kind)
    return root


def read(lm):
    return capture(lm.model, lm.taps, IDS, torch.ones_like(IDS))


@pytest.mark.parametrize("kind", ("llama", "gpt2"))
@pytest.mark.parametrize("quantization", ("nf4", "int8"))
def test_outputs_are_near_those_of_floats(root, kind, quantization):
    exact = load_lm(kind, HOOKS, model_root=root)
    small = load_lm(kind, HOOKS, model_root=root, quantization=quantization)
    assert small.quantization == quantization and small.widths == exact.widths
    for name, x in read(exact).items():
        error = (read(small)[name] - x).norm() / x.norm()
        assert 1e-4 < error < TOLERANCE[quantization], (name, float(error))


@pytest.mark.parametrize("quantization", ("nf4", "int8"))
def test_linear_weights_are_as_small_as_they_should_be(root, quantization):
    lm = load_lm("llama", HOOKS, model_root=root, quantization=quantization, dtype=torch.float16)
    linear = [m for m in lm.model.modules() if type(m).__name__ in ("Linear4bit", "Linear8bitLt")]
    weights = sum(m.in_features * m.out_features for m in linear)
    assert len(linear) == 2 * 7 and weights == 2 * (4 * 128 * 128 + 3 * 128 * 256)
    capture(lm.model, lm.taps, IDS, torch.ones_like(IDS))  # a pass must not unpack them for good
    assert weights * (0.5 if quantization == "nf4" else 1) < held_bytes(*linear) < SHARE[quantization] * 2 * weights
    assert len([m for m in lm.model.modules() if type(m) is torch.nn.Linear]) == 0


def test_phi4_s_shape_in_four_bits_cut_at_layer_16_is_as_small_as_planned(tmp_path):
    real = model_bytes.planned(model_bytes.header_only(tmp_path / "phi4"), tmp_path)
    assert real["planned_share"] <= 0.15 and real["planned_share_embeddings_on_cpu"] <= 0.12
    scaled = model_bytes.held(model_bytes.made(tmp_path / "scaled", 64), tmp_path)
    assert scaled["held_share"] <= 0.15 and scaled["held_share_embeddings_on_cpu"] <= 0.12
    assert abs(scaled["held_share"] / real["planned_share"] - 1) < 0.1


def test_a_pass_gives_the_same_twice(root):
    lm = load_lm("llama", HOOKS, model_root=root, quantization="nf4")
    one, two = read(lm), read(lm)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("kind", "module"), (("mixtral", r"layers\.0\.mlp\.experts"), ("t5", r"layer\.1\.DenseReluDense\.wo"))
)
def test_what_cannot_be_quantised_is_named(root, kind, module):
    with pytest.raises(Unsupported, match=module):
        load_lm(kind, 1, model_root=root, quantization="nf4")


@pytest.mark.parametrize(
    "options",
    (
        {"quantization": "fp4"},
        {"device_map": "balanced"},
        {"device_map": "auto", "embeddings_on_cpu": True},
        {"max_memory": {"cpu": "1GiB"}},
    ),
)
def test_settings_that_mean_nothing_are_refused(root, options):
    with pytest.raises(InvalidInput):
        load_lm("llama", 1, model_root=root, **options)


@pytest.mark.parametrize("quantization", ("none", "nf4"))
def test_a_device_map_reads_the_same(root, quantization):
    plain = load_lm("llama", HOOKS, model_root=root, quantization=quantization)
    mapped = load_lm("llama", HOOKS, model_root=root, quantization=quantization, device_map="auto")
    for name, x in read(plain).items():
        assert torch.equal(read(mapped)[name], x)
    with pytest.raises(LimitReached, match="max_memory") as refusal:
        load_lm("llama", HOOKS, model_root=root, quantization=quantization, device_map="auto", max_memory={"cpu": 9000})
    assert refusal.value.reason == "INSUFFICIENT_MEMORY"


def test_hooks_read_weights_that_accelerate_moves_in_at_each_pass(root):
    from accelerate import cpu_offload

    plain = load_lm("llama", HOOKS, model_root=root)
    moved = load_lm("llama", HOOKS, model_root=root)
    cpu_offload(moved.model, execution_device=torch.device("cpu"))
    assert {p.device.type for p in moved.model.parameters()} == {"meta"}
    for _ in range(2):
        for name, x in read(plain).items():
            assert torch.equal(read(moved)[name], x)


def test_embeddings_are_looked_up_where_they_are(root):
    lm = load_lm("llama", HOOKS, model_root=root, embeddings_on_cpu=True)
    before = read(lm)
    assert embedding_paths(lm.model) == ["embed_tokens"]
    look_up_on_cpu(lm.model, torch.device("cpu"))
    assert all(torch.equal(before[name], x) for name, x in read(lm).items())
    look_up_on_cpu(lm.model, torch.device("meta"))
    assert lm.model.embed_tokens(IDS).device.type == "meta" and lm.model.embed_tokens.weight.device.type == "cpu"
