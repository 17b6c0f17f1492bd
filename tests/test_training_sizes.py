"""Training images that are smaller at first: which sizes there are, when, and in which programs."""

import re

import pytest

from resnet.errors import InputError
from resnet.runtime.devices import make_mesh
from resnet.training import loop
from resnet.training.trainer import Trainer
from tests.test_training_recipes import config_of, trainer_of


def test_images_become_larger_when_they_are_to():
    intervals = trainer_of({"train.smaller_until": (("3 steps", 5), ("50 %", 6))}).intervals
    assert [intervals.side(step) for step in range(8)] == [5, 5, 5, 6, 0, 0, 0, 0]
    assert [intervals.next_pause(step) for step in (0, 2, 3)] == [2, 3, 4]  # the second is a checkpoint
    sides = [intervals.side(step) for step in range(intervals.total)]
    assert intervals.steps_by_side() == {side: sides.count(side) for side in set(sides)}


@pytest.mark.thorough
def test_a_run_trains_at_the_sizes_of_its_steps(tmp_path, monkeypatch):
    """In the program of the smaller side, the net sees images of that side and none of the full one."""
    sides, train = [], Trainer.train

    def noted(self, steps=1, side=0):
        sides.append(side)
        return train(self, steps, side)

    monkeypatch.setattr(Trainer, "train", noted)
    changes = {"train.smaller_until": (("3 steps", 6),), "train.duration": "4 steps"}
    loop.train(config_of(changes), tmp_path, mesh=make_mesh(1))
    assert sides == [6, 6, 6, 0]
    trainer = trainer_of(changes)
    for side, seen in ((6, {"6x6"}), (0, {"8x8"})):  # images of the four channels of the stem
        text = trainer.train(1, side).lower(trainer.shapes, trainer.batch(range(1))).as_text()
        assert {*re.findall(r"tensor<16x([2-9]x[2-9])x4xf32>", text)} == seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.smaller_until": (("2 steps", 8),)}, "`train.smaller_until` must be between 1 and 7; got 8"),
        ({"train.smaller_until": (("4 steps", 5), ("2 steps", 6))}, "must have durations above 0 that grow"),
        ({"train.smaller_until": (("0 steps", 5),)}, "must have durations above 0 that grow"),
        ({"data.random_crop": 8}, "`data.random_crop` must be less than the images' sides, 8x8 pixels; "),
        ({"data.cutout": 8}, "`data.cutout` must be less than the images' sides, 8x8 pixels; got 8"),
        ({"data.augmentation": ("lighting 0.1",)}, "`data.augmentation: lighting` needs images in colour; "),
        (
            {"train.ema": 0.9, "train.ema_every": 10**6},
            "`train.ema_every` must be at most the .* got 1000000",
        ),
        (
            {"train.smaller_until": (("2 steps", 2),), "data.random_crop": 3},
            "`data.random_crop` must be less than .* 2x2",
        ),
        ({"train.smaller_until": (("2 steps", 6),), "data.normalization": "pixel_mean"}, "got pixel_mean"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        trainer_of(changes)
