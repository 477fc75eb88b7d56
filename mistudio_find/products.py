"""numpy's matrix products on one thread each; large ones several at a time.

How a product is shared out among threads decides its last digits, which a map of features multiplies: no result may
depend on that. And threads that wait for the next small product spin, and keep processors from compiled loops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_MOST_AT_A_TIME = 4
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Products of numpy inside take one thread each, in whatever thread they are."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def side_by_side(
    function: Callable[[_Item], _Result], items: Iterable[_Item], parts: int
) -> Iterator[tuple[_Item, _Result]]:
    """Each item with its result, in order; `parts` are worked on at a time, at most 4, since results are large."""
    parts = min(max(1, parts), _MOST_AT_A_TIME)
    with ThreadPoolExecutor(max_workers=parts) as pool:
        coming: deque[tuple[_Item, Future[_Result]]] = deque()
        for item in items:
            coming.append((item, pool.submit(function, item)))
            if len(coming) > parts:
                first, result = coming.popleft()
                yield first, result.result()
        for item, result in coming:
            yield item, result.result()
