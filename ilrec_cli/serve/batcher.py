"""Requests of many clients become few calls of one thread: the model's."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Busy(Exception):  # noqa: N818 - a state, not a fault
    """More requests wait than may."""


class Job(NamedTuple):
    """One request: what it asks, and where its answers go."""

    queries: list  # type: ignore[type-arg]
    future: Future  # type: ignore[type-arg]


class Batcher(Generic[Q, A]):
    """Collects requests for `wait_seconds` after the first, or until `batch_size` queries are there, and answers them.

    `answer` maps a list of queries to their answers and is only ever called from one thread. A request that was given
    up before its turn costs nothing. Where a batch fails, its requests are tried alone: one must not fail for another.
    """

    def __init__(
        self, answer: Callable[[list[Q]], list[A]], *, batch_size: int, wait_seconds: float, capacity: int
    ):  # fmt: skip
        self._answer, self._batch_size, self._wait = answer, batch_size, wait_seconds
        self._jobs: queue.Queue[Job | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self.answered = self.batches = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Answer what waits, then end; wait that long for it."""
        with suppress(queue.Full):  # a model that hangs: its thread ends with the process
            self._jobs.put(None, timeout=seconds)
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    async def submit(self, queries: list[Q], seconds: float) -> list[A]:
        """The answers; `Busy` if too many wait, `TimeoutError` if they take too long."""
        future: Future[list[A]] = Future()
        try:
            self._jobs.put_nowait(Job(queries, future))
        except queue.Full as error:
            raise Busy from error
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def _work(self) -> None:
        while True:
            jobs, last = self._collect()
            started = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if started:
                self._run(started)
            if last:
                return

    def _collect(self) -> tuple[list[Job], bool]:
        """(jobs of the next batch, whether the end was asked for)."""
        jobs: list[Job] = []
        size, deadline = 0, None
        while size < self._batch_size:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                job = self._jobs.get(timeout=left)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            size += len(job.queries)
            deadline = deadline or time.monotonic() + self._wait
        return jobs, False

    def _run(self, jobs: list[Job]) -> None:
        try:
            answers = self._answer([query for job in jobs for query in job.queries])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            for job in jobs:
                self._run([job])
            return
        self.batches += 1
        done = 0
        for job in jobs:
            job.future.set_result(answers[done : done + len(job.queries)])
            done += len(job.queries)
            self.answered += 1
