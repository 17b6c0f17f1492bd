"""A net with its weights: many images are computed in parts."""

import numpy as np
import pytest

import resnet.net
from resnet.config import Config
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.net import Net
from resnet.runs.task import Task

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
