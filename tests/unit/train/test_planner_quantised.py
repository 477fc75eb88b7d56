"""The planned bytes of a model's weights beside those that a loaded model holds, in every format."""

from dataclasses import replace

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from mistudio_torch.lm.load import load_lm
from mistudio_torch.lm.quantise import held_bytes
from mistudio_train.config import TrainConfig
from mistudio_train.memory_plan import Settings, plan
from tests.support.tinymodels import tokenizer


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    """Phi-4's shape at a sixteenth: ten key-value heads, a wide feed-forward, a large vocabulary."""
    root = tmp_path_factory.mktemp("models")
    sizes = {"hidden_size": 320, "intermediate_size": 1120, "num_hidden_layers": 5, "vocab_size": 6272}
    sizes |= {"num_attention_heads": 10, "num_key_value_heads": 5, "pad_token_id": 0, "tie_word_embeddings": False}
    torch.manual_seed(0)
    Phi3ForCausalLM(Phi3Config(**sizes)).save_pretrained(root / "phi")
    tokenizer(root / "phi", special=False)
    return root


@pytest.mark.parametrize(
    ("quantization", "dtype"), (("none", "float32"), ("none", "bfloat16"), ("nf4", "bfloat16"), ("int8", "bfloat16"))
)
def test_planned_weights_are_those_that_are_held(phi, quantization, dtype):
    lm = load_lm("phi", 1, model_root=phi, dtype=getattr(torch, dtype), quantization=quantization)
    config = TrainConfig(model_name="phi", layer_number=1, dtype=dtype, quantization=quantization)
    planned = plan(lm.facts, config).model_bytes
    assert planned == pytest.approx(held_bytes(lm.model), rel=0.01)


def test_four_bits_and_cut_blocks_are_the_promised_share_of_the_whole_model(phi):
    lm = load_lm("phi", 1, model_root=phi, dtype=torch.bfloat16, quantization="nf4")
    settings = Settings(batch_size=1, max_sequence_length=64, precision="nf4", embeddings_on_cpu=True)
    config = TrainConfig(model_name="phi", layer_number=1, dtype="bfloat16", quantization="nf4")
    planned = plan(lm.facts, config, on_gpu=True, settings=settings)
    embedding = 2 * lm.facts.vocab_size * lm.facts.hidden_size
    assert planned.model_bytes == pytest.approx(held_bytes(lm.model) - embedding, rel=0.02)
    assert planned.model_bytes < 0.12 * 2 * lm.facts.parameters
    deeper = plan(lm.facts, replace(config, layer_number=4), on_gpu=True, settings=settings)
    assert deeper.model_bytes > 2 * planned.model_bytes
