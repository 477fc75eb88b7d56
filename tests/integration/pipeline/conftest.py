"""A home with a tiny model and a small corpus, and clients that start what they need."""

from __future__ import annotations

from pathlib import Path

import pytest
from mistudio.feature.v1 import sae_pb2
from mistudio.train.v1 import train_service_pb2
from mistudio_core.home import Home
from tests.support import tinymodels


@pytest.fixture
def tiny_home(home: Home) -> Home:
    """The tiny model is `tiny` under the model root."""
    tinymodels.make(home.models / "tiny", "llama", layers=3)
    return home


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_text("\n".join(tinymodels.sentences(400)))
    return path


def training(**fields) -> train_service_pb2.StartTrainingRequest:
    """A training request that takes seconds."""
    values = {
        "model_name": "tiny",
        "corpus_file": "small.txt",
        "layer_number": 1,
        "hidden_dim": 64,
        "architecture": sae_pb2.ARCHITECTURE_TOPK,
        "k": 4,
        "learning_rate": 1e-3,
        "max_sequence_length": 16,
        "sae_batch_tokens": 128,
        "max_epochs": 3,
        "min_loss": 0.0,
        "checkpoint_interval_seconds": 0.1,
    }
    return train_service_pb2.StartTrainingRequest(**{**values, **fields})
