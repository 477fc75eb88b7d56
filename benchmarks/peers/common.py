"""What every contestant shares: arguments, rows of the activation file, the clock, the neutral file.

Imported by interpreters of several environments, so it needs numpy alone (safetensors to write, torch to verify).
The neutral file is safetensors with W_enc (F, D), b_enc (F), W_dec (F, D), b_dec (D) and what else
benchmarks/neutral.py describes; its header says how the tensors are to be used.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_CHUNK_ROWS = 16_384
VERIFIED_ROWS = 256
"""Training rows on which a neutral file is compared with the library's own decoder."""


def parser(architectures: tuple[str, ...]) -> argparse.ArgumentParser:
    """The options that every contestant understands; it knows `architectures`."""
    made = argparse.ArgumentParser()
    made.add_argument("--arch", choices=sorted(architectures), default="topk")
    options(made)
    return made


def options(made: argparse.ArgumentParser) -> None:
    """Adds every option but --arch."""
    made.add_argument("--acts", type=Path, required=True, help="activations, .npy, float32, N x D")
    made.add_argument("--width", type=int, default=12_288, help="features")
    made.add_argument("--k", type=int, default=32, help="features a row, top-k family")
    made.add_argument("--sparsity", type=float, help="weight of the sparsity penalty, the others")
    made.add_argument("--batch", type=int, default=4096, help="rows a step")
    made.add_argument("--tokens", type=int, default=200_000, help="rows to train on, cut to whole batches")
    made.add_argument("--lr", type=float, default=4e-3)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--heldout-rows", type=int, default=100_000, help="last rows of the file, never trained on")
    made.add_argument("--device", default="cpu")
    made.add_argument("--out", type=Path, help="neutral file to write")


def text_options(made: argparse.ArgumentParser) -> None:
    """Adds the options of a training from text."""
    made.add_argument("--model", type=Path, required=True, help="folder of a causal model")
    made.add_argument("--text", type=Path, required=True, help="one document a line")
    made.add_argument("--layer", type=int, default=3, help="block whose residual stream is read, from 0")
    made.add_argument("--length", type=int, default=128, help="tokens a sequence")
    made.add_argument("--width", type=int, default=2048, help="features")
    made.add_argument("--k", type=int, default=32, help="features a token")
    made.add_argument("--batch", type=int, default=4096, help="tokens a step")
    made.add_argument("--tokens", type=int, default=200_000, help="tokens to train on")
    made.add_argument("--lr", type=float, default=4e-3)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="cpu")
    made.add_argument("--out", type=Path, help="neutral file to write")


def text_figures(given: argparse.Namespace, *, seconds: float, wall_s: float) -> dict[str, float]:
    """Figures of a training from text: `seconds` from a loaded model to a trained SAE."""
    tokens = given.tokens // given.batch * given.batch
    figures = {"tokens_per_s": round(tokens / seconds, 1), "tokens": tokens, "seconds": round(seconds, 3)}
    return figures | {"wall_s": round(wall_s, 3), "peak_rss_mb": peak_rss_mb()} | peak_gpu_mb(given.device)


class BadFile(ValueError):
    """The activation file is not what it has to be."""


