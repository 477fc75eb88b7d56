"""`python -m benchmarks.plan_memory [CASE ...]`: planned beside measured peak memory of whole runs on the CPU.

Each case is a random model of a published shape, made on the spot, and a run in a process of its
own: model loaded, text harvested, SAE trained, evaluated, written. Measured is the process's peak
resident memory (VmHWM) less the baseline: the peak of the same program on a toy model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mistudio_core import hostmemory


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and one run."""

    kind: str
    width: int
    layers: int
    feed_forward: int
    heads: int
    key_value: int
    vocabulary: int
    stored: str
    run: dict[str, Any]


_RUN = {"batch_size": 8, "max_sequence_length": 256, "max_epochs": 1, "min_loss": 0.0, "heldout_fraction": 0.1}
_RUN |= {"splice_tokens": 0}
"""Next-token figures load the whole model where it fits beside the run: they are no part of the peak."""
_FEW = {"max_code_tokens": 1000}
"""An untrained SAE of a dense architecture fires half of its features; a trained one is planned."""
TOY = Case(
    kind="llama", width=64, layers=2, feed_forward=128, heads=4, key_value=2, vocabulary=64, stored="float32",
    run=_RUN | {"layer_number": 0, "hidden_dim": 64, "k": 4, "sae_batch_tokens": 64, "block_tokens": 512},
)  # fmt: skip
LLAMA_300M = {"kind": "llama", "width": 1024, "layers": 24, "feed_forward": 2816, "heads": 16, "key_value": 8}
LLAMA_1B = {"kind": "llama", "width": 2048, "layers": 16, "feed_forward": 8192, "heads": 32, "key_value": 8}
GPT2 = {"kind": "gpt2", "width": 768, "layers": 12, "feed_forward": 3072, "heads": 12, "key_value": 12}
_SAE = {"sae_batch_tokens": 4096, "block_tokens": 8192, "k": 32}
CASES = {
    "llama-300m float32, topk 16k": Case(
        **LLAMA_300M, vocabulary=32_000, stored="float32",
        run=_RUN | _SAE | {"layer_number": 7, "architecture": "topk", "hidden_dim": 16_384},
    ),
    "llama-1b bfloat16, topk 32k": Case(
        **LLAMA_1B, vocabulary=128_256, stored="bfloat16",
        run=_RUN | _SAE | {"layer_number": 3, "architecture": "topk", "hidden_dim": 32_768, "dtype": "bfloat16"},
    ),
    "llama-1b float32, standard 16k": Case(
        **LLAMA_1B, vocabulary=128_256, stored="bfloat16",
        run=_RUN | _SAE | _FEW | {"layer_number": 3, "architecture": "standard", "hidden_dim": 16_384},
    ),
    "gpt2 float32, batchtopk 64k": Case(
        **GPT2, vocabulary=50_257, stored="float32",
        run=_RUN | _SAE | {"layer_number": 5, "architecture": "batchtopk", "hidden_dim": 65_536},
    ),
    "llama-300m bfloat16, jumprelu 32k": Case(
        **LLAMA_300M, vocabulary=32_000, stored="bfloat16",
        run=_RUN | _SAE | _FEW
        | {"layer_number": 3, "architecture": "jumprelu", "hidden_dim": 32_768, "dtype": "bfloat16"},
    ),
}  # fmt: skip
_WORDS = 150
_TOKENS = 11_000


