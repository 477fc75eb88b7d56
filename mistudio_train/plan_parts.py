"""How many bytes each part of a run holds, and in which phase: the formulas of the memory plan.

Facts and sizes in, bytes out; no machine is asked and torch is not imported. Constants that mirror
torch code are compared with it in tests. B sequences, T tokens of one, N tokens of a block, S tokens
of a step, D width of the model, F features, K features that fire a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mistudio_torch.lm.facts import ModelFacts

LOAD, HARVEST, START, TRAIN = "load", "harvest", "start", "train"
FOLD, EVALUATE, WRITE = "fold", "evaluate", "write"
PHASES = (LOAD, HARVEST, START, TRAIN, FOLD, EVALUATE, WRITE)
"""What a run does, in this order. `start`: normalisation and first weights from the first block; harvest and train
take turns; `fold`: the trained SAE in the form in which it is saved."""
FIGURES = "next-token figures"
"""A phase that is left out where the whole model does not fit: it is shown, and counts for no peak."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4: 4 bits, one byte of scale for 64 weights, one float32 for 256 scales (double quantisation).

Dettmers et al. 2023, "QLoRA" (arXiv:2305.14314), section 3.
"""
INT8_BYTES = 1 + 4 / 1024
"""A weight in 8 bits; one float32 of scale a row, rows of about a thousand."""
F4 = 4
TOP_K_FAMILY = ("topk", "batchtopk", "matryoshka")
SLICE_BYTES = 8 << 20
"""Pre-activations that the top-k family holds at a time on a CPU (`mistudio_torch.sae.sparse`)."""
GPU_SLICE_BYTES = 1 << 30
"""The same on a GPU."""
EVALUATE_ROWS = 2048
"""Tokens that are encoded at a time when figures are measured and codes written (`outputs`)."""
CPU_TOKENS = 2048
"""Most tokens of a forward pass on a CPU, unless one sequence has more (`mistudio_torch.tokens`)."""
DENSE_ARRAYS = {"standard": (2.9, 3.2), "jumprelu": (4.0, 5.4), "gated": (9.25, 9.25)}
"""Float32 arrays of S x F that one step of a dense architecture holds at its peak, measured: where products are
made in bfloat16, and where not."""
ROW_ARRAYS = {"standard": 7, "jumprelu": 9, "gated": 12}
"""Float32 arrays of S x D beside them, measured."""
PAIR_BYTES = 64
"""A pair (token, feature) of a sparse step: indices, value, gradient, and its place among those of its feature."""
ENCODE_ARRAYS = {"standard": 2.5, "jumprelu": 4.2, "gated": 5.0, "batchtopk": 4.2, "matryoshka": 4.2}
"""Float32 arrays of rows x F that encoding holds, measured; batch top-k encodes as jumprelu does."""
THRESHOLDED = ("batchtopk", "matryoshka")
"""Architectures that are saved in another form than they are trained in."""
START_ARRAYS = 7
"""Blocks of one hook that its normalisation takes in float64 and in copies, beside the block itself."""
GROUPS = {"matryoshka": 5}
"""Nested dictionaries, each with a gradient of S x D."""

KEPT_BYTES = 200_000_000
"""Freed memory that a process on the CPU keeps for its next arrays, at most, measured (`mistudio_torch.cpu`)."""
KEPT_SHARE = 1.4
"""The same as a share of a forward pass."""
DENSITY = 0.05
"""Share of its features that a dense architecture is expected to fire on a token: the upper quality gate."""
CODE_BYTES = 40
"""A code while a block is written: token, feature and value, once in parts and once joined."""
HOST_BASE = 520_000_000
"""A worker process on the CPU with everything imported and compiled and a toy model in it, measured."""
CUDA_HOST_BASE = 3_000_000_000
"""The same with CUDA's libraries, pinned buffers included. Tabulated, not measured here."""
CUDA_BASE = 700_000_000
"""A CUDA context with the libraries' work spaces and the allocator's slack. Tabulated, not measured here."""

