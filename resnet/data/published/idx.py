"""MNIST and Fashion-MNIST as they are published: four IDX files, gzip or not."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from resnet.data.splits import Source, Split
from resnet.errors import InputError

# Class names in the order of the labels: Xiao 2017 (arXiv 1708.07747), Table 2.
CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
# The first test labels: the files of both sets have the same names.
FIRST = {"mnist": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9), "fashion_mnist": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)}
FILES = {"train": "train", "test": "t10k"}
UINT8 = 8  # IDX's code for unsigned bytes, the one type that these sets have


def find_idx(name: str, folder: Path) -> Path | None:
    """The folder if it holds the files of this set, else None.

    Files of these names may be the other set's: then the test labels begin as that one's do.
    """
    if not _file(folder, "train-images-idx3-ubyte"):
        return None
    try:
        labels = tuple(_read_labels(folder, "test")[:10].tolist())
    except InputError:  # which reading the set says
        return folder
    others = (first for other, first in FIRST.items() if other != name)
    return None if labels in others else folder


def load_idx(name: str, folder: Path) -> Source:
    """Reads both splits; InputError names a file that is missing or damaged."""

    def read(split: str) -> Split:
        images = _read(folder, f"{FILES[split]}-images-idx3-ubyte", 3)
        labels = _read_labels(folder, split)
        if len(images) != len(labels):
            raise InputError(f"{folder}: {len(images)} {FILES[split]} images, but {len(labels)} labels")
        return Split(images[..., None], labels.astype(np.int32))

    return Source(read("train"), read("test"), CLASSES[name])


def _read_labels(folder: Path, split: str) -> np.ndarray:
    return _read(folder, f"{FILES[split]}-labels-idx1-ubyte", 1)


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}.gz", folder / name)
    return next((path for path in paths if path.is_file()), None)


def _read(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """The array in an IDX file: two zero bytes, type, dimensions, sizes (big-endian), then the values."""
    path = _file(folder, name)
    if path is None:
        raise InputError(f"{folder / name}[.gz] is missing")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, UINT8, dimensions)):
        raise InputError(f"{path} is no IDX file of bytes with {dimensions} dimensions; fetch it again")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    if len(content) != header + math.prod(shape):
        raise InputError(
            f"{path} has {len(content) - header} of {math.prod(shape)} bytes of values; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
