"""Predictions on files: the same as in evaluation, for every file once, in every format."""

import csv
import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from resnet.cli.commands.predict import FORMATS
from resnet.config import Config
from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.interop import predict
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run, evaluate_run
from resnet.runs.task import task_of
from resnet.training.start import init_variables
from tests.folder_cases import two_classes
from tests.test_command import assert_refused


@pytest.fixture(scope="module")
def run():
    config = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25))
    config.data.train_limit = 32
    task = task_of(load_dataset(config.data))
    model = make_model(config.model, task.num_outputs)
    variables = init_variables(jax.random.key(0), model=model, image_shape=task.image_shape)
    return Run(config, task, model, variables, 0, Path())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    (root / "inner").mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png", "inner/c.png"):
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(root / name)
    Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(root / "large.png")
    return root


def test_batches_change_nothing_and_every_file_comes_once(run, folder, monkeypatch):
    files = predict.find_images([folder, folder / "a.png"])
    assert [file.name for file in files] == ["a.png", "b.png", "c.png", "large.png", "a.png"]
    seen = []
    monkeypatch.setattr(predict, "BATCH", 2)
    predictions = predict.predict_files(run, files, top=10, progress=seen.append)
    assert seen == [2, 4, 5] and [Path(p.file) for p in predictions] == files
    assert predictions[0].classes == predictions[4].classes
    image = run.net.read(files[0])
    logits = run.logits(image[None])[0]
    for prediction in predictions[:1]:
        expected = np.exp(logits) / np.exp(logits).sum()
        names = [name for name, _ in prediction.classes]
        assert names == [run.task.class_names[k] for k in np.argsort(-logits)]
        np.testing.assert_allclose([value for _, value in prediction.classes], np.sort(expected)[::-1], 1e-5)


def test_with_eval_flip_predictions_are_those_of_the_evaluation(run):
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, eval_flip=True))
    config.train.batch_size = 32
    flipped, held_out = dataclasses.replace(run, config=config), load_dataset(config.data).validation
    said = predict._answers(flipped, flipped.logits(held_out.images), top=10)
    right = [dict(each)[run.task.class_names[k]] for each, k in zip(said, held_out.labels, strict=True)]
    assert -np.log(right).mean() == pytest.approx(evaluate_run(flipped, "validation")["loss"], rel=1e-5)
    assert abs(flipped.logits(held_out.images) - run.logits(held_out.images)).max() > 1e-3


def test_outputs_of_squared_error_are_probabilities_as_they_are(run):
    """Outputs below 0 and above 1 become 0 and 1. A softmax would make 0.23 of a sure answer in ten."""
    config = dataclasses.replace(run.config, model=dataclasses.replace(run.config.model, output="identity"))
    logits = np.zeros((1, run.task.num_outputs), np.float32)
    logits[0, :3] = 1.25, 0.5, -0.25
    (said,) = predict._answers(dataclasses.replace(run, config=config), logits, top=2)
    assert said == ((run.task.class_names[0], 1.0), (run.task.class_names[1], 0.5))


def test_links_are_followed_once(folder, tmp_path):
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "round").symlink_to(tmp_path)
    assert len(predict.find_images([tmp_path])) == len(predict.find_images([folder])) == 4


def test_no_image_is_left_out_in_silence(run, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "all")
    (tmp_path / "all" / "inner" / "gone.png").symlink_to(tmp_path / "nowhere")
    files = predict.find_images([tmp_path / "all"])
    assert len(files) == 5
    with pytest.raises(InputError, match=r"inner/gone\.png cannot be read \(No such file or directory\)"):
        predict.predict_files(run, files)
    scandir = os.scandir

    def refused(path):
        if Path(path).name == "inner":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    for given in (tmp_path / "all", tmp_path / "all" / "inner"):
        with pytest.raises(InputError, match=r"folder .*/all/inner cannot be read \(Permission denied\)"):
            predict.find_images([given])


def test_files_that_are_no_images_by_their_names_are_told(folder, tmp_path, caplog):
    predict.find_images([folder])
    assert not caplog.text
    shutil.copytree(folder, tmp_path / "all")
    for name in ("b.gif", "a.webp", ".hidden.txt"):
        (tmp_path / "all" / "inner" / name).touch()
    assert len(predict.find_images([tmp_path / "all"])) == 4
    assert f"ignoring 2 files not in .jpg, .jpeg, .png, e.g. {tmp_path}/all/inner/a.webp" in caplog.text


