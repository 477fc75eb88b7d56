"""Shapes of the published models that recipes name, as fields of the contract's ModelShape.

Data, so that a recipe can be planned where the hub cannot be reached or the model is gated. Worked out
from the models' public configs; a test counts the weights again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Shape = Mapping[str, int | str]


def _shape(
    architecture: str,
    layers: int,
    width: int,
    *,
    feed_forward: int,
    heads: int,
    vocabulary: int,
    positions: int,
    parameters: int,
    block: int,
    linear: int,
    key_value: int = 0,
    head_size: int = 0,
    head: int = 0,
) -> Shape:
    return MappingProxyType(
        {
            "architecture": architecture,
            "total_layers": layers,
            "hidden_size": width,
            "vocab_size": vocabulary,
            "max_positions": positions,
            "parameters": parameters,
            "block_parameters": block,
            "linear_parameters": linear,
            "embedding_parameters": vocabulary * width,
            "head_parameters": head,
            "feed_forward_size": feed_forward,
            "attention_heads": heads,
            "key_value_heads": key_value or heads,
            "head_size": head_size or width // heads,
        }
    )


PYTHIA_70M = _shape(
    "gpt_neox", 6, 512, feed_forward=2048, heads=8, vocabulary=50_304, positions=2048,
    parameters=70_426_624, block=3_152_384, linear=3_145_728, head=25_755_648,
)  # fmt: skip
PYTHIA_160M = _shape(
    "gpt_neox", 12, 768, feed_forward=3072, heads=12, vocabulary=50_304, positions=2048,
    parameters=162_322_944, block=7_087_872, linear=7_077_888, head=38_633_472,
)  # fmt: skip
GPT2 = _shape(
    "gpt2", 12, 768, feed_forward=3072, heads=12, vocabulary=50_257, positions=1024,
    parameters=124_439_808, block=7_087_872, linear=7_077_888,
)  # fmt: skip
DIALOGPT_MEDIUM = _shape(
    "gpt2", 24, 1024, feed_forward=4096, heads=16, vocabulary=50_257, positions=1024,
    parameters=354_823_168, block=12_596_224, linear=12_582_912,
)  # fmt: skip
LLAMA_32_1B = _shape(
    "llama", 16, 2048, feed_forward=8192, heads=32, key_value=8, vocabulary=128_256, positions=131_072,
    parameters=1_235_814_400, block=60_821_504, linear=60_817_408,
)  # fmt: skip
LLAMA_31_8B = _shape(
    "llama", 32, 4096, feed_forward=14_336, heads=32, key_value=8, vocabulary=128_256, positions=131_072,
    parameters=8_030_261_248, block=218_112_000, linear=218_103_808, head=525_336_576,
)  # fmt: skip
MISTRAL_7B = _shape(
    "mistral", 32, 4096, feed_forward=14_336, heads=32, key_value=8, vocabulary=32_000, positions=32_768,
    parameters=7_241_732_096, block=218_112_000, linear=218_103_808, head=131_072_000,
)  # fmt: skip
GEMMA_2_2B = _shape(
    "gemma2", 26, 2304, feed_forward=9216, heads=8, key_value=4, head_size=256, vocabulary=256_000, positions=8192,
    parameters=2_614_341_888, block=77_865_984, linear=77_856_768,
)  # fmt: skip
QWEN_25_3B = _shape(
    "qwen2", 36, 2048, feed_forward=11_008, heads=16, key_value=2, vocabulary=151_936, positions=32_768,
    parameters=3_085_938_688, block=77_076_992, linear=77_070_336,
)  # fmt: skip
QWEN_25_7B = _shape(
    "qwen2", 28, 3584, feed_forward=18_944, heads=28, key_value=4, vocabulary=152_064, positions=131_072,
    parameters=7_615_616_512, block=233_057_792, linear=233_046_016, head=544_997_376,
)  # fmt: skip
PHI_4 = _shape(
    "phi3", 40, 5120, feed_forward=17_920, heads=40, key_value=10, vocabulary=100_352, positions=16_384,
    parameters=14_659_507_200, block=340_797_440, linear=340_787_200, head=513_802_240,
)  # fmt: skip
FINBERT = _shape(
    "bert", 12, 768, feed_forward=3072, heads=12, vocabulary=30_522, positions=512,
    parameters=109_484_547, block=7_087_872, linear=7_077_888, head=2307,
)  # fmt: skip
BIOBERT = _shape(
    "bert", 12, 768, feed_forward=3072, heads=12, vocabulary=28_996, positions=512,
    parameters=108_932_934, block=7_087_872, linear=7_077_888, head=622_662,
)  # fmt: skip
LEGAL_BERT = _shape(
    "bert", 12, 768, feed_forward=3072, heads=12, vocabulary=30_522, positions=512,
    parameters=110_106_428, block=7_087_872, linear=7_077_888, head=624_188,
)  # fmt: skip
ROBERTA_LARGE = _shape(
    "roberta", 24, 1024, feed_forward=4096, heads=16, vocabulary=50_265, positions=512,
    parameters=355_412_057, block=12_596_224, linear=12_582_912, head=1_101_913,
)  # fmt: skip
