"""SVHN, cropped digits, as published: a MATLAB file for each split, in which ten stands for the digit 0.

http://ufldl.stanford.edu/housenumbers
"""

from pathlib import Path

import numpy as np

from resnet.data.splits import Source, Split
from resnet.errors import InputError

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}


def find_svhn(name: str, folder: Path) -> Path | None:
    """The folder, if the training file lies there."""
    return folder if (folder / FILES["train"]).is_file() else None


def load_svhn(name: str, folder: Path) -> Source:
    """Reads both splits; InputError names a file that is missing or damaged."""
    splits = (_read(folder / file) for file in FILES.values())
    return Source(*splits, class_names=tuple("0123456789"))


def _read(path: Path) -> Split:
    from scipy import io  # here, because it takes a moment and most runs need it not

    try:
        found = io.loadmat(path, variable_names=("X", "y"))
        images, labels = found["X"], found["y"]
    except Exception as error:  # SciPy's reader raises many types on a broken file
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())}); fetch it again") from None
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or labels.size != images.shape[-1]:
        raise InputError(
            f"{path} holds images {images.dtype}{list(images.shape)} and {labels.size} labels, where "
            "uint8[32, 32, 3, n] and n are published; fetch it again"
        )
    return Split(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.ravel().astype(np.int32) % 10)
