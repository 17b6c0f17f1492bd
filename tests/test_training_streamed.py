"""A run on a stream: the numbers of one in memory, resumed in mid-epoch, on other threads and devices."""

import dataclasses
import json

import numpy as np
import pytest

from resnet.config import Config, replaced
from resnet.data.datasets import load_dataset
from resnet.data.files.delivery import Pace
from resnet.data.files.stream import TrainingStream
from resnet.errors import InputError
from resnet.run import evaluate_run, load
from resnet.runs import stream_report
from resnet.runs.metrics.records import read_metrics
from resnet.runs.open_run import note_skipped
from resnet.runs.stream_report import StreamReport
from resnet.runtime.devices import make_mesh
from resnet.runtime.progress import Clock
from resnet.training.loop import train
from tests.stream_cases import STATISTICS, TRAIN, VALIDATION, folders, one_tar


def config(root, steps=6, **data) -> Config:
    """Random-resized crops of 8 pixels in batches of four: six steps an epoch."""
    config = Config()
    config.data.name, config.data.dir, config.data.image_size = "image_folder", str(root), 8
    fields = {"random_resized_crop": 0.3, "eval_crop": 0.8, "flip": True, **STATISTICS, **data}
    for name, value in fields.items():
        setattr(config.data, name, value)
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration = 4, f"{steps} steps"
    config.train.log_every, config.train.telemetry_every = "1 steps", "0 steps"
    config.schedule.name, config.schedule.learning_rate = "constant", 0.05
    config.parallel.decoder_threads = 2
    return config


# What a recipe can ask for but policies, which take long to compile; two devices share its parts and pairs.
EVERYTHING = {
    "data.flip": False,
    "data.alternate_flip": True,
    "data.eval_flip": True,
    "data.repeats": 2,
    "data.augmentation": ("lighting 0.1", "random_erasing 0.5 pixel"),
    "model.ghost_batch": 2,
    "train.batch_size": 8,
    "train.mixup": 0.2,
    "train.cutmix": 1.0,
    "train.accumulate": 2,
    "train.sam": 0.05,
    "train.smaller_until": (("3 steps", 6),),
}
EXTRAS = pytest.mark.parametrize("extras", [{}, EVERYTHING], ids=["plain", "everything"])


def losses(workdir):
    return [line["loss"] for line in read_metrics(workdir) if line["split"] == "train"]


@pytest.mark.thorough
@EXTRAS
def test_a_resident_data_set_and_a_stream_train_the_same_net(tmp_path, extras):
    root, results = folders(tmp_path / "data"), []
    for storage in ("memory", "stream"):
        settings = config(root, random_resized_crop=0.0, eval_crop=0.0, storage=storage)
        results.append(train(replaced(settings, extras), tmp_path / storage, mesh=make_mesh(1)))
    assert "input" not in results[0] and results[1]["input"]["threads"] == 2
    share, speed = results[1]["input"]["waiting_share"], results[1]["images_per_second"]
    assert speed is share is None or (0 <= share <= 1 and speed > 0)  # few steps may not be timed
    assert results[1]["input"]["decode_seconds"] > 0
    assert results[0]["sha256"] == results[1]["sha256"] and results[0]["loss"] == results[1]["loss"]
    assert read_metrics(tmp_path / "memory") == read_metrics(tmp_path / "stream")


@pytest.mark.thorough
def test_a_run_that_began_in_memory_goes_on_as_a_stream(tmp_path):
    root, fields = folders(tmp_path / "data"), {"random_resized_crop": 0.0, "eval_crop": 0.0}
    whole = train(config(root, storage="memory", **fields), tmp_path / "whole", mesh=make_mesh(1))
    train(config(root, 3, storage="memory", **fields), tmp_path / "parts", mesh=make_mesh(1))
    parts = train(
        config(root, storage="auto", memory_gb=0.0, **fields), tmp_path / "parts", mesh=make_mesh(1)
    )
    assert parts["sha256"] == whole["sha256"] and "input" in parts


@pytest.mark.thorough
@EXTRAS
def test_going_on_in_mid_epoch_gives_the_bits_of_a_run_that_never_stopped(tmp_path, extras):
    """A run stops early, and is resumed with more threads, two steps a call, and the images in a tar."""
    root = folders(tmp_path / "data")
    whole = train(replaced(config(root, 10), extras), tmp_path / "whole", mesh=make_mesh(1))
    train(replaced(config(root, 4), extras), tmp_path / "parts", mesh=make_mesh(1))
    again = replaced(config(one_tar(tmp_path / "tar"), 10), extras)
    again.parallel.decoder_threads, again.parallel.batches_ahead = 5, 1
    again.train.steps_per_call = 2
    parts = train(again, tmp_path / "parts", mesh=make_mesh(1))
    assert parts["sha256"] == whole["sha256"]
    assert len(losses(tmp_path / "whole")) == 10
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") and parts["loss"] == whole["loss"]


