"""Shapes of published models as facts, worked out by hand from their configs; no weights anywhere."""

import json
from pathlib import Path

from mistudio_torch.lm.facts import ModelFacts

_PHI = 5120 * (5120 + 2 * 1280) + 5120 * 5120 + 3 * 5120 * 17_920
PHI4 = ModelFacts(
    model_name="microsoft/phi-4",
    architecture="phi3",
    total_layers=40,
    hidden_size=5120,
    vocab_size=100_352,
    max_positions=16_384,
    requires_token=False,
    weight_bytes=29_319_014_400,
    parameters=14_659_507_200,
    block_parameters=_PHI + 2 * 5120,
    linear_parameters=_PHI,
    other_parameters=2 * 100_352 * 5120 + 5120,
    embedding_parameters=100_352 * 5120,
    head_parameters=100_352 * 5120,
    feed_forward_size=17_920,
    attention_heads=40,
    key_value_heads=10,
    head_size=128,
    dtype="BF16",
    revision="",
)
_GPT = 768 * 2304 + 768 * 768 + 2 * 768 * 3072
GPT2 = ModelFacts(
    model_name="openai-community/gpt2",
    architecture="gpt2",
    total_layers=12,
    hidden_size=768,
    vocab_size=50_257,
    max_positions=1024,
    requires_token=False,
    weight_bytes=4 * 124_439_808,
    parameters=124_439_808,
    block_parameters=7_087_872,
    linear_parameters=_GPT,
    other_parameters=124_439_808 - 12 * 7_087_872,
    embedding_parameters=50_257 * 768,
    head_parameters=0,
    feed_forward_size=3072,
    attention_heads=12,
    key_value_heads=12,
    head_size=64,
    dtype="F32",
    revision="",
)


def phi4_repository(folder: Path) -> Path:
    """Phi-4 as its repository has it, but for the weights: config, and a weight file that is a header alone."""
    folder.mkdir(parents=True)
    sizes = {"hidden_size": 5120, "intermediate_size": 17_920, "num_hidden_layers": 40, "vocab_size": 100_352}
    sizes |= {"num_attention_heads": 40, "num_key_value_heads": 10, "max_position_embeddings": 16_384}
    (folder / "config.json").write_text(json.dumps({"model_type": "phi3", "tie_word_embeddings": False, **sizes}))
    shapes = {"model.embed_tokens.weight": [100_352, 5120], "lm_head.weight": [100_352, 5120]}
    shapes["model.norm.weight"] = [5120]
    for block in range(40):
        name = f"model.layers.{block}"
        shapes |= {f"{name}.self_attn.qkv_proj.weight": [7680, 5120], f"{name}.self_attn.o_proj.weight": [5120, 5120]}
        shapes |= {f"{name}.mlp.gate_up_proj.weight": [35_840, 5120], f"{name}.mlp.down_proj.weight": [5120, 17_920]}
        shapes |= {f"{name}.input_layernorm.weight": [5120], f"{name}.post_attention_layernorm.weight": [5120]}
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder
