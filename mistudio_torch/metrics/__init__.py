"""Every figure of a trained SAE: definitions in docs/metrics.md, version METRICS_VERSION.

`reconstruction` holds sums over activations and codes, `splice` what a causal model loses to the
reconstruction, `speed` the share of the machine's peak, `reference` slow readable twins.
"""

from __future__ import annotations

from mistudio_torch.metrics.reconstruction import (
    DENSITY_LOG10_EDGES,
    METRICS_VERSION,
    MetricAccumulator,
    SaeMetrics,
)
from mistudio_torch.metrics.speed import matrix_peak, peak_share, useful_flops
from mistudio_torch.metrics.splice import SpliceMetrics, or_absent, splice_metrics, splice_metrics_of

__all__ = [
    "DENSITY_LOG10_EDGES",
    "METRICS_VERSION",
    "MetricAccumulator",
    "SaeMetrics",
    "SpliceMetrics",
    "matrix_peak",
    "or_absent",
    "peak_share",
    "splice_metrics",
    "splice_metrics_of",
    "useful_flops",
]