def test_bad_images(run, folder, tmp_path):
    with pytest.raises(InputError, match="there is no image or folder"):
        predict.find_images([folder / "none.png"])
    with pytest.raises(InputError, match="holds no image"):
        predict.find_images([tmp_path])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png is not a JPEG or PNG image"):
        predict.predict_files(run, predict.find_images([tmp_path]))
    for top in (0, 11):
        with pytest.raises(InputError, match=f"`top` must be from 1 to 10, the outputs .*; got {top}"):
            predict.predict_files(run, [folder / "a.png"], top=top)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"half\.jpg (cannot be decoded|is not a JPEG)"):
        predict.predict_files(run, [tmp_path / "half.jpg"])


def test_one_bad_file_does_not_stop_the_others(run, folder, tmp_path, monkeypatch, caplog):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for name in ("._a.png", ".ipynb_checkpoints/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"resource fork")
    (tmp_path / "aa.png").write_text("no picture")
    files = predict.find_images([tmp_path])
    assert [file.name for file in files] == ["a.png", "aa.png", "b.png"]
    with pytest.raises(InputError, match=r"aa\.png is not .*, or leave such .* --on_bad_image=skip"):
        predict.predict_files(run, files)
    seen = []
    monkeypatch.setattr(predict, "BATCH", 2)
    found = predict.predict_files(run, files, on_bad_image="skip", progress=seen.append)
    assert [Path(p.file).name for p in found] == ["a.png", "b.png"] and seen == [2, 3]
    assert f"left out: {tmp_path}/aa.png is not a JPEG or PNG image" in caplog.text
    alone = [predict.predict_files(run, [file])[0].classes for file in (files[0], files[2])]
    assert [p.classes[0][0] for p in found] == [classes[0][0] for classes in alone]
    with pytest.raises(InputError, match="none of 1 images can be read"):
        predict.predict_files(run, [tmp_path / "aa.png"], on_bad_image="skip")
    with pytest.raises(InputError, match="`--on_bad_image` must be one of error, skip; got 'ignore'"):
        predict.predict_files(run, files, on_bad_image="ignore")


def test_another_normalization_is_refused_in_evaluation(run):
    data = dataclasses.replace(run.config.data, normalization="none")
    with pytest.raises(InputError, match="`data.normalization` is channel in this run, .*; got 'none'"):
        evaluate_run(run, data=data)
    with pytest.raises(InputError, match="name at least one image"):
        predict.predict_files(run, [])


def test_a_grey_net_is_not_evaluated_on_files(run, tmp_path):
    data = DataConfig(name="image_folder", dir=str(two_classes(tmp_path)), image_size=8, mean=(0.5,) * 3)
    data.std = (0.25,) * 3
    with pytest.raises(
        InputError, match=r"\(8, 8, 1\), this data has \(8, 8, 3\); evaluate on data with as many channels"
    ):
        evaluate_run(run, data=data)


def test_a_contact_sheet(run, folder, tmp_path):
    predictions = predict.predict_files(run, predict.find_images([folder]))
    predict.contact_sheet(run, predictions, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 100
    with pytest.raises(InputError, match="cannot write"):
        predict.contact_sheet(run, predictions, folder / "a.png" / "sheet.png")


def test_formats_say_the_same(run, folder):
    predictions = predict.predict_files(run, predict.find_images([folder]), top=3)
    loaded = json.loads(FORMATS["json"](predictions, run.task))
    rows = list(csv.DictReader(FORMATS["csv"](predictions, run.task).splitlines()))
    assert len(loaded) == len(rows) == 4
    for row, item, prediction in zip(rows, loaded, predictions, strict=True):
        assert row["file"] == item["file"] == prediction.file
        best = item["classes"][0]
        assert row["class1"] == best["name"]
        assert float(row["probability1"]) == pytest.approx(best["probability"])
        assert prediction.file in FORMATS["table"](predictions, run.task)


def test_formats_call_the_answer_of_a_regression_what_it_is(run):
    angles = dataclasses.replace(run.task, kind="regression", class_names=(), unit="degrees")
    found = [predict.Prediction("a.png", (("degrees", -12.5),))]
    assert json.loads(FORMATS["json"](found, angles)) == [
        {"file": "a.png", "unit": "degrees", "value": -12.5}
    ]
    assert FORMATS["csv"](found, angles).splitlines() == ["file,unit,value", "a.png,degrees,-12.5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir=… is missing"),
        (["--workdir=none", "--format=xml"], "`--format` must be one of table, csv, json"),
        (["--workdir=none", "--sheet=x.jpg"], "--sheet: the file to write must end in .png; got 'x.jpg'"),
        (["--workdir=none", "none.png"], "there is no image or folder none.png"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, capsys):
    assert_refused(monkeypatch, capsys, message, "predict", *arguments)
