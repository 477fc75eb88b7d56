"""`python -m benchmarks.model_bytes`: bytes of weights that are read and held, planned and measured, as one JSON line.

A model of Phi-4's shape, scaled down, in 4 bits and cut off at layer 16 beside the whole in fp16; and a model of 12
blocks that is read at block 4. Models are made on the spot with random weights; nothing is downloaded.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

PHI4 = {"layers": 40, "hidden": 5120, "feed_forward": 17920, "vocabulary": 100352, "heads": 40, "kv_heads": 10}
"""Phi-4's shape."""
LAYER = 16
SCALE = 16
"""Width of the scaled model is one such part of Phi-4's; so is its vocabulary, or it would weigh too much."""
HOOK_LAYER, BLOCKS = 4, 12


def run(scale: int = SCALE) -> dict[str, Any]:
    """Everything, as one record. Shares are of the whole model in fp16."""
    with tempfile.TemporaryDirectory(prefix="model-bytes-") as folder:
        root = Path(folder)
        return {
            "phi4": planned(header_only(root / "phi4"), root),
            "phi4_scaled": {"scale": scale, **planned(made(root / "scaled", scale), root), **held("scaled", root)},
            "twelve_blocks": read_in_part(root),
        }


def config(scale: int) -> dict[str, Any]:
    """Phi-4's config, each width divided by `scale`."""
    return {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "num_hidden_layers": PHI4["layers"],
        "hidden_size": PHI4["hidden"] // scale,
        "intermediate_size": PHI4["feed_forward"] // scale,
        "vocab_size": PHI4["vocabulary"] // scale,
        "num_attention_heads": PHI4["heads"],
        "num_key_value_heads": PHI4["kv_heads"],
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
    }


def shapes(scale: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, as Phi-4's files have them."""
    d, f, v = (PHI4[name] // scale for name in ("hidden", "feed_forward", "vocabulary"))
    keys = d * PHI4["kv_heads"] // PHI4["heads"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d)}
    for block in range(PHI4["layers"]):
        start = f"model.layers.{block}."
        found |= {
            f"{start}self_attn.qkv_proj.weight": (d + 2 * keys, d),
            f"{start}self_attn.o_proj.weight": (d, d),
            f"{start}mlp.gate_up_proj.weight": (2 * f, d),
            f"{start}mlp.down_proj.weight": (d, f),
            f"{start}input_layernorm.weight": (d,),
            f"{start}post_attention_layernorm.weight": (d,),
        }
    return found | {"model.norm.weight": (d,), "lm_head.weight": (v, d)}


def header_only(folder: Path) -> str:
    """Phi-4 itself as its config and its weights' header: enough for a plan."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(1)))
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes(1).items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(len(text).to_bytes(8, "little") + text)
        weights.truncate(8 + len(text) + offset)
    return folder.name


def made(folder: Path, scale: int) -> str:
    """The scaled model with random weights, in shards."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(scale)))
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for name, shape in shapes(scale).items():
        shard[name] = (0.05 * torch.randn(shape, generator=generator)).half()
        if sum(t.nbytes for t in shard.values()) > 20_000_000 or name == "lm_head.weight":
            file = f"model-{len(set(weight_map.values())):05d}.safetensors"
            save_file(shard, folder / file)
            weight_map |= dict.fromkeys(shard, file)
            shard = {}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    tokenizer(folder)
    return folder.name


def tokenizer(folder: Path) -> None:
    """The smallest fast tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    unknown = "[UNK]"
    inner = Tokenizer(models.WordLevel({unknown: 0, "the": 1}, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=inner, unk_token=unknown).save_pretrained(folder)


def planned(name: str, root: Path) -> dict[str, Any]:
    """What the memory plan says of a model in 4 bits, cut off at LAYER: from config and headers alone."""
    from mistudio_torch.lm.source import inspect_model
    from mistudio_train.config import TrainConfig
    from mistudio_train.memory_plan import asked_of, plan

    facts = inspect_model(name, model_root=root)
    run = TrainConfig(model_name=name, layer_number=LAYER, architecture="topk", quantization="nf4")
    asked = asked_of(facts, run, on_gpu=True)
    shares = []
    for on_cpu in (False, True):
        found = plan(facts, run, on_gpu=True, settings=replace(asked, embeddings_on_cpu=on_cpu))
        shares.append(found.model_bytes / (2 * facts.parameters))
    return {
        "parameters": facts.parameters,
        "planned_share": round(shares[0], 4),
        "planned_share_embeddings_on_cpu": round(shares[1], 4),
    }


def held(name: str, root: Path) -> dict[str, Any]:
    """The scaled model in 4 bits, cut off at LAYER, loaded and run once: bytes read and bytes held."""
    import torch

    from mistudio_torch.lm.hookpoints import resid_post
    from mistudio_torch.lm.hooks import capture
    from mistudio_torch.lm.load import load_lm
    from mistudio_torch.lm.quantise import held_bytes
    from mistudio_torch.lm.weights import embedding_paths

    lm = load_lm(name, [resid_post(LAYER)], model_root=root, dtype=torch.float16, quantization="nf4")
    whole = 2 * lm.facts.parameters
    ids_BT = torch.arange(64).view(1, 64) % lm.facts.vocab_size
    capture(lm.model, lm.taps, ids_BT, None)  # nothing may be unpacked for good
    everything = held_bytes(lm.model)
    embeddings = held_bytes(*(lm.model.get_submodule(path) for path in embedding_paths(lm.model)))
    return {
        "whole_fp16_bytes": whole,
        "read_bytes": lm.bytes_read,
        "held_bytes": everything,
        "held_share": round(everything / whole, 4),
        "held_share_embeddings_on_cpu": round((everything - embeddings) / whole, 4),
    }


def read_in_part(root: Path) -> dict[str, Any]:
    """A model of 12 blocks in one file, read at block 4: block parameters read and held; what the system counted."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mistudio_torch.lm.load import load_lm
    from mistudio_torch.lm.weights import quiet

    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "vocab_size": 1000}
    with quiet():
        LlamaForCausalLM(LlamaConfig(num_hidden_layers=BLOCKS, **shape)).save_pretrained(root / "twelve")
    tokenizer(root / "twelve")
    load_lm("twelve", 0, model_root=root)  # imports are read by now
    before = characters_read()
    lm = load_lm("twelve", HOOK_LAYER, model_root=root)
    counted = characters_read() - before
    in_blocks = BLOCKS * lm.facts.block_parameters
    outside = sum(p.numel() for name, p in lm.model.named_parameters() if not name.startswith("layers."))
    kept = sum(p.numel() for p in lm.model.parameters()) - outside
    item = torch.float32.itemsize
    return {
        "block_parameters": in_blocks,
        "held_share": round(kept / in_blocks, 4),
        "read_share": round((lm.bytes_read / item - outside) / in_blocks, 4),
        "read_bytes": lm.bytes_read,
        "read_bytes_by_the_system": counted,
        "file_bytes": (root / "twelve" / "model.safetensors").stat().st_size,
    }


def characters_read() -> int:
    """Bytes that this process has asked the system for, mapped files apart."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


if __name__ == "__main__":
    print(json.dumps(run()))
