"""Share of the machine's peak: the count of useful flops, and a peak that real products do not beat by much."""

import time

import pytest
import torch

from mistudio_torch.metrics import matrix_peak, peak_share, reference, speed, useful_flops


def test_useful_flops():
    assert useful_flops(1, d_in=384, d_out=384, d_sae=3072, l0=32) == 2 * 384 * 3072 + 8 * 384 * 32
    transcoder = useful_flops(10, d_in=16, d_out=8, d_sae=64, l0=4.5)
    assert transcoder == 10 * (2 * 16 * 64 + 4.5 * (6 * 8 + 2 * 16))
    assert transcoder == pytest.approx(reference.useful_flops(10, 16, 8, 64, 4.5))


def test_share():
    assert peak_share(3e9, seconds=2.0, peak=1e10) == pytest.approx(0.15)
    assert peak_share(0.0, seconds=0.0, peak=1e10) == 0
    assert peak_share(3e9, seconds=0.2, peak=1e10) is None, "no run is faster than its machine"


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_peak_is_a_rate_and_is_measured_once(dtype):
    first = matrix_peak("cpu", dtype)
    assert 1e7 < first < 1e16
    assert matrix_peak(torch.device("cpu"), dtype) == first, "a second measurement would hardly give the same number"


def test_a_peak_belongs_to_a_number_of_threads():
    before = torch.get_num_threads()
    speed._measured_peak.cache_clear()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            matrix_peak("cpu", torch.float32)
    finally:
        torch.set_num_threads(before)
    assert (speed._measured_peak.cache_info().misses, speed._measured_peak.cache_info().hits) == (2, 1)


def test_a_slow_machine_is_not_kept_busy(monkeypatch):
    """Time stands still but for the products, each of which takes as long as on a machine of 1 Gflop/s."""
    clock = [0.0]

    def product(_product, a, _b, repeats):
        seconds = 2.0 * len(a) ** 3 / 1e9
        clock[0] += repeats * seconds
        return seconds

    monkeypatch.setattr(speed, "_seconds", product)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    speed._measured_peak.cache_clear()
    assert matrix_peak("cpu", torch.float32) == pytest.approx(1e9)
    assert clock[0] < 0.5
    speed._measured_peak.cache_clear()
