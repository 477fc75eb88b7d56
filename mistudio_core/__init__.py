"""Pure Python that every part of miStudio shares: errors, ids, jobs, artifacts, corpora, statistics.

Imports no grpc, no protobuf and no torch. Everything that travels between processes is turned
into messages elsewhere (mistudio_rpc), everything that computes on tensors lives in mistudio_torch.
"""

__version__ = "0.1.0"
