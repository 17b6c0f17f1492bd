"""All images of a split decoded into memory, by threads."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.files.delivery import Delivery, Pace, Work, Worker
from resnet.data.images import BadImage, Image8, Images, decode_image
from resnet.errors import InputError

CHUNK = 256  # files handed to a thread at once; one by one, the hand-over shows
_CURRENT = threading.local()  # name of the file that a thread is at


def decode_images(
    files: Sequence[Any],  # paths or contents; the type checker of the tests would read one of them
    names: Sequence[str],
    decode: Callable[[Path | bytes, str], Image8] = decode_image,
    *,
    skip: bool = False,
) -> tuple[Images, dict[int, str]]:
    """Decodes all files, if there are any, in threads; all must have the size of the first once decoded.

    `names` stand for the files in errors. With `skip`, what cannot be read is left out, and its place and
    error are returned beside the images of the others.
    """
    bad: dict[int, str] = {}
    if not files:
        return np.empty((0, 0, 0, 3), np.uint8), bad

    def decoded(index: int) -> Image8 | None:
        _CURRENT.name = names[index]
        try:
            return decode(files[index], names[index])
        except BadImage as error:
            if not skip:
                raise
            bad[index] = str(error)
            return None

    def fill(start: int, worker: Worker) -> None:
        for index in range(start, min(start + CHUNK, len(files))):
            with worker.timing(names[index]):
                image = decoded(index)
            if image is None:
                continue
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"{names[index]} is {_size(image)} pixels, but {names[leader]} is {size}: "
                    "set `data.image_size` to resize all images to one size"
                )
            images[index] = image

    with _noted_warnings():
        found = ((index, image) for index in range(len(files)) if (image := decoded(index)) is not None)
        leader, first = next(found, (0, None))
        if first is None:
            raise InputError(f"none of {len(files)} images can be read: {bad[0]}")
        size, images = _size(first), np.empty((len(files), *first.shape), np.uint8)
        jobs = [partial(fill, start) for start in range(0, len(files), CHUNK)]
        with contextlib.closing(Delivery(iter([Work({}, jobs)]), Pace(), quiet=False)) as delivery:
            delivery.take()
    return (np.delete(images, list(bad), axis=0) if bad else images), dict(sorted(bad.items()))


@contextlib.contextmanager
def _noted_warnings() -> Iterator[None]:
    """Logs Pillow's warnings with the name of the file, which Pillow leaves out."""
    noted: dict[str, str] = {}

    def note(message: Warning | str, *_: object) -> None:
        noted[getattr(_CURRENT, "name", "?")] = " ".join(str(message).split())

    with warnings.catch_warnings():
        # Of all threads: filters and this function belong to the process.
        warnings.simplefilter("always")
        warnings.showwarning = note
        yield
    if noted:
        name, message = next(iter(noted.items()))
        logging.warning("%d images are read with a warning, e.g. %s: %s", len(noted), name, message)


def _size(image: Image8) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
