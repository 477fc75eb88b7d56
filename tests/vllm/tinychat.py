"""A tiny Llama with a chat template, made on the spot, that answers in sentences.

Attention and MLP are zero and every token is its own direction, so that the next token depends on the
last one alone: a table of pairs, which spells ANSWER. A grammar only lets through what it allows, so
that a JSON schema is answered with ANSWER in every text.
"""

from __future__ import annotations

import sysconfig
from itertools import islice, pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mistudio_cli.docstrings import docstrings

ANSWER = "Words quickly."
"""Every text: no character stands in it twice, so that each has one that follows."""
SPECIAL = ("<s>", "</s>", "<unk>")
_VOCABULARY = 2048
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def make(folder: Path, *, context: int = 4096, template: bool = True) -> Path:
    """Writes the model; without `template` its tokenizer has none."""
    vocabulary = _tokenizer(folder, template=template)
    size = 320
    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=size, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=context, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.zero_()
        single = len(vocabulary)
        model.model.embed_tokens.weight[:single, :single] = torch.eye(single)
        model.lm_head.weight[:single, :single] = _pairs(vocabulary).T
    model.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, *, template: bool) -> dict[str, int]:
    """Pieces of words for prompts; the ids of single bytes, in which the model writes, come first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *alphabet))}
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(islice(docstrings(Path(sysconfig.get_path("stdlib"))), 800), trainer)
    if {token: i for token, i in inner.get_vocab().items() if token in vocabulary} != vocabulary:
        raise RuntimeError("bytes have other ids than expected")
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    if template:
        made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return vocabulary


def _pairs(vocabulary: dict[str, int]) -> torch.Tensor:
    """Logit of the next token (column) after a token (row)."""
    spelled = ANSWER.replace(" ", "Ġ")
    logits = torch.zeros(len(vocabulary), len(vocabulary))
    logits[:, vocabulary["</s>"]] = 1.0
    logits[:, vocabulary["]"]] = 0.5
    logits[:, vocabulary["}"]] = 0.5
    logits[vocabulary["["], vocabulary['"']] = 4.0
    logits[vocabulary['"'], vocabulary[spelled[0]]] = 4.0
    for here, after in pairwise(spelled):
        logits[vocabulary[here], vocabulary[after]] += 4.0
    logits[vocabulary[spelled[-1]], vocabulary['"']] = 4.0
    return logits
