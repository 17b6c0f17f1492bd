"""A small image folder, and ways to read it."""

import pytest
from absl import logging
from PIL import Image

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.errors import InputError


def save(path, size=(6, 6), color=(10, 20, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def two_classes(root):
    """Two classes, told by their colour: four training and two test images of each."""
    for label, name in enumerate(["cat", "dog"]):
        for index in range(4):
            save(root / "train" / name / f"{index}.png", color=(100 * label, index, 0))
        for index in range(2):
            save(root / "test" / name / f"{index}.png", color=(100 * label, 50 + index, 0))
    return root


def noted(monkeypatch):
    """The lines that the log warns with from now on."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def load(root, validation=0.25, **fields):
    fields |= {"name": "image_folder", "dir": str(root), "validation": validation}
    return load_dataset(DataConfig(**fields))


def refused(root, message, **fields):
    with pytest.raises(InputError, match=message) as raised:
        load(root, **fields)
    assert "\n" not in str(raised.value)
