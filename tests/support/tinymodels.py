"""Tiny random models with a tiny tokenizer, made on the spot; nothing is downloaded."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

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


def make(folder: Path, kind: str = "bert", layers: int = 3) -> Path:
    torch.manual_seed(7)
    shape = {"vocab_size": VOCAB, "hidden_size": DIM, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 2, "intermediate_size": 32}
    model = {
        "bert": lambda: BertModel(BertConfig(**shape, max_position_embeddings=32)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=32)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**shape, max_position_embeddings=32)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCAB, n_embd=DIM, n_layer=layers, n_head=2, n_positions=32)
        ),
    }[kind]()
    model.save_pretrained(folder)
    tokenizer(folder, special=kind == "bert")
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
