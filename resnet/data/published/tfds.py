"""Data sets that tensorflow-datasets has prepared, read without TensorFlow."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.images import decode_images
from resnet.data.splits import Source, Split
from resnet.errors import InputError

OWN = "tensorflow_datasets."
FILE_FORMAT = "array_record"  # the one format that tensorflow-datasets reads without TensorFlow

PREPARE_AGAIN = "delete that folder and prepare it again"


def find_version(name: str, root: Path) -> tuple[Path | None, str]:
    """(the newest version of `root`/`name` in our file format, what to say of versions in others)."""
    formats = {}
    for info in (root / name).glob("*/dataset_info.json"):
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name):  # not "3.0.2.incompleteABC"
            formats[info.parent] = json.loads(info.read_text()).get("fileFormat", "tfrecord")
    ready = [folder for folder, file_format in formats.items() if file_format == FILE_FORMAT]
    if ready:
        return max(ready, key=lambda folder: [int(number) for number in folder.name.split(".")]), ""
    others = (
        f"; {folder} is in {other} format, and only {FILE_FORMAT} is read"
        for folder, other in formats.items()
    )
    return None, "".join(others)


def load_prepared(folder: Path) -> Source:
    """Reads a version that was prepared, <data_dir>/<name>/<version>."""
    _check_features(folder)
    import tensorflow_datasets as tfds  # here, because it takes a second and most runs need it not

    logging.info("reading %s", folder)
    builder: Any = tfds.builder_from_directory(folder)
    return Source(
        train=_read_split(builder, "train", folder),
        test=_read_split(builder, "test", folder),
        class_names=tuple(builder.info.features["label"].names),
    )


def _check_features(folder: Path) -> None:
    """Raises InputError if features.json names classes of other packages: the library would import those."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (name for key, name in value.items() if key == "pythonClassName")
            value = list(value.values())
        for item in value if isinstance(value, list) else ():
            yield from names(item)

    path = folder / "features.json"
    try:
        foreign = [name for name in names(json.loads(path.read_text())) if not str(name).startswith(OWN)]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): {PREPARE_AGAIN}") from None
    if foreign:
        raise InputError(
            f"{path} asks for code from elsewhere ({foreign[0]!r}), which is not run: {PREPARE_AGAIN}"
        )


def _read_split(builder: Any, name: str, folder: Path) -> Split:
    from tensorflow_datasets import decode

    try:
        source = builder.as_data_source(name, decoders={"image": decode.SkipDecoding()})
        examples = source.__getitems__(range(len(source)))
    except Exception as error:  # array_record and its file system raise types of their own
        raise InputError(
            f"{name} split of {folder} cannot be read ({' '.join(str(error).split())}): {PREPARE_AGAIN}"
        ) from error
    files = [example["image"] for example in examples]
    if None in files:  # what array_record gives for a record that it cannot read
        raise InputError(f"{name} split of {folder} is damaged: {PREPARE_AGAIN}")
    names = [f"{name} image {index} of {folder}" for index in range(len(files))]
    images, _ = decode_images(files, names, channels=builder.info.features["image"].shape[-1])
    return Split(images, np.array([example["label"] for example in examples], np.int32))
