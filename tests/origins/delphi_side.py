"""Runs in delphi's environment, never in ours: reads a cache with delphi's own loader.

`python delphi_side.py LATENTS_FOLDER MODULE OUT.npz`: OUT.npz has every activation as delphi's buffers give them
(`feature`, `sequence`, `position`, `activation`), the tokens, and the strongest activation of each record that
its dataset constructs.
"""

import sys

import numpy as np
from delphi.config import ConstructorConfig, SamplerConfig
from delphi.latents import LatentDataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast


def tokenizer(size):
    words = {f"w{i}": i for i in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), pad_token="w0")


def main():
    folder, module, out = sys.argv[1:]
    dataset = LatentDataset(
        folder,
        SamplerConfig(n_examples_train=10, n_examples_test=10, n_quantiles=5),
        ConstructorConfig(example_ctx_len=32, min_examples=20, n_non_activating=5),
        tokenizer=tokenizer(100_000),
        modules=[module],
    )
    rows = []
    for buffer in dataset.buffers:
        for latent in buffer:
            places = latent.activation_data.locations.numpy()
            values = latent.activation_data.activations.float().numpy()
            index = np.full(len(values), latent.latent.latent_index)
            rows.append(np.column_stack([index, places[:, 0], places[:, 1], values]))
    records = {r.latent.latent_index: float(r.max_activation) for r in dataset if r is not None and r.train}
    table = np.concatenate(rows)
    np.savez(
        out,
        feature=table[:, 0].astype(int),
        sequence=table[:, 1].astype(int),
        position=table[:, 2].astype(int),
        activation=table[:, 3],
        tokens=dataset.tokens.numpy(),
        records=np.array(sorted(records.items())),
    )


if __name__ == "__main__":
    main()
