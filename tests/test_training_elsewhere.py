"""A run taken up on another machine: other numbers of devices, and checkpoints of earlier releases."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import resnet
from resnet.config import Config, load_saved_config
from resnet.data.datasets import load_dataset
from resnet.runs.checkpoints import checkpoint
from resnet.runs.provenance import digest
from resnet.runtime.devices import make_mesh, replicated
from resnet.training import loop
from resnet.training.trainer import make_trainer
from tests.tally import record

DATA = Path(__file__).parent / "data"


def tiny() -> Config:
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.train.batch_size, config.train.duration, config.train.ema = 8, "4 steps", 0.9
    config.train.log_every, config.checkpoint.every = "1 steps", "2 steps"
    return config


# In a process with four devices: states saved from 1, 2 and 4 of them, and restored on each number.
SAVE = """
import json, sys
from pathlib import Path
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
sys.path[:0] = ["tests", "."]
from test_training_elsewhere import restored, save, tiny

folder, found = Path(sys.argv[1]), {}
for n in (1, 2, 4):
    save(folder / f"on{n}", n)
    for name in ("seed0", "seed1"):
        found[f"on{n}/{name}"] = {m: restored(folder / f"on{n}" / name, m) for m in (1, 2, 4)}
print(json.dumps(found))
"""


def trainer_on(devices: int):
    """Of two seeds."""
    return make_trainer(tiny(), load_dataset(tiny().data), make_mesh(devices, seeds=2), (0, 1))


@functools.cache
def states() -> list:
    """Of two seeds, before the first step."""
    trainer = trainer_on(1)
    return trainer.to_host(trainer.start())


def save(folder: Path, devices: int) -> None:
    """Saves the states of two seeds together, from a mesh of so many devices."""
    trainer = trainer_on(devices)
    for seed, state in enumerate(trainer.to_host(trainer.to_devices(states()))):
        with checkpoint.managing(folder / f"seed{seed}") as manager:
            checkpoint.save(manager, state, {"seed": seed})


def restored(workdir: Path, devices: int) -> str:
    """Digest of the checkpoint restored on a mesh of so many devices."""
    state, _ = checkpoint.restore(workdir, 0, replicated(states()[0], make_mesh(devices)))
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {devices}
    return digest(state)


@pytest.mark.thorough
def test_saved_on_n_devices_restored_on_m(tmp_path):
    command = [sys.executable, "-c", SAVE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    found, tries = json.loads(done.stdout), 0
    for seed in range(2):
        digests = {digest(states()[seed])}
        for n in (1, 2, 4):
            name = f"on{n}/seed{seed}"
            # And in this process, which has two devices.
            digests |= {*found[name].values(), *(restored(tmp_path / name, m) for m in (1, 2))}
            tries += 5
        assert len(digests) == 1
    happens = "restored bit for bit"
    record("devices", "saved on 1, 2 or 4 devices, restored on another number", happens, tries)


def losses(workdir: Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if line["split"] == "train"]


def go_back(workdir: Path) -> list[float]:
    """Leaves a run as it was when step 2 had been saved; its losses until step 4."""
    before = losses(workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "4")
    return before


@pytest.mark.thorough
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_other_devices(tmp_path, first, then):
    loop.train(tiny(), tmp_path, mesh=make_mesh(first))
    before = go_back(tmp_path)
    loop.train(tiny(), tmp_path, mesh=make_mesh(then))
    assert losses(tmp_path)[:2] == before[:2]
    # Two more steps of other rounding.
    assert losses(tmp_path) == pytest.approx(before, rel=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("run_format*")))
def test_a_run_of_an_earlier_release_goes_on(tmp_path, name):
    workdir = shutil.copytree(DATA / name, tmp_path / name)
    expected = json.loads((workdir / "expected.json").read_text())
    run = resnet.load(workdir)
    assert run.step == 2 and digest(run.variables) == expected["sha256 at step 2"]
    result = loop.train(load_saved_config(workdir), workdir, mesh=make_mesh(1))
    assert result["step"] == 4
    assert losses(workdir) == pytest.approx(expected["losses"], rel=1e-4)
    assert result["loss"] == pytest.approx(expected["test loss"], rel=1e-3)
