"""ImageNetV2, ReaL and ImageNet-C by their protocols, with three classes in place of a thousand."""

import dataclasses
import importlib.util
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from resnet.config import Config
from resnet.data.files.delivery import Pace
from resnet.errors import InputError
from resnet.interop import imagenet_sets
from resnet.interop.imagenet_sets import ALEXNET, SEVERITIES, evaluate_on
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run
from resnet.runs.task import Task
from resnet.training.start import init_variables

CLASSES = 12
# As ImageNet's in the order of their numbers, which is not that of their names as text once they are numbers.
WNIDS = tuple(f"n{i:08d}" for i in range(CLASSES))
SIDE = 16


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    monkeypatch.setattr(imagenet_sets, "CLASSES", CLASSES)
    monkeypatch.setattr(imagenet_sets, "SIDE", SIDE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A net that names the class whose number is an image's grey divided by twenty."""
    config = Config(model=ModelConfig(family="chain", blocks=(1,), width=0.25))
    config.data.name, config.data.dir, config.data.image_size = "image_folder", "nowhere", SIDE
    config.data.eval_crop = 0.8
    config.train.batch_size = 8
    task = Task(
        "classification", (SIDE, SIDE, 3), WNIDS, np.zeros(3, np.float32), np.full(3, 255, np.float32)
    )
    model = make_model(config.model, task.num_outputs)
    variables = init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    return Run(config, task, model, variables, 7, tmp_path_factory.mktemp("run"))


def grey(path, value, side=SIDE):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (side, side), (value, value, value)).save(file, "JPEG", quality=95)
    path.write_bytes(file.getvalue())


def answers(run, monkeypatch, of):
    """Makes the net name the class `of(grey)`, in logits."""

    def predict(variables, images, *, model, task, flip):
        return jax.nn.one_hot(of(images[:, 8, 8, 0]), CLASSES)

    monkeypatch.setattr("resnet.training.evaluation.predict", predict)


def number(grey):
    return (grey.astype(int) + 3) // 20


def data(run, root, **fields):
    for name, value in {"dir": str(root), **fields}.items():
        setattr(run.config.data, name, value)
    return run.config.data


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_real"])
def test_images_need_a_size(run, tmp_path, name):
    given = dataclasses.replace(run.config.data, dir=str(tmp_path), image_size=0, eval_crop=0.0)
    with pytest.raises(InputError, match=f"`data.image_size` must be given with --data={name}; got 0"):
        evaluate_on(run, name, given, Pace())


def test_folders_are_classes_by_their_numbers(run, tmp_path, monkeypatch):
    answers(run, monkeypatch, number)
    for k in range(CLASSES):
        grey(tmp_path / str(k) / "a.jpeg", 20 * k)
        grey(tmp_path / str(k) / "b.jpeg", 20 * ((k + 1) % CLASSES))  # looks like another class
    found = evaluate_on(run, "imagenet_v2", data(run, tmp_path), Pace())
    assert found["data"] == "imagenet_v2" and found["n"] == 2 * CLASSES and found["step"] == 7
    assert found["top1"] == pytest.approx(0.5)
    shutil.rmtree(tmp_path / "3")
    with pytest.raises(
        InputError, match="must hold ImageNetV2's folders 0 to 11; it has 11 folders, e.g. 0, 1, 10"
    ):
        evaluate_on(run, "imagenet_v2", data(run, tmp_path), Pace())


