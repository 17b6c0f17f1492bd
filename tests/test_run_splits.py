"""Tests that evaluation reads exactly the images that a split had when the run was trained."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from resnet.analysis.subject import of_run
from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run, evaluate_run, load_run_split
from resnet.runs.task import task_of
from resnet.training import evaluation as evaluating
from resnet.training.config import TrainConfig
from resnet.training.evaluation import images_at_once
from resnet.training.start import init_variables
from tests.folder_cases import noted
from tests.stream_cases import CLASSES, STATISTICS, TRAIN, VALIDATION, folders, one_tar


def run_on(data: DataConfig, workdir) -> Run:
    """A net at its start, as if it had been trained on the data."""
    config = Config(model=ModelConfig(family="chain", blocks=(1,), width=0.25), data=data)
    config.train.batch_size = 8
    task = task_of(load_dataset(data))
    model = make_model(config.model, task.num_outputs)
    variables = init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    return Run(config, task, model, variables, 7, workdir)


def data_in(place, **fields) -> DataConfig:
    return DataConfig(name="image_folder", dir=str(place), image_size=16, **STATISTICS, **fields)


@pytest.mark.parametrize("make", [folders, one_tar])
@pytest.mark.parametrize("limit", [0, 5])
def test_training_images_are_those_that_were_trained_on(tmp_path, make, limit):
    """None of them are held out, as the data have a validation split of their own."""
    data = data_in(make(tmp_path), train_limit=limit)
    trained = load_dataset(data).train
    images, _ = load_run_split(run_on(data, tmp_path), "train", data)
    np.testing.assert_array_equal(images.files, trained.files)
    assert len(images) == (limit or len(TRAIN))


def test_images_that_were_trained_on_are_no_validation_images(tmp_path):
    data = data_in(folders(tmp_path))
    run = run_on(data, tmp_path)
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(
        InputError, match="the run was trained on all .*, as it had a validation split of its"
    ):
        load_run_split(run, "validation", data)

    with pytest.raises(InputError, match="the run was trained on all .*, or set `data.validation` to 0"):
        load_run_split(run, "train", data)
    images, _ = load_run_split(run, "train", dataclasses.replace(data, validation=0.0))
    assert len(images) == len(TRAIN)


def test_images_that_were_held_out_are_no_training_images(tmp_path):
    """The data have gained validation images since, and hold out none any more."""
    data = data_in(folders(tmp_path / "new"), validation=0.25)
    (tmp_path / "new/val").rename(tmp_path / "val")
    run = run_on(data, tmp_path)
    trained, _ = load_run_split(run, "train", data)
    assert len(trained) == 0.75 * len(TRAIN)
    (tmp_path / "val").rename(tmp_path / "new/val")
    with pytest.raises(
        InputError, match="the run held out a part .*; take that split away, or evaluate on test"
    ):
        load_run_split(run, "train", data)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_another_draw_is_told(tmp_path, monkeypatch, split):
    data = data_in(folders(tmp_path), validation=0.25)
    shutil.rmtree(tmp_path / "val")
    run, lines = run_on(data, tmp_path), noted(monkeypatch)
    load_run_split(run, split, data)
    assert not lines
    load_run_split(run, split, dataclasses.replace(data, split_seed=5))
    assert len(lines) == 1 and "The run was trained on some of these" in lines[0] and "0.25 and 5" in lines[0]


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_images_that_cannot_be_read_are_counted(tmp_path, storage):
    data = data_in(folders(tmp_path), storage=storage, on_bad_image="skip", bad_limit=0.5)
    run = run_on(data, tmp_path)
    (tmp_path / "val" / CLASSES[0] / next(iter(VALIDATION)).split("/")[1]).write_bytes(b"no image")
    found = evaluate_run(run, "validation", dataclasses.replace(data))
    assert (found["n"], found["skipped_images"]) == (len(VALIDATION) - 1, 1)
    found = evaluate_run(run, "train", dataclasses.replace(data))
    assert found["n"] == len(TRAIN) and "skipped_images" not in found


def test_a_question_is_asked_about_images_that_were_moved(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    data = data_in(folders(there))
    run = run_on(data, tmp_path)
    there.rename(here)
    monkeypatch.setattr("resnet.analysis.subject.load", lambda *_: run)
    with pytest.raises(InputError, match=f"there is no folder or tar {there}"):
        of_run("run", "validation", 4)
    asked = of_run("run", "validation", 4, moved={str(there): str(here)})
    assert asked.sample.of_images == len(VALIDATION) and asked.config.data.dir == str(here)
    np.testing.assert_array_equal(asked.beside("another").images, asked.images)
    run.config.data.dir = str(tmp_path / "a third folder")  # of a run beside it, which is not there either
    np.testing.assert_array_equal(asked.beside("another").images, asked.images)
    shutil.rmtree(here / "val")
    with pytest.raises(InputError, match="the run was trained on all images of which"):
        of_run("run", "validation", 4, moved={str(there): str(here)})


@pytest.mark.parametrize(
    ("batch", "accumulate", "devices", "at_once"),
    [
        (128, 1, 1, 128),
        (8192, 1, 1, 256),
        (8192, 1, 8, 2048),
        (8192, 64, 8, 128),
        (10, 1, 4, 12),
        (6, 6, 1, 1),
    ],
)
def test_no_more_images_are_evaluated_at_once_than_trained_on(batch, accumulate, devices, at_once):
    train = TrainConfig(batch_size=batch, accumulate=accumulate)
    assert images_at_once(train, devices) == at_once


def test_parts_of_a_batch_are_evaluated_as_the_whole(tmp_path, monkeypatch):
    sizes, given = [], evaluating.evaluate
    monkeypatch.setattr(
        "resnet.run.evaluate", lambda *_, batch_size, **more: sizes.append(batch_size) or given(
            *_, batch_size=batch_size, **more)
    )  # fmt: skip
    data = data_in(folders(tmp_path))
    run = run_on(data, tmp_path)
    whole = evaluate_run(run, "validation")
    run.config.train.accumulate = 4
    assert evaluate_run(run, "validation") == {**whole, "loss": pytest.approx(whole["loss"], rel=1e-6)}
    assert sizes[0] == 4 * sizes[1]
