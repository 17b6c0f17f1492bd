"""A run keeps the data it began with: others are noticed, and classes are told apart by name."""

import collections
import copy
import dataclasses
import json
import pickle
import re
import shutil
from random import Random

import jax
import numpy as np
import pytest
from PIL import Image

from resnet.config import Config, save_config
from resnet.data.datasets import load_dataset
from resnet.data.splits import NAME, PLACE, stratified_order
from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.run import Run, evaluate_run, load_run_split
from resnet.runs.checkpoints.restore import variable_shapes
from resnet.runs.open_run import outcome
from resnet.runs.task import begin_task, load_run_data, load_task, task_of
from resnet.training.loop import train
from tests.tally import record, tries


def save(path, red, green):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, green, 0)).save(path)
    path.write_bytes(path.read_bytes().ljust(128, b"\0"))  # all of one size


@pytest.fixture
def root(tmp_path):
    """Two classes, told by their colour: twelve training and two test images of each."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(12):
            save(tmp_path / "data" / "train" / name / f"{index}.png", 100 * label, index)
        for index in range(2):
            save(tmp_path / "data" / "test" / name / f"{index}.png", 100 * label, 50 + index)
    return tmp_path / "data"


@pytest.fixture
def config(root):
    config = Config(model=ModelConfig(blocks=(1, 1, 1), width=0.25))
    config.data.name, config.data.dir, config.data.validation = "image_folder", str(root), 0.25
    config.train.batch_size, config.train.duration = 4, "1 step"
    return config


@pytest.fixture
def workdir(config, tmp_path):
    """A run of that config that has begun, and has no checkpoint yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    save_config(config, folder)
    begin_task(task_of(load_dataset(config.data)), folder)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock.json"}


def images_of(split):
    return {tuple(image[0, 0]) for image in split.images}


def pairs_of(split):
    pixels = (tuple(image[0, 0]) for image in split.images)
    return sorted(zip(pixels, split.labels, strict=True))


# What is held out


def test_a_file_renamed_or_added_elsewhere_leaves_the_others(root, config):
    before = load_dataset(config.data)
    (root / "train" / "cat" / "3.png").rename(root / "train" / "cat" / "moved.png")
    save(root / "train" / "dog" / "00.png", 100, 200)
    after = load_dataset(config.data)
    changed = {(0, 3, 0), (100, 200, 0)}
    assert images_of(before.validation) - changed == images_of(after.validation) - changed
    assert images_of(before.train) - changed == images_of(after.train) - changed


def test_a_run_begun_before_keeps_the_split_it_has(config, workdir):
    saved = json.loads((workdir / "task.json").read_text())
    assert saved["held_out_by"] == NAME
    every = load_dataset(copy.copy(config.data), PLACE)
    old = {name: value for name, value in saved.items() if name not in ("fingerprint", "held_out_by")}
    old |= {"mean": every.mean.tolist(), "std": every.std.tolist()}
    (workdir / "task.json").write_text(json.dumps(old))
    data = load_run_data(config.data, [workdir])
    assert data.held_out_by == PLACE and not load_task(workdir).fingerprint
    labels = np.repeat([0, 1], 12).astype(np.int32)
    places = stratified_order(labels, 0)[:6]
    # Files are read in the order of their names, as text.
    greens = sorted(range(12), key=str) * 2
    assert [(image[0, 0, 0], image[0, 0, 1]) for image in data.validation.images] == [
        (100 * labels[place], greens[place]) for place in places
    ]


# A run that is taken up again


def rename_class(root):
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "emu")


def add_class(root):
    for split in ("train", "test"):
        save(root / split / "emu" / "0.png", 9, 9)


