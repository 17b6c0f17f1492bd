"""What a run says of the stream that it trains on: bad images, and how long devices wait for good ones."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.data.files.stream import TrainingStream
from resnet.processors import processors
from resnet.runs.open_run import note_skipped
from resnet.runtime.processes import from_all
from resnet.runtime.progress import Clock

# The log gives advice once the devices wait longer than this share of the time.
MUCH_WAITING = 0.1


class StreamReport:
    """The report of a training's stream of images; of resident images it tells the skipped ones alone."""

    def __init__(self, stream: TrainingStream | None, skipped: Sequence[str], workdirs: Sequence[Path]):
        self.stream, self.skipped, self.workdirs = stream, skipped, workdirs
        self.count = 0
        """Images that were left out, in all sessions."""
        self._advised = False
        self._noted = -1
        self._note()

    def tick(self, clock: Clock, steps: range, metrics: Any) -> tuple[float, float | None]:
        """(images per second, share of the time spent waiting for images) once steps are dispatched."""
        if self.stream is None:
            return clock.tick(steps), None
        self.stream.busy = lambda: not metrics["loss"].is_ready()
        return clock.tick(steps, self.stream.times.waited), clock.waiting

    def pause(self, clock: Clock) -> None:
        """Lists images found bad since the last time; says once what to do where the devices wait much."""
        self._note()
        speed = clock.mean
        if self.stream and speed and clock.waiting > MUCH_WAITING and not self._advised:
            self._advised = True
            own = speed * self.stream.share
            logging.warning("%s", self.stream.times.advice(clock.waiting, own, processors()))

    def _note(self) -> None:
        """Lists what is new; of a stream, each process finds images of its own."""
        skipped = set(itertools.chain(*from_all(self.skipped[:]))) if self.stream else self.skipped
        if len(skipped) > self._noted:
            self._noted = len(skipped)
            self.count = max(note_skipped(workdir, skipped) for workdir in self.workdirs)

    def result(self, clock: Clock) -> dict[str, Any]:
        """What result.json holds of it, None where nothing measures it; seconds are those of all threads."""
        self.pause(clock)
        found: dict[str, Any] = {"skipped_images": self.count} if self.count else {}
        if self.stream:
            times = self.stream.times
            found["input"] = {
                "waiting_share": round(clock.waiting, 4) if clock.steps else None,
                "images_per_second": round(times.images_per_second, 1) if times.images else None,
                "threads": times.threads,
                "read_seconds": round(times.read, 2),
                "decode_seconds": round(times.decode, 2),
            }
        return found
