"""Micro-batches: one thread, whole requests, no request failing for another."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from ilrec_cli.serve.batcher import Batcher, Busy


def doubled(seen: list[list[int]], seconds: float = 0.0):  # type: ignore[no-untyped-def]
    def answer(queries: list[int]) -> list[int]:
        seen.append(queries)
        assert threading.current_thread().name == "model"
        time.sleep(seconds)
        if 13 in queries:
            raise ZeroDivisionError("13")
        return [2 * query for query in queries]

    return answer


def test_requests_share_batches_and_get_their_own_answers() -> None:
    seen: list[list[int]] = []
    batcher = Batcher(doubled(seen, 0.002), batch_size=8, wait_seconds=0.05, capacity=100)
    batcher.start()

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(batcher.submit([n, n + 100], 5) for n in range(20, 40)))

    assert asyncio.run(main()) == [[2 * n, 2 * n + 200] for n in range(20, 40)]
    batcher.stop(5)
    assert not batcher.alive
    assert sorted(query for batch in seen for query in batch) == sorted([*range(20, 40), *range(120, 140)])
    assert max(map(len, seen)) == 8
    assert batcher.answered == 20
    assert batcher.batches == len(seen) == 5


def test_a_failing_request_fails_alone() -> None:
    seen: list[list[int]] = []
    batcher = Batcher(doubled(seen), batch_size=8, wait_seconds=0.05, capacity=100)
    batcher.start()

    async def main() -> list[object]:
        return await asyncio.gather(*(batcher.submit([n], 5) for n in (1, 13, 2)), return_exceptions=True)

    first, failed, last = asyncio.run(main())
    assert (first, last) == ([2], [4])
    assert isinstance(failed, ZeroDivisionError)
    assert asyncio.run(batcher.submit([3], 5)) == [6]
    batcher.stop(5)


def test_too_many_wait_and_too_long() -> None:
    """A request that was given up before its turn is never computed."""
    seen: list[list[int]] = []
    batcher = Batcher(doubled(seen, 0.3), batch_size=1, wait_seconds=0.0, capacity=2)
    batcher.start()

    async def main() -> list[object]:
        first = asyncio.create_task(batcher.submit([1], 5))
        await asyncio.sleep(0.1)  # it is being answered; two may wait
        late = [asyncio.create_task(batcher.submit([n], 0.05)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        with pytest.raises(Busy):
            await batcher.submit([4], 5)
        return await asyncio.gather(first, *late, return_exceptions=True)

    first, *late = asyncio.run(main())
    assert first == [2]
    assert [type(each) for each in late] == [TimeoutError, TimeoutError]
    batcher.stop(5)
    assert seen == [[1]]


def test_what_waits_is_answered_before_the_end() -> None:
    batcher = Batcher(doubled([], 0.05), batch_size=1, wait_seconds=0.0, capacity=10)
    batcher.start()

    async def main() -> list[list[int]]:
        tasks = [asyncio.create_task(batcher.submit([n], 5)) for n in range(4)]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(batcher.stop, 5)
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [[0], [2], [4], [6]]
