"""CIFAR-10 and CIFAR-100 in their binary version: one record a picture, its labels and then its pixels.

A record is one byte for the label (CIFAR-100: two, the coarse and the fine one), then 1024 bytes for
each of red, green and blue (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import dataclasses
from pathlib import Path

import numpy as np

from resnet.data.splits import Source, Split
from resnet.errors import InputError

SHAPE = (3, 32, 32)  # channels, height, width in the file


@dataclasses.dataclass(frozen=True)
class RecordLayout:
    """How one of the two lies in files."""

    folder: str
    """In the published archive."""
    train: dict[str, int]
    """File, and how many pictures it holds."""
    test: dict[str, int]
    names: str
    """File of the names of the classes, one a line."""
    labels: int
    """Bytes of labels before each picture; the last of them is the class."""


LAYOUTS = {
    "cifar10": RecordLayout(
        "cifar-10-batches-bin",
        {f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
        {"test_batch.bin": 10_000},
        "batches.meta.txt",
        labels=1,
    ),
    "cifar100": RecordLayout(
        "cifar-100-binary", {"train.bin": 50_000}, {"test.bin": 10_000}, "fine_label_names.txt", labels=2
    ),
}


def cifar_members(name: str) -> tuple[str, ...]:
    """The files that are read, as the archive names them."""
    layout = LAYOUTS[name]
    return tuple(f"{layout.folder}/{file}" for file in (*layout.train, *layout.test, layout.names))


def find_cifar(name: str, folder: Path) -> Path | None:
    """The folder itself, or the one in it that the archive makes, if the first file lies there."""
    layout = LAYOUTS[name]
    first = next(iter(layout.train))
    places = (folder, folder / layout.folder)
    return next((place for place in places if (place / first).is_file()), None)


def load_cifar(name: str, folder: Path) -> Source:
    """Reads both splits; InputError names a file that is missing or damaged."""
    layout = LAYOUTS[name]
    path = folder / layout.names
    try:
        names = tuple(filter(None, path.read_text("utf-8").split("\n")))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again") from None

    def split(files: dict[str, int]) -> Split:
        rows = np.concatenate([_read(folder / file, count, layout.labels) for file, count in files.items()])
        images = rows[:, layout.labels :].reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
        return Split(np.ascontiguousarray(images), rows[:, layout.labels - 1].astype(np.int32))

    return Source(split(layout.train), split(layout.test), names)


def _read(path: Path, count: int, labels: int) -> np.ndarray:
    """The records of a file: [count, bytes]."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); fetch it again") from None
    size = labels + int(np.prod(SHAPE))
    if len(content) != count * size:
        raise InputError(f"{path} has {len(content)} of {count * size} bytes; fetch it again")
    return content.reshape(count, size)
