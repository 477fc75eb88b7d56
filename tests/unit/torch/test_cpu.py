"""Faster on CPUs, with the same numbers: oneDNN's float32 products, and memory that is kept."""

import subprocess
import sys

import torch
from torch.nn import functional

from mistudio_torch.cpu import fast_linear, has_fast_linear, linear


def test_products_are_float32_products():
    generator = torch.Generator().manual_seed(3)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((5, 37, 64), (96, 64), (96,)))
    exact = functional.linear(x.double(), weight.double(), bias.double())
    assert has_fast_linear()
    with fast_linear():
        inside = functional.linear(x, weight, bias)
    assert torch.equal(inside, linear(x, weight, bias))
    assert (inside - exact).abs().max() < 4e-5  # a product in bf16 would be off by more than 0.01
    assert (inside - exact).abs().max() < 4 * (functional.linear(x, weight, bias) - exact).abs().max()


def test_products_in_bfloat16_are_off_by_its_rounding_and_no_more():
    generator = torch.Generator().manual_seed(5)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((200, 64), (96, 64), (96,)))
    exact = functional.linear(x, weight, bias)
    with fast_linear(bfloat16=True):
        inside = functional.linear(x, weight, bias)
        added = torch.addmm(bias, x, weight.t().contiguous())
    assert torch.equal(inside, linear(x, weight, bias, bfloat16=True)) and torch.equal(added, inside)
    assert inside.dtype == torch.float32 and 1e-4 < (inside - exact).norm() / exact.norm() < 0.006


def test_conv1d_of_gpt2_goes_the_same_way():
    x, weight, bias = torch.randn(70, 8), torch.randn(8, 12), torch.randn(12)
    with fast_linear():
        inside = torch.addmm(bias, x, weight)
    assert torch.equal(inside, linear(x, weight.t(), bias))
    torch.testing.assert_close(inside, torch.addmm(bias, x, weight))


def test_what_it_is_not_for_is_left_alone():
    weight = torch.randn(4, 8, requires_grad=True)
    with fast_linear():
        functional.linear(torch.ones(2, 8), weight).sum().backward()
        assert functional.linear(torch.ones(2, 8).bfloat16(), weight.detach().bfloat16()).dtype == torch.bfloat16
        assert functional.linear(torch.ones(0, 8), weight.detach()).shape == (0, 4)
        assert torch.addmm(torch.ones(2, 4), torch.ones(2, 8), weight.detach().t(), beta=0.5).shape == (2, 4)
    assert torch.equal(weight.grad, torch.full((4, 8), 2.0))


def test_few_rows_and_ragged_ones_are_right():
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(24, 16, generator=generator)
    for rows in (1, 63, 64, 65, 128, 129, 300):
        x = torch.randn(rows, 16, generator=generator)
        with fast_linear():
            inside = functional.linear(x, weight)
        assert inside.shape == (rows, 24)
        torch.testing.assert_close(inside, functional.linear(x, weight))


FAULTS = """
import resource
import torch
from mistudio_torch.cpu import keep_memory

assert keep_memory()
for _ in range(12):  # 16 MB, 4096 pages; the first few leave their margins behind, and each a place further on
    torch.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_kept_for_the_next_array():
    """In a process of its own: the threads of other tests have pages of their own."""
    faults = int(subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout)
    assert faults < 4096
