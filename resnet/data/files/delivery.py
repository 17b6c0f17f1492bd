"""Batches made by threads, in order, the next ones under way while one is used.

Threads do, because reading and Pillow release Python's lock; worker processes would have to be ended.
"""

import collections
import contextlib
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from resnet.data.images import without_warnings
from resnet.errors import InputError
from resnet.processors import processors

STALL_SECONDS = 300.0  # for which a file may be read; a network file system may never answer
LOOK_SECONDS = 0.01  # between two looks for such a file, and at whether the devices are busy
JOIN_SECONDS = 1.0  # for which a thread is waited for that may read for ever


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a stream is delivered to this process: decides the speed and the memory, and no number."""

    threads: int = dataclasses.field(default_factory=processors)
    """Threads that read and decode; by default one for each processor."""
    ahead: int = 2
    """Batches that are made while one is used."""
    rows: Sequence[int] | None = None
    """Places of the global batch that this process needs; None: all."""

    def needed(self, batch: int) -> Sequence[int]:
        """The places of a batch that are decoded here."""
        return range(batch) if self.rows is None else self.rows


@dataclasses.dataclass
class Worker:
    """What one thread is at, and how it spent its time."""

    reading: tuple[str, float] | None = None
    """(file, since when)."""
    read: float = 0.0
    """Seconds."""
    decode: float = 0.0
    images: int = 0

    @contextlib.contextmanager
    def timing(self, name: str) -> Iterator[Callable[[], None]]:
        """While entered, an image is read; once the function is called, it is decoded."""
        began = read = time.perf_counter()
        self.reading = name, time.monotonic()

        def is_read() -> None:
            nonlocal read
            read, self.reading = time.perf_counter(), None

        try:
            yield is_read
        finally:
            self.reading = None
            self.read += read - began
            self.decode += time.perf_counter() - read
            self.images += 1


class Work:
    """One batch while it is made: arrays that each job fills in part."""

    def __init__(self, arrays: dict[str, np.ndarray], jobs: Sequence[Callable[[Worker], None]]):
        self.arrays, self.jobs = arrays, jobs
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._left = len(jobs)
        self._lock = threading.Lock()
        if not jobs:
            self.done.set()

    def finish_job(self, error: BaseException | None) -> None:
        """Counts a job that has ended; the batch is done with the last, or with an error."""
        with self._lock:
            self._left -= 1
            self.error = self.error or error
            if self._left == 0 or self.error:
                self.done.set()

    def now(self) -> dict[str, np.ndarray]:
        """The arrays, made by this thread alone."""
        worker = Worker()
        with without_warnings():
            for job in self.jobs:
                job(worker)
        return self.arrays


@dataclasses.dataclass(frozen=True)
class InputTimes:
    """Where the time of a stream went."""

    images: int
    read: float
    """Seconds of all threads together."""
    decode: float
    waited: float
    """Seconds in which the devices had nothing to do, because the next batch was not there."""
    threads: int

    def __add__(self, other: "InputTimes") -> "InputTimes":
        return InputTimes(
            self.images + other.images,
            self.read + other.read,
            self.decode + other.decode,
            self.waited + other.waited,
            self.threads,
        )

    @property
    def images_per_second(self) -> float:
        """What the threads can deliver when none of them ever waits."""
        return self.images * self.threads / max(self.read + self.decode, 1e-9)

    def advice(self, share: float, images_per_second: float, processors: int) -> str:
        """What to do where the devices wait for the `share` of the time, at this speed of the training."""
        needed = images_per_second / (1 - share)
        threads = math.ceil(self.threads * needed / max(self.images_per_second, 1e-9))
        if threads > processors and self.read < self.decode:
            remedy = (
                f"that would take {threads} processors, and this machine has {processors}: make the images "
                "smaller once for all (resnet prepare images)"
            )
        elif self.read > self.decode:
            remedy = (
                f"{self.read / (self.read + self.decode):.0%} of it is reading: use a faster disk, or one tar"
            )
        elif threads <= self.threads:
            remedy = "that is fast enough on average: more `parallel.batches_ahead` would do"
        else:
            remedy = f"{threads - self.threads} more `parallel.decoder_threads` would do"
        return (
            f"the devices wait for images {share:.0%} of the time: {self.threads} threads read and decode "
            f"{self.images_per_second:,.0f} images/s, and the steps take {needed:,.0f}; {remedy}"
        )


class Delivery:
    """Makes the batches of a plan, in order; `close` ends its threads."""

    def __init__(self, plan: Iterator[Work], pace: Pace, quiet: bool = True):
        """`quiet` drops the warnings of Pillow."""
        self._plan, self._ahead = plan, pace.ahead
        self._under_way: collections.deque[Work] = collections.deque()
        self._jobs: queue.SimpleQueue[tuple[Work, Callable[[Worker], None]] | None] = queue.SimpleQueue()
        self._closed = False
        self._quiet = contextlib.ExitStack()
        if quiet:
            self._quiet.enter_context(without_warnings())
        self.waited = 0.0
        self.workers = [Worker() for _ in range(pace.threads)]
        # Not an executor, whose threads are waited for at exit, even for one that reads for ever.
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), daemon=True, name="decoder")
            for worker in self.workers
        ]
        for thread in self._threads:
            thread.start()

    def take(self, busy: Callable[[], bool] = lambda: False) -> dict[str, np.ndarray] | None:
        """The next batch, once it is made; None after the last. Raises what a job raised.

        The time is counted as waited for while nothing else is `busy`.
        """
        while len(self._under_way) <= self._ahead and (work := next(self._plan, None)):
            self._under_way.append(work)
            for job in work.jobs:
                self._jobs.put((work, job))
        if not self._under_way:
            return None
        work = self._under_way.popleft()
        began = None if busy() else time.perf_counter()
        while not work.done.wait(LOOK_SECONDS):
            began = began or (None if busy() else time.perf_counter())
            self._look_for_a_stall()
        self.waited += time.perf_counter() - began if began else 0.0
        if work.error:
            raise work.error
        return work.arrays

    @property
    def times(self) -> InputTimes:
        """Where the time went so far."""
        sums = (
            sum(getattr(worker, name) for worker in self.workers) for name in ("images", "read", "decode")
        )
        return InputTimes(*sums, waited=self.waited, threads=len(self.workers))

    def close(self) -> None:
        """Drops what is under way; threads that read are not waited for longer than a moment."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, end - time.monotonic()))
        self._quiet.close()

    def _run(self, worker: Worker) -> None:
        while (item := self._jobs.get()) is not None:
            work, job = item
            error = None
            try:
                if not self._closed and not work.error:
                    job(worker)
            except BaseException as raised:  # it is raised again where the batch is waited for
                error = raised
            work.finish_job(error)

    def _look_for_a_stall(self) -> None:
        for worker in self.workers:
            name, since = worker.reading or ("", 0.0)
            if name and time.monotonic() - since > STALL_SECONDS:
                raise InputError(
                    f"{name} is not read within {STALL_SECONDS:g} s: its file system does not answer; run "
                    "again once it does, and the run goes on from its last checkpoint"
                )