_GATED_FEED_FORWARD = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2")
_ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "albert", "electra", "deberta", "deberta-v2")
_BOTH_WAYS = (*_ENCODERS, "t5", "mt5", "umt5")
"""Families that predict no next token."""
_EAGER_ATTENTION = ("gemma2", "t5", "mt5", "umt5", "deberta", "deberta-v2")
"""Families whose attention keeps the scores of all pairs of tokens; all others use the fused kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeSize:
    """One SAE of a run."""

    architecture: str
    """Its kind."""
    d_in: int
    """Width that it reads."""
    d_out: int
    """Width that it writes."""
    d_sae: int
    """Features F."""
    k: int
    """Features that fire a token."""

    @property
    def weights(self) -> int:
        """Bytes of its float32 weights; gated and jumprelu have one or two more vectors."""
        vectors = {"gated": 3, "jumprelu": 2}.get(self.architecture, 1)
        return F4 * (self.d_sae * (self.d_in + self.d_out + vectors) + self.d_out)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Everything that memory depends on."""

    facts: ModelFacts
    """The model."""
    layer: int
    """Deepest block that is read; later ones are not loaded."""
    precision: str
    """Of the model's weights: float32, bfloat16, float16, int8 or nf4."""
    compute: str
    """Number format in which the model computes."""
    on_gpu: bool
    """Whether model and SAEs are on a GPU."""
    embeddings_on_cpu: bool
    """Whether the token embedding stays in the host's memory."""
    batch_size: int
    """Sequences B of a forward pass."""
    length: int
    """Tokens T of the longest sequence."""
    block_tokens: int
    """Tokens N of a block."""
    step_tokens: int
    """Tokens S of a step."""
    hooks: int
    """Activations that are kept of each token, of the model's width each."""
    hooks_of_one: int
    """Of these, most for one SAE: two for a transcoder."""
    saes: tuple[SaeSize, ...]
    """The SAEs of the run."""
    processes: int
    """Processes that train together; each holds everything."""
    fast_bfloat16: bool
    """Whether matrices are multiplied in bfloat16 where that is exact enough."""
    whole_model: bool
    """Whether the whole model is loaded at the end, for next-token figures, where it fits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of the memory of a run."""

    name: str
    """What it is."""
    host_bytes: int
    """Bytes in the host's memory."""
    gpu_bytes: int
    """Bytes on the GPU."""
    phases: tuple[str, ...]
    """The phases that hold it."""


def parts_of(w: Workload) -> tuple[Part, ...]:
    """Every part of a run."""
    return tuple(p for p in _parts(w) if p.host_bytes or p.gpu_bytes)


def _parts(w: Workload) -> Iterator[Part]:
    def part(name: str, size: float, *phases: str, host: bool = False) -> Part:
        on_gpu = w.on_gpu and not host
        here = 0 if on_gpu else round(size * w.processes)
        return Part(name=name, host_bytes=here, gpu_bytes=round(size) if on_gpu else 0, phases=phases)

    base = CUDA_HOST_BASE if w.on_gpu else HOST_BASE
    context = CUDA_BASE if w.on_gpu else 0
    yield Part(name="process", host_bytes=base * w.processes, gpu_bytes=context, phases=PHASES)
    yield part("model blocks", block_weights(w), *PHASES)
    yield part("embeddings", other_weights(w), *PHASES)
    yield part("embeddings on the CPU", embedding_weights(w) if w.embeddings_on_cpu else 0, *PHASES, host=True)
    yield part("a tensor on its way", loading_bytes(w), LOAD)
    forward, kept = forward_bytes(w), kept_bytes(w)
    yield part("forward pass", forward, HARVEST, *(PHASES[2:] if w.on_gpu else ()))  # harvest overlaps on a GPU
    yield part("kept for reuse", kept, *PHASES[2:], host=True)
    block = block_bytes(w)
    yield part("activations of a block", block, HARVEST, START, TRAIN, EVALUATE, WRITE, host=True)
    yield part("block, normalised", block / w.hooks * w.hooks_of_one, TRAIN, host=True)
    begin = max(START_ARRAYS * block / w.hooks, *(first_bytes(s) for s in w.saes))
    yield part("normalisation and first weights", begin, START, host=True)
    every = sum(s.weights for s in w.saes)
    yield part("SAE weights", every, *PHASES[2:])
    yield part("optimiser moments", 2 * every, *PHASES[3:])
    yield part("gradients", every, *PHASES[3:])
    yield part("gradients of a step", max(new_gradients(s) for s in w.saes), TRAIN)
    yield part("step", max(step_bytes(w, s) for s in w.saes), TRAIN)
    exchanged = max(s.weights for s in w.saes) + 2 * block
    yield part("exchange between processes", exchanged if w.processes > 1 else 0, TRAIN, host=True)
    yield part("finished SAEs", every, FOLD, EVALUATE, WRITE, host=True)
    yield part("folding", max(fold_bytes(s) for s in w.saes), FOLD, host=True)
    yield part("encoding", max(encode_bytes(w, s) for s in w.saes), EVALUATE, WRITE, host=True)
    yield part("codes of a block", sum(code_bytes(w, s) for s in w.saes), WRITE, host=True)
    yield part(f"whole model ({FIGURES})", whole_bytes(w), FIGURES)