CHANGES = {
    "class renamed": (rename_class, r"classes: \(cat, dog\) then, \(dog, emu\) now"),
    "class added": (add_class, r"classes: \(cat, dog\) then, \(cat, dog, emu\) now"),
    "image added": (
        lambda root: save(root / "train" / "cat" / "new.png", 7, 7),
        "train: 24 images, sha256 [0-9a-f]+ then, 25 images, sha256 [0-9a-f]+ now",
    ),
    "image removed": (lambda root: (root / "test" / "dog" / "1.png").unlink(), "test: 4 images.*, 3 images"),
    "no test": (lambda root: shutil.rmtree(root / "test"), "test: 4 images, .* then, none now"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_data_are_refused_and_nothing_is_written(root, config, workdir, name):
    change, message = CHANGES[name]
    before = contents(workdir)
    change(root)
    with pytest.raises(InputError, match=f"holds a run that began with other data; .*{message}") as raised:
        train(config, workdir)
    assert "\n" not in str(raised.value) and contents(workdir) == before
    shown = re.findall(r"(?:; |: )\w+: (.*?) then, (.*?) now", str(raised.value))
    assert shown and all(then != now for then, now in shown)


def edits(root, random):
    """A random change of a folder: of one image, of a class in all splits, or of nothing that counts."""
    images = sorted(root.rglob("[0-9]*.png"))
    image = random.choice(images)
    other = image.with_name(f"{random.randrange(10**6)}.png")
    kind = random.choice(["rename", "remove", "add", "larger", "rename class", "hidden", "touch", "again"])
    if kind == "rename":
        image.rename(other)
    elif kind == "remove":
        image.unlink()
    elif kind == "add":
        shutil.copy(image, other)
    elif kind == "larger":
        image.write_bytes(image.read_bytes() + b"\0")
    elif kind == "rename class":
        for folder in root.glob(f"*/{image.parent.name}"):
            folder.rename(folder.with_name(f"{image.parent.name}s"))
    elif kind == "hidden":
        image.with_name("._" + image.name).write_bytes(b"resource fork")
    elif kind == "touch":
        image.touch()
    else:
        image.write_bytes(image.read_bytes())


def test_whatever_changes_is_noticed(root, config, workdir, tmp_path):
    def seen(folder):
        return {
            (path.relative_to(folder), path.stat().st_size)
            for path in folder.rglob("*.png")
            if not path.name.startswith(".")
        }

    counts, before = collections.Counter(), contents(workdir)
    for seed in range(tries(10)):
        random = Random(seed)
        config.data.dir = str(shutil.copytree(root, tmp_path / str(seed)))
        for _ in range(random.randint(1, 3)):
            edits(tmp_path / str(seed), random)
        if seen(tmp_path / str(seed)) == seen(root):
            load_run_data(config.data, [workdir])
            counts["went on with what had not changed"] += 1
        else:
            with pytest.raises(InputError, match="holds a run that began with other data; "):
                load_run_data(config.data, [workdir])
            counts["refused"] += 1
        shutil.rmtree(tmp_path / str(seed))
    assert contents(workdir) == before and len(counts) == 2
    happens = "refused in a line that says what differs, and nothing written, or no change that counts"
    record("data", "images and classes changed between stop and resume", happens, counts.total(), counts)


def test_other_pixels_in_files_of_the_same_size_are_noticed(root, config, workdir):
    for path in (root / "train").rglob("*.png"):
        save(path, 255, 255)
    with pytest.raises(InputError, match="other data; mean: "):
        load_run_data(config.data, [workdir])


def test_the_same_data_elsewhere_go_on(root, config, workdir, tmp_path):
    begun = load_task(workdir)
    moved = copy.deepcopy(config)
    moved.data.dir = str(shutil.copytree(root, tmp_path / "moved"))
    assert outcome(workdir, moved) is None
    data = load_run_data(moved.data, [workdir])
    assert data.fingerprint == begun.fingerprint
    np.testing.assert_array_equal(data.mean, begun.mean)
    fields = json.loads((workdir / "task.json").read_text())
    (workdir / "task.json").write_text(json.dumps(fields | {"fingerprint": {}}))
    assert outcome(workdir, moved) is None  # without a step it has seen no images
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(InputError, match="differs in `data.dir`"):
        outcome(workdir, moved)


def test_the_run_keeps_its_own_statistics_to_the_bit(config, workdir):
    fields = json.loads((workdir / "task.json").read_text())
    fields["mean"] = [value * (1 + 1e-7) for value in fields["mean"]]
    (workdir / "task.json").write_text(json.dumps(fields))
    task = task_of(load_run_data(config.data, [workdir]))
    np.testing.assert_array_equal(task.mean, np.float32(fields["mean"]))
    begin_task(task_of(load_dataset(config.data)), workdir)
    assert json.loads((workdir / "task.json").read_text()) == fields


def test_a_damaged_task_is_one_line(config, workdir):
    (workdir / "task.json").write_text("")
    with pytest.raises(InputError, match=r"task\.json is unreadable: .*; bring it back or, .*, remove it"):
        train(config, workdir)


# Classes by name


@pytest.fixture
def run(config, tmp_path):
    task = task_of(load_dataset(config.data))
    model = make_model(config.model, task.num_outputs)
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: np.abs(random.normal(size=leaf.shape)).astype(np.float32), variable_shapes(config, task)
    )
    return Run(config, task, model, variables, 0, tmp_path)


def test_classes_in_another_order_are_the_same(run, caplog):
    for split in ("train", "validation", "test"):
        expected, _ = load_run_split(run, split, run.config.data)
        data = copy.copy(run.config.data)
        data.classes = ("dog", "cat")
        found, _ = load_run_split(run, split, data)
        assert len(found) and pairs_of(found) == pairs_of(expected)
    assert not caplog.text  # these are the images that the run began with


@pytest.mark.parametrize(("split", "part"), [("test", "test"), ("validation", "train"), ("train", "train")])
def test_other_images_are_worth_a_line(run, root, caplog, split, part):
    load_run_split(run, split, run.config.data)
    assert not caplog.text
    next((root / part).rglob("*.png")).unlink()
    load_run_split(run, split, run.config.data)
    assert re.search(f"The {part} images are not those .*: (\\d+) images, .* then, .* now", caplog.text)


@pytest.mark.parametrize("fields", [{"split_seed": 1}, {"validation": 0.5}])
def test_validation_images_that_were_trained_on_are_worth_a_line(run, caplog, fields):
    data = dataclasses.replace(run.config.data, **fields)
    found, trained = (
        load_run_split(run, "validation", data)[0],
        load_run_split(run, "train", run.config.data)[0],
    )
    assert images_of(found) & images_of(trained)
    assert "trained on some of these validation images" in caplog.text and "were 0.25 and 0" in caplog.text


def test_other_classes_are_refused_with_both_lists(run, root):
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / "emu")
    with pytest.raises(InputError, match=r"knows the classes \(cat, dog\), this data has \(dog, emu\)"):
        evaluate_run(run)


def test_evaluation_needs_its_split_alone_and_a_used_run_is_pickled(run, root):
    shutil.rmtree(root / "train")
    for index in range(3):
        save(root / "test" / "cat" / f"more{index}.png", 0, 90 + index)
    metrics, images = evaluate_run(run), load_run_split(run, "test", run.config.data)[0].images
    logits = run.logits(images)
    assert metrics["n"] == 7
    assert np.mean(logits.argmax(1) == np.repeat([0, 1], [5, 2])) == pytest.approx(metrics["top1"])
    again = pickle.loads(pickle.dumps(run))
    np.testing.assert_array_equal(again.logits(images), logits)
    with pytest.raises(InputError, match=f"there is no folder {root}/train"):
        evaluate_run(run, "validation")
