"""Tiny random models with a tiny tokenizer, made on the spot; nothing is downloaded."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForTextEncoding, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "ran", "on", "under"]
WORDS += ["mat", "tree", "and", "or", "big", "red", ".", ","]
VOCAB = 32
DIM = 16


def tokenizer(folder: Path, *, special: bool) -> None:
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
    ).save_pretrained(folder)


KINDS = {
    "gpt2": {"intermediate_size": None, "bos_token_id": 2, "eos_token_id": 3},
    "gpt_neox": {},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 4},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "phi": {},
    "phi3": {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    "bert": {},
    "roberta": {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2},
    "mixtral": {"num_key_value_heads": 1, "num_local_experts": 2},
}
"""Every family that is tested, with what its config wants besides the common sizes."""
ENCODERS = ("bert", "roberta", "deberta-v2", "distilbert", "t5")


def make(folder: Path, kind: str = "bert", layers: int = 3, **options: object) -> Path:
    torch.manual_seed(7)
    common = {"vocab_size": VOCAB, "hidden_size": DIM, "num_hidden_layers": layers, "num_attention_heads": 2}
    common |= {"intermediate_size": 32, "max_position_embeddings": 32}
    wanted = {**common, **KINDS[kind], **options}
    config = CONFIG_MAPPING[kind](**{name: value for name, value in wanted.items() if value is not None})
    loader = AutoModelForMaskedLM if kind in ENCODERS else AutoModelForCausalLM
    loader = AutoModelForTextEncoding if kind == "t5" else loader
    model = loader.from_config(config)
    (model.base_model if kind == "bert" else model).save_pretrained(folder)
    tokenizer(folder, special=kind in ENCODERS)
    return folder


def shard_by_block(folder: Path) -> None:
    """Splits model.safetensors into one shard a block, and one for the rest."""
    import json

    from mistudio_torch.lm.facts import block_of

    tensors = load_file(folder / "model.safetensors")
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        block = block_of(name)
        shards.setdefault("rest" if block is None else f"block{block}", {})[name] = tensor
    weight_map = {}
    for shard, part in shards.items():
        save_file(part, folder / f"{shard}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, f"{shard}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def sentences(count: int, seed: int = 0) -> list[str]:
    import random

    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS[4:], k=rng.randint(3, 24))) for _ in range(count)]