def item_bytes(w: Workload) -> int:
    """Bytes of a number of the forward pass."""
    return ITEM_BYTES[w.compute]


def block_parameters(facts: ModelFacts) -> tuple[int, int]:
    """(all weights, weights in matrices) of a block; from the config's sizes where no header could be read."""
    if facts.block_parameters:
        return facts.block_parameters, facts.linear_parameters or facts.block_parameters
    width = facts.hidden_size
    queries = (facts.attention_heads * facts.head_size) or width
    keys = (facts.key_value_heads * facts.head_size) or width
    matrices = 3 if facts.architecture in _GATED_FEED_FORWARD else 2
    linear = 2 * width * (queries + keys) + matrices * width * (facts.feed_forward_size or 4 * width)
    return linear + 4 * width, linear


def other_parameters(facts: ModelFacts) -> int:
    """Weights outside of blocks that are loaded."""
    if facts.other_parameters:
        return facts.other_parameters - facts.head_parameters
    return facts.vocab_size * facts.hidden_size


def block_weights(w: Workload) -> float:
    """Bytes of blocks 0..layer. Quantisation packs matrices; norms and biases stay in the compute format."""
    total, linear = block_parameters(w.facts)
    kept = w.layer + 1
    packed = {"nf4": NF4_BYTES, "int8": INT8_BYTES}.get(w.precision)
    if packed is None:
        return kept * total * ITEM_BYTES[w.precision]
    return kept * (linear * packed + (total - linear) * item_bytes(w))


def embedding_weights(w: Workload) -> float:
    """Bytes of the token embedding; it is never quantised."""
    return (w.facts.embedding_parameters or w.facts.vocab_size * w.facts.hidden_size) * item_bytes(w)


def other_weights(w: Workload) -> float:
    """Bytes of everything outside of the blocks, less an embedding that stays on the CPU."""
    everything = other_parameters(w.facts) * item_bytes(w)
    return max(0.0, everything - embedding_weights(w)) if w.embeddings_on_cpu else everything


def forward_bytes(w: Workload) -> float:
    """Peak of one forward pass: the larger of attention and feed-forward, and what runs beside them.

    Residual, its sum and its norm (float32 inside of the norm); queries, keys and values and their
    rotated copies; two (gated: three) arrays of the feed-forward width; the mask of the fused
    attention, or all scores where attention is not fused; the hooked activations in float32.
    """
    facts, item = w.facts, item_bytes(w)
    tokens = w.batch_size * w.length
    if not w.on_gpu:
        tokens = max(w.length, min(tokens, CPU_TOKENS))
    queries = (facts.attention_heads * facts.head_size) or facts.hidden_size
    keys = (facts.key_value_heads * facts.head_size) or facts.hidden_size
    attention = item * (3 * queries + 4 * keys)
    wide = 3 if facts.architecture in _GATED_FEED_FORWARD else 2
    feed_forward = item * wide * (facts.feed_forward_size or 4 * facts.hidden_size)
    beside = facts.hidden_size * (3 * item + F4)
    hooked = w.hooks * facts.hidden_size * (F4 + item)
    pairs = tokens * w.length
    mask: float = pairs * (1 + item)
    if facts.architecture in _EAGER_ATTENTION:
        mask += pairs * (facts.attention_heads or 1) * (F4 + 2 * item)
    return tokens * (max(attention, feed_forward) + beside + hooked) + mask


