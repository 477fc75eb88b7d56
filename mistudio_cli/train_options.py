"""The options of a training run: one for every field of StartTrainingRequest that this release honours.

Each is named after its field's meaning; the parameter has the field's own name. Unset options
leave the field unset, so that the service's documented default holds.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer


def option(name: str, text: str, default: str = "") -> Any:
    """An option that says its default in words: it stands in the contract, not here."""
    return typer.Option(name, help=f"{text} Default: {default}." if default else text, show_default=False)


Corpus = Annotated[
    str, option("--corpus", "Name of an uploaded corpus, or a data set of the hub: hf:<owner>/<name>[@revision].")
]
Dataset = Annotated[
    list[str] | None,
    option(
        "--dataset",
        "How a data set of the hub is read, as NAME=VALUE; may be repeated. Names: config, split, text_column, "
        "messages_column, label_columns, group_column, time_column, max_documents, max_bytes.",
        "split train, column text, the first 100,000 documents",
    ),
]
RecipeModel = Annotated[
    str | None,
    option("--model", "Hugging Face id, folder under the model root, or package:<name>/<folder>.", "the recipe's"),
]
Granularity = Annotated[
    str | None, option("--granularity", "Preset of --hidden-dim: coarse, normal or fine.", "the recipe's width")
]
Selectivity = Annotated[str | None, option("--selectivity", "Preset of sparsity: high, medium or low.", "the recipe's")]
LocalCorpus = Annotated[
    str, option("--corpus", "A file or folder of this machine, an uploaded corpus, or hf:<owner>/<name>.")
]
Layer = Annotated[int | None, option("--layer", "Block whose residual stream is read, from 0.", "12, or the middle")]
HiddenDim = Annotated[int | None, option("--hidden-dim", "Width of the SAE, features.", "1024")]
Sparsity = Annotated[
    float | None, option("--sparsity-coeff", "Weight of the sparsity penalty; standard, jumprelu, gated.", "0.001")
]
LearningRate = Annotated[float | None, option("--learning-rate", "Peak learning rate of Adam.", "0.0001")]
BatchSize = Annotated[int | None, option("--batch-size", "Sequences a forward pass of the model.", "16")]
MaxEpochs = Annotated[int | None, option("--max-epochs", "Most passes over the corpus.", "50")]
MinLoss = Annotated[float | None, option("--min-loss", "Stop when an epoch's mean loss is below this.", "0.01")]
GpuId = Annotated[int | None, option("--gpu-id", "GPU to use, from 0.", "the one with most free memory")]
MaxLength = Annotated[int | None, option("--max-sequence-length", "Longest sequence, tokens.", "512 or the model's")]
GpuMemory = Annotated[float | None, option("--min-gpu-memory-gb", "Least free memory of the GPU, GB.", "0")]
Architecture = Annotated[
    str | None,
    option("--architecture", "Kind of SAE: standard, topk, batchtopk, jumprelu, gated or matryoshka.", "standard"),
]
K = Annotated[int | None, option("--k", "Features that fire a token; topk, batchtopk, matryoshka.", "32")]
Hook = Annotated[
    str | None,
    option("--hook", "What is read of the block: resid_post, resid_pre, mlp_out, attn_out, or module.", "resid_post"),
]
ModulePath = Annotated[
    str | None, option("--module-path", "Module to read, with --hook module; `mistudio models hooks` lists them.")
]
AutoLayer = Annotated[
    bool, typer.Option("--auto-layer", help="Probe a few layers and read the one that suits, instead of --layer.")
]
CacheActivations = Annotated[
    bool, typer.Option("--cache-activations", help="Keep activations on disk between epochs; its size is logged first.")
]
HookName = Annotated[str | None, option("--hook-name", "SAELens hook name, instead of --layer and --hook.")]
OutputHook = Annotated[str | None, option("--output-hook-name", "What a transcoder writes: a hook's name.")]
FourBit = Annotated[
    bool | None, typer.Option("--4bit", help="Load the model's matrices in 4-bit NF4.", show_default=False)
]
EightBit = Annotated[
    bool | None, typer.Option("--8bit", help="Load the model's matrices in 8 bits.", show_default=False)
]
Sweep = Annotated[
    list[str] | None,
    option(
        "--sweep",
        "Several SAEs on one pass of the model: NAME=VALUE,VALUE; may be repeated. Names: layers, widths, ks, seeds.",
    ),
]
SpliceTokens = Annotated[
    int | None,
    option("--splice-tokens", "Held-out tokens for loss recovered and KL; 0: none.", "a tenth of the training tokens"),
]
Processes = Annotated[int | None, option("--processes", "Processes that train together; CPU only.", "1")]
TokenBudget = Annotated[int | None, option("--token-budget", "Stop after this many tokens; 0: no budget.", "0")]
SaeBatch = Annotated[int | None, option("--sae-batch-tokens", "Tokens a step of the SAE.", "4096")]
Seed = Annotated[int | None, option("--seed", "Seed of initial weights and data order.", "0")]
Dtype = Annotated[str | None, option("--dtype", "float32, bfloat16 or float16.", "float32 on CPU, bfloat16 on GPU")]
Normalize = Annotated[
    bool | None,
    typer.Option(
        "--normalize/--no-normalize",
        help="Centre and scale activations before the SAE, folded into the saved weights. Default: on.",
        show_default=False,
    ),
]
Checkpoint = Annotated[float | None, option("--checkpoint-interval", "Seconds between checkpoints.", "60")]
RequestId = Annotated[str | None, option("--request-id", "Makes the start idempotent.", "a fresh id")]
Heldout = Annotated[float | None, option("--heldout-fraction", "Share of documents held out.", "0.1")]
MaxCodes = Annotated[int | None, option("--max-code-tokens", "Most tokens whose activations are kept.", "10,000,000")]
Recipe = Annotated[
    str, typer.Option("--recipe", help="Named settings that options replace; see `mistudio recipes list`.")
]
