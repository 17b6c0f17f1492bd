"""Runs that were imported with the names of their classes alone: the data come later."""

import jax
import numpy as np
import pytest

from resnet.config import Config, replaced
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.interop.convert import import_weights
from resnet.models.config import ModelConfig
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.task import Task, load_task
from resnet.training.loop import train
from resnet.weights import files
from resnet.weights.state_dict import to_state_dict
from tests.folder_cases import save, two_classes

NAMES = ("cat", "dog")


def config_of(**data) -> Config:
    config = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25, bn_unbiased=True, pad_side="both"))
    config.train.batch_size, config.train.duration = 4, "2 steps"
    given = {"mean": (0.5,) * 3, "std": (0.25,) * 3, **data}
    return replaced(config, {f"data.{name}": value for name, value in given.items()})


@pytest.fixture
def imported(tmp_path):
    """Imports weights of two classes into a folder, by a config; returns its task."""

    def make(config: Config, workdir, names=NAMES) -> Task:
        task = Task("classification", (6, 6, 3), names, np.zeros(3), np.zeros(3))
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variable_shapes(config, task))
        source, classes = tmp_path / "source.safetensors", tmp_path / "classes.txt"
        files.write_safetensors(source, to_state_dict(config.model, variables, "cifar"), {})
        classes.write_text("\n".join(names), encoding="utf-8")
        import_weights(source, config, workdir, classes=classes)
        return load_task(workdir)

    return make


@pytest.mark.thorough
def test_the_first_data_that_it_is_trained_on_are_its_own(imported, tmp_path):
    here = {"name": "image_folder", "image_size": 6, "validation": 0.25}
    begun = imported(config_of(**here, dir="none"), tmp_path / "run")
    root = two_classes(tmp_path / "data")
    config = config_of(**here, dir=str(root))
    held_out = load_dataset(config.data).held_out_by
    train(config, tmp_path / "run")
    task = load_task(tmp_path / "run")
    assert begun.held_out_by == task.held_out_by == held_out == "name"
    assert not begun.fingerprint and task.fingerprint == load_dataset(config.data).fingerprint
    save(root / "train" / "cat" / "new.png")
    longer = replaced(config, {"train.duration": "4 steps"})
    with pytest.raises(InputError, match="holds a run that began with other data; train: "):
        train(longer, tmp_path / "run")


def test_published_data_need_not_be_at_hand(imported, tmp_path):
    names = tuple(map(str, range(10)))
    task = imported(config_of(name="cifar10", dir=str(tmp_path / "none")), tmp_path / "run", names)
    assert task.image_shape == (32, 32, 3) and task.mean.tolist() == [127.5] * 3


@pytest.mark.parametrize(("field", "value"), [("init_from", "runs/a"), ("init_whitened", 8)])
def test_weights_from_elsewhere_are_refused(imported, tmp_path, field, value):
    config = replaced(config_of(name="cifar10"), {field: value})
    with pytest.raises(
        InputError, match=f"`{field}` must be .*, as all weights are those of .*; got {value!r}"
    ):
        imported(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "cifar10", "std": ()}, "--classes takes the place of the data, and needs `data.std` too"),
        ({"name": "image_folder", "dir": "none"}, "needs `data.image_size` too"),
        ({"name": "cifar10", "mean": (0.5,)}, "`data.mean` must have one value for each of 3 channels"),
    ],
)
def test_what_the_data_would_say_is_asked_for(imported, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        imported(config_of(**fields), tmp_path / "run")
