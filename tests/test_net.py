"""A net with its weights: many images in parts, and pictures as the evaluation of its run reads them."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import resnet.net
from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_split
from resnet.errors import InputError
from resnet.interop.predict import find_images
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.net import Net
from resnet.run import Run
from resnet.runs.task import Task
from tests.stream_cases import TRAIN, jpeg

CONFIG = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25))
TASK = Task("classification", (16, 16, 3), ("a", "b"), np.zeros(3, np.float32), np.ones(3, np.float32))
MODEL = make_model(CONFIG.model, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_many_images_are_computed_in_parts_of_one_size(monkeypatch, count):
    monkeypatch.setattr(resnet.net, "BATCH", 2)
    net, sizes = Net(MODEL, {}, TASK), set()

    def predict(variables, images):
        sizes.add(len(images))
        return images[:, 0, 0, :2].astype(np.float32)

    net.__dict__["_predict"] = predict
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(net.logits(images), images[:, 0, 0, :2])
    assert sizes == {max(1, min(2, count))}


@pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"])
@pytest.mark.parametrize("fields", [{}, {"eval_crop": 0.8, "eval_size": 24}, {"image_size": 0}])
def test_a_picture_is_read_as_the_evaluation_reads_it(tmp_path, decoder, fields):
    pytest.importorskip("simplejpeg")
    for seed, name in enumerate(TRAIN):
        path = tmp_path / "test" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed, (64, 64)))
    given = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3, "decoder": decoder} | fields
    data = DataConfig(name="image_folder", dir=str(tmp_path), **given)
    split, _ = load_split(data, "test")
    task = dataclasses.replace(TASK, image_shape=split.image_shape)
    net = Run(dataclasses.replace(CONFIG, data=data), task, MODEL, {}, 0, Path()).net
    np.testing.assert_array_equal([net.read(file) for file in find_images([tmp_path])], split.images)


def test_without_its_decoder_a_picture_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.delitem(sys.modules, "simplejpeg")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match="simplejpeg, which .* not installed: .*, of a Net its `decoder`, to"
    ):
        Net(MODEL, {}, TASK, decoder="simplejpeg").read(tmp_path / "a.jpg")
