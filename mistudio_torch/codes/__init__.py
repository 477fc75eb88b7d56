"""The store of sparse activations with their texts: written by Train, read by Find.

Numpy only, never torch. `writer` makes the files of a `codes` artifact, `reader` opens them
memory-mapped, `tensorfile` holds the safetensors layout that both share.
"""

from mistudio_torch.codes.reader import CodesReader, FeatureCodes
from mistudio_torch.codes.writer import CodesWriter

__all__ = ["CodesReader", "CodesWriter", "FeatureCodes"]
