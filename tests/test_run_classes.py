"""A run is evaluated on data with some of its classes: labels by their names, predictions among all."""

import dataclasses

import numpy as np
import pytest

from resnet.errors import InputError
from resnet.run import evaluate_run, load, load_run_split, with_labels_of
from resnet.training.loop import train
from tests.studies_cases import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny_config(), workdir)
    return load(workdir)


def test_some_of_the_classes(run, caplog):
    caplog.set_level("INFO", logger="absl")
    chosen = dataclasses.replace(run.config.data, classes=("7", "3"), train_limit=0)
    images, _ = load_run_split(run, "test", chosen)
    whole, _ = load_run_split(run, "test", run.config.data)
    assert "have 2 of the 10 classes that the net chooses from" in caplog.text
    kept = np.isin(whole.labels, (3, 7))
    np.testing.assert_array_equal(np.sort(images.labels), np.sort(whole.labels[kept]))
    metrics = evaluate_run(run, data=chosen)
    right = run.logits(whole.images[kept]).argmax(1) == whole.labels[kept]
    assert metrics["n"] == kept.sum() and metrics["top1"] == pytest.approx(right.mean())


@pytest.mark.parametrize("names", [None, ("7", "3")])
def test_the_accuracy_of_each_class(run, names):
    """The counts are those of single images, whatever the batches and devices; empty classes are left out."""
    data = dataclasses.replace(run.config.data, classes=names or ())
    images, _ = load_run_split(run, "test", data)
    found = evaluate_run(run, data=data, by_class=True)
    right = run.logits(images.images).argmax(1) == images.labels
    expected = {
        run.task.class_names[k]: {"top1": pytest.approx(right[images.labels == k].mean()), "n": n}
        for k, n in enumerate(np.bincount(images.labels))
        if n
    }
    assert found.pop("by_class") == expected and len(expected) == len(names or range(10))
    assert found == evaluate_run(run, data=data)


def test_real_values_have_no_classes(run):
    angles = dataclasses.replace(run.task, class_names=(), kind="regression")
    with pytest.raises(InputError, match="`by_class` is for classes, and this run's labels are real values"):
        evaluate_run(dataclasses.replace(run, task=angles), by_class=True)


def test_a_class_that_the_run_does_not_know_is_named(run):
    images, _ = load_run_split(run, "test", run.config.data)
    with pytest.raises(
        InputError, match="rename 'eleven' as the run has it, or leave it out by `data.classes`"
    ):
        with_labels_of(images, ("3", "eleven"), run.task.class_names)