@pytest.mark.thorough
@EXTRAS
def test_each_seed_of_a_program_is_a_run_of_its_own(tmp_path, extras):
    root = one_tar(tmp_path)
    alone = train(replaced(config(root), extras), tmp_path / "alone", mesh=make_mesh(1))
    together = replaced(config(root), extras | {"train.seeds": 2})
    found = train(together, tmp_path / "two", mesh=make_mesh(1, seeds=2))
    assert found["runs"][0]["sha256"] == alone["sha256"] != found["runs"][1]["sha256"]


@pytest.mark.thorough
@EXTRAS
def test_devices_share_the_places(tmp_path, extras):
    root = folders(tmp_path / "data")
    one, two = (train(replaced(config(root), extras), tmp_path / str(n), mesh=make_mesh(n)) for n in (1, 2))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("statistics", [{}, {"mean": (), "std": ()}], ids=["given", "taken"])
def test_a_bad_image_is_listed_in_the_run_and_counted(tmp_path, statistics):
    bad = ("n01/train_2.JPEG", "n03/train_7.JPEG")
    root = folders(tmp_path / "data", TRAIN | dict.fromkeys(bad, b"no JPEG"))
    (root / "val" / "n01" / "val_0.JPEG").write_bytes(b"")
    result = train(config(root, bad_limit=0.2, **statistics), tmp_path / "run", mesh=make_mesh(1))
    listed = json.loads((tmp_path / "run" / "skipped_images.json").read_text())
    assert listed["n"] == result["skipped_images"] == 3 and result["n"] == 11
    assert all(any(name in text for text in listed["images"]) for name in (*bad, "val/n01/val_0.JPEG"))
    # What an earlier session found stays listed.
    assert note_skipped(tmp_path / "run", ["another"]) == 4
    assert StreamReport(None, [], [tmp_path / "run"]).result(Clock(1)) == {"skipped_images": 4}


def test_images_that_another_process_found_bad_are_listed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_report, "from_all", lambda own: [own, ["b.jpg is cut", "c.jpg is cut"]])
    root = folders(tmp_path / "data", TRAIN)
    stream = TrainingStream(load_dataset(config(root).data).train, (0,), 8, 4, Pace(1))
    found = ["b.jpg is cut"]
    report = StreamReport(stream, found, [tmp_path])
    assert json.loads((tmp_path / "skipped_images.json").read_text())["n"] == report.count == 2
    found.append("a.jpg is cut")
    report.pause(Clock(1))
    listed = json.loads((tmp_path / "skipped_images.json").read_text())
    assert listed == {"n": 3, "images": [f"{name}.jpg is cut" for name in "abc"]}


@pytest.mark.thorough
def test_an_evaluation_of_nothing_is_an_error(tmp_path):
    root = folders(tmp_path / "data", validation=dict.fromkeys(VALIDATION, b""))
    with pytest.raises(InputError, match="none of the 12 images of the split to be evaluated can be read"):
        train(config(root), tmp_path / "run", mesh=make_mesh(1))


@pytest.mark.thorough
def test_telemetry_and_a_moving_average_on_a_stream(tmp_path):
    settings = config(one_tar(tmp_path))
    settings.train.telemetry_every, settings.train.ema = "2 steps", 0.9
    plain = config(one_tar(tmp_path))
    plain.train.ema = 0.9
    watched = train(settings, tmp_path / "watched", mesh=make_mesh(1))
    assert (tmp_path / "watched" / "telemetry.csv").stat().st_size > 100
    assert watched["sha256"] == train(plain, tmp_path / "plain", mesh=make_mesh(1))["sha256"]


@pytest.mark.thorough
def test_a_run_is_evaluated_on_its_stream_and_at_another_size(tmp_path):
    settings = config(one_tar(tmp_path))
    result = train(settings, tmp_path / "run", mesh=make_mesh(1))
    run = load(tmp_path / "run")
    found = evaluate_run(run, "validation")
    assert found["loss"] == pytest.approx(result["loss"], rel=1e-5) and found["n"] == 12
    settings.data.eval_flip = True
    both = evaluate_run(run, "validation", settings.data)
    assert both["n"] == 12 and both["loss"] != found["loss"]
    settings.data.eval_flip, settings.data.eval_size = False, 16
    larger = evaluate_run(run, "validation", settings.data)
    assert larger["n"] == 12 and larger["loss"] != found["loss"]
    images = load_dataset(settings.data).validation.images
    assert images.shape == (12, 16, 16, 3) and np.ptp(images) > 100
    # A prediction sees what the evaluation sees.
    for i, (name, content) in enumerate(sorted(VALIDATION.items())[:3]):
        (tmp_path / "picture.jpg").write_bytes(content)
        larger_net = dataclasses.replace(run, config=settings).net
        np.testing.assert_array_equal(larger_net.read(tmp_path / "picture.jpg"), images[i], name)
        assert larger_net.logits(images[i]).shape == (3,)
        assert run.net.read(tmp_path / "picture.jpg").shape == (8, 8, 3)