def measure(case: Case, name: str) -> dict[str, Any]:
    """Planned and measured bytes of one case; the model is built and the run made in processes of their own."""
    with tempfile.TemporaryDirectory(prefix="plan-memory-") as folder:
        for step in ("build", "run"):
            arguments = [sys.executable, "-m", "benchmarks.plan_memory", "--step", step, "--folder", folder]
            body = json.dumps(asdict(case))
            done = subprocess.run(arguments, input=body, text=True, capture_output=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}: {step} failed\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def build(case: Case, folder: Path) -> None:
    """Writes a random model and a tokenizer: weights that are small and finite, as fast as the disk takes them."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from tests.support.tinymodels import tokenizer

    if case.kind == "gpt2":
        shape = {"vocab_size": case.vocabulary, "n_embd": case.width, "n_layer": case.layers, "n_head": case.heads}
        make: Any = lambda: GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=2, eos_token_id=3))  # noqa: E731
    else:
        config = LlamaConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.width,
            num_hidden_layers=case.layers,
            intermediate_size=case.feed_forward,
            num_attention_heads=case.heads,
            num_key_value_heads=case.key_value,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
        make = lambda: LlamaForCausalLM(config)  # noqa: E731
    with torch.device("meta"):
        model = make().to(getattr(torch, case.stored))
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        if tensor.dim() > 1:
            tensor.data.normal_(0, 0.02, generator=generator)
        else:
            tensor.data.fill_(1.0)
    model.tie_weights()
    model.save_pretrained(folder / "models" / "m")
    tokenizer(folder / "models" / "m", special=False)


def run(case: Case, folder: Path) -> dict[str, Any]:
    """The run itself, in this process; the peak of each stage beside that of the plan."""
    from mistudio_core.jobs.local import LocalContext
    from mistudio_torch.lm.source import inspect_model
    from mistudio_train import job
    from mistudio_train.config import TrainConfig
    from mistudio_train.memory_plan import plan
    from mistudio_train.plan_parts import PHASES
    from tests.support.tinymodels import WORDS

    class Watched(LocalContext):
        """Notes the peak of each stage."""

        peaks: dict[str, int] = {}  # noqa: RUF012
        stage = "start"

        def progress(self, stage: str, **more: Any) -> None:
            self.note(stage)
            super().progress(stage, **more)

        def note(self, stage: str) -> None:
            """The stage before has ended."""
            if stage != self.stage:
                self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), hostmemory.peak_resident_bytes())
                hostmemory.reset_peak()
                self.stage = stage

    config = TrainConfig(model_name="m", model_root=folder / "models", **case.run)
    planned = plan(inspect_model("m", model_root=config.model_root), config)
    context = Watched(folder / "job")
    words = random.Random(0)
    lines = [" ".join(words.choices(WORDS[4:], k=_WORDS)) for _ in range(_TOKENS // _WORDS)]
    writer = context.store.stage("/data/corpora/c", "corpus")
    writer.write("corpus.txt", "\n".join(lines).encode())
    context._inputs["corpus"] = context.store.open(writer.seal())
    job.run(config, context)
    context.note("end")
    peaks = context.peaks
    return {
        "planned": {phase: planned.in_phase(phase)[0] for phase in PHASES},
        "parts": {p.name: p.host_bytes for p in planned.parts},
        "planned_peak": planned.host_bytes,
        "measured": peaks,
        "measured_peak": max(peaks.values()),
    }


def compare(name: str, found: dict[str, Any], baseline: int) -> dict[str, Any]:
    """One row: bytes beyond the process itself."""
    planned = found["planned_peak"] - found["parts"]["process"]
    measured = found["measured_peak"] - baseline
    return {
        "case": name,
        "planned_gb": round(planned / 1e9, 3),
        "measured_gb": round(measured / 1e9, 3),
        "ratio": round(planned / measured, 3),
        "by_stage_gb": {stage: round((peak - baseline) / 1e9, 3) for stage, peak in found["measured"].items()},
        "planned_by_phase_gb": {
            phase: round((size - found["parts"]["process"]) / 1e9, 3) for phase, size in found["planned"].items()
        },
    }


def figures(names: list[str]) -> dict[str, Any]:
    """Every case beside its plan."""
    baseline = measure(TOY, "toy")["measured_peak"]
    rows = [compare(name, measure(CASES[name], name), baseline) for name in names]
    worst = max(abs(row["ratio"] - 1) for row in rows)
    return {"baseline_gb": round(baseline / 1e9, 3), "cases": rows, "worst": round(worst, 3)}


def main() -> int:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="*", help=f"of: {'; '.join(CASES)}; none: all")
    parser.add_argument("--step", choices=("build", "run"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        case = Case(**json.load(sys.stdin))
        if given.step == "build":
            build(case, given.folder)
        else:
            print(json.dumps(run(case, given.folder)))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = [name for name in CASES if not given.case or any(part in name for part in given.case)]
    print(json.dumps(figures(chosen), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