def block_bytes(w: Workload) -> float:
    """Float32 activations of a block, of every hook; a block ends with the document that fills it."""
    return F4 * (w.block_tokens + w.length) * w.facts.hidden_size * w.hooks


def step_bytes(w: Workload, sae: SaeSize) -> float:
    """What one step of one SAE holds beside weights, gradients and moments."""
    s = w.step_tokens
    row = F4 * s * max(sae.d_in, sae.d_out)
    if sae.architecture in DENSE_ARRAYS:
        arrays = DENSE_ARRAYS[sae.architecture][0 if w.fast_bfloat16 else 1]
        return row * ROW_ARRAYS[sae.architecture] + arrays * F4 * s * sae.d_sae
    groups = GROUPS.get(sae.architecture, 1)
    piece = min(GPU_SLICE_BYTES if w.on_gpu else SLICE_BYTES, F4 * s * sae.d_sae)
    return max(0.0, row * (groups + 3) + PAIR_BYTES * s * sae.k + piece - kept_bytes(w))


def first_bytes(sae: SaeSize) -> float:
    """Making first weights: directions, noise and their copies, and pre-activations of a sample of tokens."""
    return 2.5 * sae.weights + 2 * F4 * EVALUATE_ROWS * sae.d_sae


def loading_bytes(w: Workload) -> float:
    """The largest tensor as it is stored, while it turns into another format."""
    stored = {"F32": 4, "F16": 2, "BF16": 2}.get(w.facts.dtype, 2)
    if w.precision in ITEM_BYTES and stored == item_bytes(w):
        return 0
    return max(w.facts.embedding_parameters, w.facts.hidden_size * w.facts.feed_forward_size) * stored


def kept_bytes(w: Workload) -> float:
    """Freed memory that is not given back."""
    return 0 if w.on_gpu else min(KEPT_BYTES, KEPT_SHARE * forward_bytes(w))


def new_gradients(sae: SaeSize) -> int:
    """A step of the top-k family makes its gradients beside those of the step before."""
    return sae.weights if sae.architecture in TOP_K_FAMILY else 0


def fold_bytes(sae: SaeSize) -> float:
    """The float64 encoder that folding multiplies with, and batch top-k's form with a threshold."""
    turned = sae.weights if sae.architecture in THRESHOLDED else 0
    return 2 * F4 * sae.d_sae * sae.d_in + turned


def encode_bytes(w: Workload, sae: SaeSize) -> float:
    """Encoding a part of a block: pre-activations and what they turn into, and float64 rows of the figures."""
    rows = min(EVALUATE_ROWS, w.block_tokens)
    figures = 4 * 2 * F4 * rows * max(sae.d_in, sae.d_out)
    if sae.architecture == "topk":
        return figures + min(SLICE_BYTES, F4 * rows * sae.d_sae)
    return figures + F4 * rows * sae.d_sae * ENCODE_ARRAYS[sae.architecture]


def code_bytes(w: Workload, sae: SaeSize) -> float:
    """The codes of a block before they are written."""
    fires = sae.k if sae.architecture in TOP_K_FAMILY else DENSITY * sae.d_sae
    return CODE_BYTES * w.block_tokens * fires


def whole_bytes(w: Workload) -> float:
    """The whole model with its head, loaded beside the cut one where it fits; causal models only."""
    return w.facts.parameters * item_bytes(w) if w.whole_model and w.facts.architecture not in _BOTH_WAYS else 0
