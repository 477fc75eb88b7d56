"""Matrix products that do not depend on how many processors there are."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from mistudio_find.products import one_thread_each, side_by_side


def threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_products_take_one_thread_inside_and_as_many_as_before_after():
    before = threads()
    with one_thread_each():
        assert threads() == {1}
    assert threads() == before


@pytest.mark.parametrize("parts", [0, 1, 2, 100])
def test_results_come_in_order_and_few_are_worked_on_at_a_time(parts):
    lock, running, most = threading.Lock(), [0], [0]

    def square(item):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        matrix = np.full((64, 64), item) @ np.eye(64)
        with lock:
            running[0] -= 1
        return matrix[0, 0] ** 2

    assert list(side_by_side(square, range(20), parts)) == [(item, item**2) for item in range(20)]
    assert most[0] <= min(max(1, parts), 4)


def test_an_error_comes_to_who_asks():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 / item, [2, 0, 1], 2))
