"""A split whose images stay in their files: each is read and decoded when a batch needs it."""

import contextlib
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float64, Int, Int32, UInt64

from resnet.data.files.crops import DRAWS, Cut, Fitted, Middle, RandomPart
from resnet.data.files.decoders import PILLOW, decode_cut
from resnet.data.files.delivery import Delivery, InputTimes, Pace, Work, Worker
from resnet.data.files.listing import Listing, fingerprint_of_files
from resnet.data.images import AwayImage, BadImage, Image8, Images
from resnet.data.order import batch_places, epoch_order
from resnet.data.streams import CROP, host_draws
from resnet.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is cut out of an image."""

    train: int
    """Side of a training image in pixels."""
    least_area: float
    """Least share of the area of a random-resized crop; 0: the middle is taken, as in memory."""
    evaluate: int
    """Side of an image that is evaluated."""
    share: float
    """`evaluate` over the shorter side that the image is resized to; 0: the whole middle."""
    decoder: str = PILLOW

    @property
    def cut_anew(self) -> bool:
        """Whether the same decoded image cannot serve every batch."""
        return bool(self.least_area or self.share or self.evaluate != self.train)

    def for_training(self, draws: Float64[np.ndarray, "10 4"]) -> Cut:
        """What is cut out of an image for training, by draws of its place."""
        return RandomPart(self.train, self.least_area, draws) if self.least_area else Fitted(self.train)

    @property
    def for_evaluation(self) -> Cut:
        """What is cut out of an image for evaluation."""
        return Middle(self.evaluate, self.share) if self.share else Fitted(self.evaluate)


# An image file, by its number in the listing: in a tar, several may have one name.
_File = tuple[Listing, int]


class BadImages(Sequence[str]):
    """The images that could not be read so far, each with its reason, sorted. More may follow."""

    def __init__(self, limit: float):
        """`limit` is the share of a training split that may be bad."""
        self.limit = limit
        self._found: dict[_File, str] = {}
        self._for_good: set[_File] = set()
        self._for_training: set[_File] = set()
        self._too_many = ""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        return sorted(self._found.values())[index]

    def note(self, file: _File, error: BadImage) -> None:
        """Adds an image. One that is only away is tried again when its turn comes."""
        with self._lock:
            if not isinstance(error, AwayImage):
                self._for_good.add(file)
            if file in self._found:
                return
            self._found[file] = str(error)
        logging.warning("an image is left out: %s", error)

    def count(self, file: _File, among: int) -> None:
        """Counts a bad image of a training split of so many; InputError where too many of them are bad."""
        with self._lock:
            self._for_training.add(file)
            count = len(self._for_training)
            # Threads find further ones before the first error ends them: all say what it said.
            if count > self.limit * among and not self._too_many:
                self._too_many = (
                    f"{count} of {among:,} training images cannot be read, more than `data.bad_limit` allows "
                    f"({self.limit:g} of them); the last: {self._found[file]}"
                )
        if self._too_many:
            raise InputError(self._too_many)

    def knows(self, file: _File) -> bool:
        """Whether an image has been found bad for good."""
        return file in self._for_good


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSplit:
    """Images that are read and decoded anew for each batch, and their labels; the interface of a Split."""

    listing: Listing
    entries: Int[np.ndarray, " n"]
    """Which files of the listing."""
    sizes: Sizes
    labels: Int32[np.ndarray, " n"]
    """Classes."""
    bad: BadImages

    @functools.cached_property
    def files(self) -> UInt64[np.ndarray, "n 2"]:
        """A hash of each file's class and name, and its size in bytes."""
        return self.listing.files[self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: slice | Int[np.ndarray, " m"]) -> "StreamSplit":
        return dataclasses.replace(self, entries=self.entries[index], labels=self.labels[index])

    @property
    def fingerprint(self) -> str:
        """Tells these images from others, by names, sizes and labels; as that of the same files in memory."""
        return fingerprint_of_files(self.files, self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of a training image."""
        return self.sizes.train, self.sizes.train, 3

    @property
    def images(self) -> Images:
        """The images as they are evaluated, decoded now; for samples. InputError for one that is bad."""
        found = np.empty((len(self), self.sizes.evaluate, self.sizes.evaluate, 3), np.uint8)

        def job(row: int, worker: Worker) -> None:
            found[row] = self._decoded(row, worker, None)

        jobs = [functools.partial(job, row) for row in range(len(self))]
        with contextlib.closing(Delivery(iter([Work({}, jobs)]), Pace())) as delivery:
            delivery.take()
        return found

    def training_work(
        self, seeds: Sequence[int], step: int, batch: int, rows: Sequence[int], repeats: int = 1
    ) -> Work:
        """The batch of a step: {"image": [seeds, batch, h, w, c], "label", "place"}; `rows` are filled.

        Images and crops are functions of (seed, step, place). The place of an image that cannot be read
        takes the next in the order of the epoch.
        """
        images = np.empty((len(seeds), batch, *self.image_shape), np.uint8)
        labels, taken = (np.zeros((len(seeds), batch), np.int32) for _ in range(2))
        epoch, places = batch_places(step, len(self), batch, repeats)

        def job(i: int, row: int, order: np.ndarray, draws: np.ndarray, worker: Worker) -> None:
            first = int(places[row])
            for at in range(first, first + len(self)):
                example = int(order[at % len(self)])
                image = self._or_none(example, worker, draws, among=len(self))
                if image is not None:
                    images[i, row], labels[i, row], taken[i, row] = image, self.labels[example], example
                    return
            raise InputError(f"none of {len(self)} training images can be read: {self.bad[0]}")

        jobs = []
        for i, seed in enumerate(seeds):
            order = epoch_order(seed, epoch, len(self))
            draws = host_draws(seed, CROP, step, batch * math.prod(DRAWS)).reshape(batch, *DRAWS)
            jobs += [functools.partial(job, i, row, order, draws[row]) for row in rows]
        return Work({"image": images, "label": labels, "place": taken}, jobs)

    def evaluation_work(self, start: int, batch: int, rows: Sequence[int], among: int = 0) -> Work:
        """A batch from the example `start` on: {"image", "label", "mask"}, of which `rows` are filled.

        The mask is 0 where there is no example, and where it cannot be read; `among` as in `padded`.
        """
        images = np.zeros((batch, self.sizes.evaluate, self.sizes.evaluate, 3), np.uint8)
        labels, mask = np.zeros(batch, np.int32), np.zeros(batch, np.float32)

        def job(row: int, worker: Worker) -> None:
            image = self._or_none(start + row, worker, None, among)
            if image is not None:
                images[row], labels[row], mask[row] = image, self.labels[start + row], 1

        jobs = [functools.partial(job, row) for row in rows if start + row < len(self)]
        return Work({"image": images, "label": labels, "mask": mask}, jobs)

    def padded(
        self, batch: int, pace: Pace, among: int = 0
    ) -> Iterator[tuple[Images, Int32[np.ndarray, " b"], Any]]:
        """Each example once, in order, as batches.padded_batches has them; the next ones under way.

        Bad images count towards `data.bad_limit` of `among` training images; 0: they do not count.
        """
        rows = pace.needed(batch)
        plan = (self.evaluation_work(start, batch, rows, among) for start in range(0, len(self), batch))
        with contextlib.closing(Delivery(plan, pace)) as delivery:
            while found := delivery.take():
                yield found["image"], found["label"], found["mask"]

    def _or_none(self, example: int, worker: Worker, draws: np.ndarray | None, among: int) -> Image8 | None:
        """The image; None, once it is noted, if it cannot be read."""
        file = self.listing, int(self.entries[example])
        if not self.bad.knows(file):
            try:
                return self._decoded(example, worker, draws)
            except BadImage as error:
                self.bad.note(file, error)
        if among:
            self.bad.count(file, among=among)
        return None

    def _decoded(self, example: int, worker: Worker, draws: np.ndarray | None) -> Image8:
        """The image for training if there are draws, else for evaluation."""
        entry, sizes = int(self.entries[example]), self.sizes
        name = self.listing.name(entry)
        cut = sizes.for_evaluation if draws is None else sizes.for_training(draws)
        with worker.timing(name) as is_read:
            content = self.listing.read(entry)
            is_read()
            return decode_cut(content, name, cut, sizes.decoder)


class TrainingStream:
    """The batches of a training, from whatever step they are asked for; `close` ends its threads."""

    def __init__(
        self, split: StreamSplit, seeds: Sequence[int], batch: int, total: int, pace: Pace, repeats: int = 1
    ):
        """`total` is the number of steps of the training; `repeats` are as in order.batch_places."""
        self.split, self.seeds, self.batch, self.total, self.pace = split, seeds, batch, total, pace
        self.repeats = repeats
        self._next = -1
        self._delivery: Delivery | None = None
        self._earlier = InputTimes(0, 0.0, 0.0, 0.0, pace.threads)
        self.busy: Callable[[], bool] = lambda: False
        """Whether the devices have something to do, so that no batch is waited for."""

    def take(self, steps: range) -> dict[str, np.ndarray]:
        """{"image": [seeds, steps, batch, h, w, c], "label", "place"} of these steps."""
        if self._delivery is None or steps.start != self._next:
            self.close()
            rows = self.pace.needed(self.batch)
            plan = (
                self.split.training_work(self.seeds, step, self.batch, rows, self.repeats)
                for step in range(steps.start, max(self.total, steps.stop))
            )
            self._delivery = Delivery(plan, self.pace)
            self._say_what_it_takes(len(steps))
        found = [batch for _ in steps if (batch := self._delivery.take(self.busy))]
        self._next = steps.stop
        if len(found) == 1:
            return {name: array[:, None] for name, array in found[0].items()}
        return {name: np.stack([batch[name] for batch in found], 1) for name in found[0]}

    def held(self, steps: int) -> tuple[int, int]:
        """(batches held in memory at once where a call takes so many steps, bytes of one batch)."""
        images = len(self.pace.needed(self.batch)) * len(self.seeds)
        taken = 1 if steps == 1 else 2 * steps  # several are copied into one array
        return self.pace.ahead + 1 + taken, images * math.prod(self.split.image_shape)

    def _say_what_it_takes(self, steps: int) -> None:
        batches, size = self.held(steps)
        several = f"; {len(self.seeds)} seeds have an order each, so each image is decoded as often"
        orders = several if len(self.seeds) > 1 else ""
        logging.info(
            "%d threads decode; with the batches ahead, %d batches of %.1f MB are held%s",
            self.pace.threads, batches, size / 1e6, orders,
        )  # fmt: skip

    def now(self, seed: int, step: int, count: int) -> dict[str, np.ndarray]:
        """The first `count` examples of a step's batch, beside the order."""
        rows = range(min(count, self.batch))
        whole = self.split.training_work([seed], step, self.batch, rows, self.repeats).now()
        return {name: array[0, :count] for name, array in whole.items()}

    @property
    def share(self) -> float:
        """The share of a batch's images that this process decodes."""
        return len(self.pace.needed(self.batch)) / self.batch

    @property
    def times(self) -> InputTimes:
        """Where the time went so far."""
        return self._earlier + self._delivery.times if self._delivery else self._earlier

    def close(self) -> None:
        """Ends the threads; a later call of `take` begins again."""
        if self._delivery:
            self._delivery.close()
            self._earlier = self.times
        self._delivery = None
