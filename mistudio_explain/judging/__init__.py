"""Judges: how well an explanation tells held-out texts apart, by words, by embeddings or by a model.

`base` holds the Protocol and the figure, each method has a file, `choice` makes the one that is asked for.
"""

from __future__ import annotations

from mistudio_explain.judging.base import Accuracy, Judge, shuffled_control
from mistudio_explain.judging.choice import create_judge, judge_name

__all__ = ["Accuracy", "Judge", "create_judge", "judge_name", "shuffled_control"]