def open_rows(path: Path, heldout_rows: int) -> tuple[Array, int]:
    """The file as a memory map, and how many of its rows are for training. Raises BadFile."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadFile(f"{path} cannot be read as .npy ({type(error).__name__}). Save it with numpy.save.") from error
    if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] < 2:
        raise BadFile(f"{path} is {rows.dtype} of shape {rows.shape}, but must be float32, N x D. Convert it.")
    if not 0 <= heldout_rows < len(rows) - 1:
        raise BadFile(f"{path} has {len(rows)} rows, {heldout_rows} of them held out. Hold out fewer (--heldout-rows).")
    return rows, len(rows) - heldout_rows


def row_order(n_train: int, wanted: int, seed: int) -> Array:
    """int64 (wanted,): training rows, every epoch in an order of its own; the same for every contestant."""
    epochs = -(-wanted // n_train)
    return np.concatenate([np.random.default_rng([seed, e]).permutation(n_train) for e in range(epochs)])[:wanted]


def training_rows(given: argparse.Namespace) -> Array:
    """float32 (steps * batch, D), contiguous, in the order of training. Raises BadFile.

    The file is read in order and its pages are given back, so that it is in nobody's peak memory.
    """
    rows, n_train = open_rows(given.acts, given.heldout_rows)
    wanted = given.tokens // given.batch * given.batch
    if not wanted:
        raise BadFile(f"{given.tokens} tokens are less than one batch of {given.batch}. Raise --tokens.")
    order = row_order(n_train, wanted, given.seed)
    places = np.argsort(order, kind="stable")
    sources = order[places]
    taken = np.empty((wanted, rows.shape[1]), np.float32)
    for first in range(0, n_train, _CHUNK_ROWS):
        chunk = read_rows(given.acts, rows, first, min(first + _CHUNK_ROWS, n_train))
        here = slice(*np.searchsorted(sources, [first, first + len(chunk)]))
        taken[places[here]] = chunk[sources[here] - first]
    if not np.isfinite(taken).all():
        raise BadFile(f"{given.acts} holds NaN or infinite values. Remove those rows.")
    return taken


def read_rows(path: Path, rows: Array, first: int, past: int) -> Array:
    """Rows first..past read with plain reads; `rows` is the map that knows where they lie."""
    width = rows.shape[1]
    start = int(getattr(rows, "offset", 0)) + first * width * 4
    return np.fromfile(path, np.float32, (past - first) * width, offset=start).reshape(-1, width)


@dataclass
class Clock:
    """Times the training loop alone: `mark` at the start of every step, `stop` after the last."""

    stamps: list[float] = field(default_factory=list)
    """Seconds, monotonic."""
    synchronize: Any = None
    """Called before the first and the last stamp: waits for the device."""

    stopped: bool = False
    """Whether the last step has ended."""

    def mark(self) -> None:
        """A step begins."""
        if not self.stamps and self.synchronize:
            self.synchronize()
        self.stamps.append(time.perf_counter())

    def stop(self) -> None:
        """The last step has ended; later calls do nothing."""
        if self.stopped:
            return
        if self.synchronize:
            self.synchronize()
        self.stamps.append(time.perf_counter())
        self.stopped = True

    def batches(self, x_ND: Any, batch: int) -> Iterator[Any]:
        """The rows batch by batch, views only; marks every step and stops when asked beyond the last."""
        for first in range(0, len(x_ND), batch):
            self.mark()
            yield x_ND[first : first + batch]
        self.stop()

    def figures(self, batch: int) -> dict[str, float]:
        """tokens_per_s over the whole loop, and of the median step."""
        steps = [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]
        seconds = self.stamps[-1] - self.stamps[0]
        return {
            "tokens_per_s": round(len(steps) * batch / seconds, 1),
            "tokens_per_s_median_step": round(batch / statistics.median(steps), 1),
            "first_step_s": round(steps[0], 3),
            "seconds": round(seconds, 3),
            "steps": len(steps),
            "tokens": len(steps) * batch,
        }


def clock_for(device: str) -> Clock:
    """A clock that waits for a GPU where there is one."""
    if not device.startswith("cuda"):
        return Clock()
    import torch

    return Clock(synchronize=torch.cuda.synchronize)


def peak_rss_mb() -> float:
    """Most memory that this process ever held, MB of 2^20 bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def peak_gpu_mb(device: str) -> dict[str, float]:
    """Most memory of the GPU that tensors of this process held; nothing on a CPU."""
    if not device.startswith("cuda"):
        return {}
    import torch

    return {"peak_gpu_mb": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}


def write_neutral(path: Path, tensors: Mapping[str, Array], header: Mapping[str, Any]) -> None:
    """Writes the neutral file; tensors as float32."""
    from safetensors.numpy import save_file

    plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"neutral": json.dumps(dict(header), sort_keys=True)})


def verify(path: Path, x_BD: Any, own_BD: Any) -> None:
    """Refuses a neutral file that does not reconstruct rows as the library that it comes from does.

    Raises ValueError beyond a relative error of 1e-3; float32 leaves about 1e-6.
    """
    import torch

    from benchmarks.neutral import read_neutral

    with torch.no_grad():
        sae = read_neutral(path)
        found_BD = sae.decode(sae.encode(x_BD.cpu()))
        error = float((found_BD - own_BD.cpu()).norm() / own_BD.norm())
    if not error < 1e-3:
        raise ValueError(f"{path.name} reconstructs with a relative error of {error:.2g} to the library's own decoder")


def from_saelens(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Tensors and header of a folder in SAELens layout: the one that SAELens and miStudio both write.

    `rescale_acts_by_decoder_norm` is folded into the weights. Raises ValueError for other settings of its kind.
    """
    from safetensors.numpy import load_file

    config = json.loads((folder / "cfg.json").read_text())
    if config.get("normalize_activations", "none") != "none":
        raise ValueError(f"normalize_activations = {config['normalize_activations']!r} is not folded into the weights")
    tensors = load_file(folder / "sae_weights.safetensors")
    kind = {"topk": "topk", "jumprelu": "threshold", "gated": "gated"}.get(config["architecture"], "relu")
    names = ("b_enc", "threshold", "b_gate", "b_mag", "r_mag", "b_dec", "W_dec")
    plain = {name: tensors[name] for name in names if name in tensors} | {"W_enc": tensors["W_enc"].T}
    if kind == "gated":
        plain["b_enc"] = plain.pop("b_gate")
    header: dict[str, Any] = {"architecture": config["architecture"], "activation": kind}
    header["subtract_b_dec"] = bool(config.get("apply_b_dec_to_input", True))
    if kind == "topk":
        header["k"] = int(config["k"])
    if config.get("rescale_acts_by_decoder_norm", False):
        norm_F = np.linalg.norm(plain["W_dec"], axis=1)
        plain["b_enc"] = plain["b_enc"] * norm_F
        plain["W_enc"], plain["W_dec"] = plain["W_enc"] * norm_F[:, None], plain["W_dec"] / norm_F[:, None]
    return plain, header


def report(figures: Mapping[str, Any]) -> None:
    """The last line of a contestant's output."""
    print(json.dumps({**figures, "threads": os.environ.get("OMP_NUM_THREADS") or os.cpu_count()}), flush=True)