@pytest.fixture
def validation(tmp_path):
    """Image i is of class i // 2 and looks like class i % 12; what is right for it is another matter."""
    for i in range(2 * CLASSES):
        grey(tmp_path / "val" / WNIDS[i // 2] / f"ILSVRC2012_val_{i + 1:08d}.JPEG", 20 * (i % CLASSES))
    return tmp_path


def test_any_of_the_reassessed_labels_is_right(run, validation, monkeypatch):
    answers(run, monkeypatch, number)
    lists = [[i % CLASSES, 3] if i % 4 == 0 else [] if i % 4 == 1 else [(i + 1) % CLASSES] for i in range(24)]
    (validation / "real.json").write_text(json.dumps(lists))
    found = evaluate_on(run, "imagenet_real", data(run, validation), Pace())
    assert found == {"data": "imagenet_real", "real": pytest.approx(6 / 18), "n": 18, "step": 7}
    for content, message in (
        ("[[1], [2]]", "ILSVRC2012_val_00000003.JPEG is none of the 2 images that real.json has labels for"),
        ('{"a": 1}', "real.json cannot be read as lists of labels"),
        ("[[", "real.json cannot be read as lists of labels"),
    ):
        (validation / "real.json").write_text(content)
        with pytest.raises(InputError, match=message):
            evaluate_on(run, "imagenet_real", data(run, validation), Pace())
    (validation / "real.json").unlink()
    with pytest.raises(InputError, match="real.json is missing: put the list of ReaL's authors there"):
        evaluate_on(run, "imagenet_real", data(run, validation), Pace())


@pytest.mark.thorough
def test_corruption_errors_are_over_alexnets_and_nothing_is_resized(run, tmp_path, monkeypatch):
    """Under the k-th corruption, k of 12 classes look like another; each severity is alike."""
    answers(run, monkeypatch, number)
    for k, name in enumerate(ALEXNET):
        for severity in SEVERITIES:
            for label in range(CLASSES):
                seen = (label + 1) % CLASSES if label < k else label
                grey(tmp_path / name / severity / WNIDS[label] / "x.JPEG", 20 * seen)
    sizes = []
    monkeypatch.setattr(
        "PIL.Image.Image.resize", lambda image, size, *_: sizes.append((image.size, size)) or image
    )
    found = evaluate_on(run, "imagenet_c", data(run, tmp_path, eval_crop=0.5), Pace())
    assert set(sizes) == {((SIDE, SIDE), (SIDE, SIDE))}
    errors = [min(k, CLASSES) / CLASSES for k in range(len(ALEXNET))]
    ratios = [error / alexnet for error, alexnet in zip(errors, ALEXNET.values(), strict=True)]
    assert found["mce"] == pytest.approx(np.mean(ratios)) and found["error"] == pytest.approx(np.mean(errors))
    assert found["corruptions"]["snow"] == {
        "error": pytest.approx(errors[7]), "ce": pytest.approx(ratios[7])}  # fmt: skip
    assert found["n"] == len(ALEXNET) * len(SEVERITIES) * CLASSES
    shutil.rmtree(tmp_path / "fog" / "4")
    with pytest.raises(InputError, match="must hold ImageNet-C; 1 folders are missing, e.g. .*/fog/4"):
        evaluate_on(run, "imagenet_c", data(run, tmp_path), Pace())


def test_the_denominators_are_the_authors():
    """In per cent, rounded, and their sum to all digits."""
    rounded = [round(100 * error) for error in ALEXNET.values()]
    assert rounded == [89, 89, 92, 82, 83, 79, 80, 87, 83, 82, 56, 85, 65, 72, 61]
    assert sum(ALEXNET.values()) == pytest.approx(11.834896, abs=1e-9)


def test_what_cannot_be_evaluated(run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="`--data` must be one of imagenet_v2, imagenet_real, imagenet_c"):
        evaluate_on(run, "v2", data(run, tmp_path), Pace())
    with pytest.raises(InputError, match="`data.dir` must name the folder of imagenet_v2; got ''"):
        evaluate_on(run, "imagenet_v2", data(run, ""), Pace())
    other = Run(run.config, Task("classification", (8, 8, 3), ("a", "b"), run.task.mean, run.task.std),
                run.model, run.variables, 7, run.workdir)  # fmt: skip
    with pytest.raises(
        InputError, match="is for nets of ImageNet's 12 classes; the run in .* has a classification of 2"
    ):
        evaluate_on(other, "imagenet_v2", data(run, tmp_path), Pace())
    some = dataclasses.replace(data(run, tmp_path), classes=WNIDS[:2])
    with pytest.raises(InputError, match="`data.classes` must be empty with --data=imagenet_v2, .*; got"):
        evaluate_on(run, "imagenet_v2", some, Pace())
    monkeypatch.delitem(sys.modules, "simplejpeg", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="simplejpeg, which this needs, is not installed"):
        evaluate_on(run, "imagenet_v2", dataclasses.replace(some, decoder="simplejpeg"), Pace())
