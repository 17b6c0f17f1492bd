"""A dry run: tries images and steps of streams and of resident sets, says what to change, writes nothing."""

import gzip
import json

import pytest

from resnet.cli import options
from resnet.cli.commands import train as command
from resnet.data.files.delivery import InputTimes
from resnet.runs import dry_run
from tests.stream_cases import folders
from tests.test_training_streamed import config


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(dry_run, "SECONDS", 0.1)
    monkeypatch.setattr(dry_run, "IMAGES", 16)


@pytest.mark.thorough
@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_what_a_training_would_take(tmp_path, storage):
    root = folders(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    found = dry_run.dry_run(config(root, 60, storage=storage, random_resized_crop=0.0, eval_crop=0.0))
    assert found["storage"] == storage and found["steps"] == 60
    speeds = found["images_per_second"]
    assert ("input" in speeds) == (storage == "stream")
    assert all(speeds[name] > 0 for name in ("step", "training", "evaluation"))
    # 60 steps of 4 images, evaluated after each of 10 epochs and at the end, on 12 images.
    seconds = 240 / speeds["training"] + 132 / speeds["evaluation"]
    assert found["hours"] == pytest.approx(seconds / 3600, abs=6e-4)
    image = 8 * 8 * 3
    batches = 2 + 2  # two ahead, one that is made and one in use
    assert found["bytes"]["images"] == (36 * image if storage == "memory" else batches * 4 * image)
    assert found["bytes"]["each_device"] > 4 * image and found["advice"]
    assert sorted(tmp_path.rglob("*")) == before


MEMORY = {"images": 1, "each_device": 10, "of_each_device": 100}
TIMES = InputTimes(1000, 1.0, 9.0, 0.0, 2)  # 200 images per second


@pytest.mark.parametrize(
    ("times", "speeds", "memory", "says"),
    [
        (None, {"step": 100, "training": 100}, MEMORY, "nothing: the devices need not wait"),
        (TIMES, {"input": 200, "step": 100, "training": 99}, MEMORY, "nothing: the devices need not wait"),
        (TIMES, {"input": 200, "step": 400, "training": 200}, MEMORY, "200 images/s, and the steps take 400"),
        (TIMES, {"input": 200, "step": 150, "training": 100}, MEMORY, "100 images/s with it and 150 without"),
        (None, {"step": 100, "training": 100}, MEMORY | {"each_device": 95}, "set `train.accumulate`, or"),
    ],
)  # fmt: skip
def test_what_to_change(times, speeds, memory, says):
    (advice,) = dry_run._advice(times, 1.0, speeds, memory)
    assert says in advice


@pytest.mark.thorough
def test_the_command_needs_no_workdir_and_prints_one_object(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(options, "prepare_process", lambda config: None)  # this process has begun already
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from resnet.config import Config\n\ndef get_config():\n    config = Config()\n"
        "    config.model.family, config.model.blocks, config.model.width = 'chain', (1,), 0.25\n"
        "    config.train.batch_size = 4\n    return config\n"
    )
    trace = tmp_path / "trace"
    line = [f"--config={recipe}", "--dry_run", f"--trace={trace}", "--config.data.train_limit=64"]
    options.run(command.main, command.define, line)
    found = json.loads(capsys.readouterr().out)
    assert found["storage"] == "memory" and found["steps"] == 64_000 and found["hours"] > 0
    assert sorted(tmp_path.iterdir()) == [recipe, trace]
    (file,) = trace.glob("plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "train" for event in events) == dry_run.TRACED
