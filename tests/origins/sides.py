"""Runs in the environment of another library, never in ours: makes an SAE with it, or loads one and computes.

`python sides.py LIBRARY make|load FOLDER KIND X.npy OUT.npz`: OUT.npz has `codes` and `y` as the library computes them.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

D, F, OUT, K = 24, 64, 20, 6


def randomised(module):
    """Weights of usual sizes, positive thresholds, as the tests' own files have."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if not value.is_floating_point():
                continue
            value.copy_(torch.randn(value.shape) * 0.4)
            if "threshold" in name:
                value.abs_().add_(0.1)
    return module


class SaeLens:
    def make(self, folder, kind):
        from sae_lens.registry import get_sae_class

        made, config = get_sae_class(kind)
        values = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": not kind.endswith("transcoder")}
        values |= {"k": K} if kind == "topk" else {}
        values |= {"d_out": OUT} if kind.endswith("transcoder") else {}
        sae = randomised(made(config(**values)))
        sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
        sae.cfg.metadata.model_name = "gpt2"
        sae.save_model(folder)
        return sae

    def load(self, folder, kind):
        from sae_lens.saes.sae import SAE

        sae = SAE.load_from_disk(folder)
        if sae.cfg.metadata.hook_name != "blocks.3.hook_resid_post":
            raise SystemExit("the hook's name was lost")
        return sae

    def run(self, sae, x):
        return sae.encode(x), sae(x)


class Sparsify:
    def make(self, folder, kind):
        from sparsify import SparseCoder, SparseCoderConfig

        config = SparseCoderConfig(num_latents=F, k=K, transcode="transcoder" in kind, skip_connection="skip" in kind)
        sae = randomised(SparseCoder(D, config))
        sae.save_to_disk(folder)
        return sae

    def load(self, folder, kind):
        from sparsify import SparseCoder

        return SparseCoder.load_from_disk(folder)

    def run(self, sae, x):
        found = sae(x)
        codes = torch.zeros(len(x), sae.num_latents)
        return codes.scatter(1, found.latent_indices, found.latent_acts), found.sae_out


class DictionaryLearning:
    def make(self, folder, kind):
        places = ("dictionary", "trainers.top_k", "trainers.batch_top_k", "trainers.matryoshka_batch_top_k")
        modules = [importlib.import_module(f"dictionary_learning.{place}") for place in places]
        made = next(getattr(m, kind) for m in modules if hasattr(m, kind))
        more = {"k": K} if "TopK" in kind else {}
        more |= {"group_sizes": [16, F - 16]} if "Matryoshka" in kind else {}
        sae = randomised(made(D, F, **more))
        torch.save(sae.state_dict(), folder / "ae.pt")
        about = {"dict_class": kind, "activation_dim": D, "dict_size": F, "layer": 3, "lm_name": "gpt2"}
        about |= {"k": K} if "TopK" in kind else {}
        (folder / "config.json").write_text(json.dumps({"trainer": about, "buffer": {"ctx_len": 128}}))
        return self.load(folder, kind)

    def load(self, folder, kind):
        from dictionary_learning.utils import load_dictionary

        with contextlib.redirect_stdout(sys.stderr):
            return load_dictionary(str(folder), "cpu")[0]

    def run(self, sae, x):
        codes = sae.encode(x)
        return codes, sae.decode(codes)


LIBRARIES = {"saelens": SaeLens, "sparsify": Sparsify, "dictionary_learning": DictionaryLearning}


def main():
    library, verb, folder, kind, x_file, out = sys.argv[1:]
    side = LIBRARIES[library]()
    sae = getattr(side, verb)(Path(folder), kind)
    with torch.no_grad():
        codes, y = side.run(sae, torch.from_numpy(np.load(x_file)))
    np.savez(out, codes=codes.numpy(), y=y.numpy())


if __name__ == "__main__":
    main()
