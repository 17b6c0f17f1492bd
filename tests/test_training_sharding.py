"""A state divided over devices: the numbers of a whole one, in a part of the memory."""

import collections
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import resnet
from resnet.config import load_config, replaced
from resnet.data.batches import Resident
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.runs.checkpoints import checkpoint, sealing
from resnet.runs.checkpoints.saver import Saver
from resnet.runs.rollbacks import Diverged, check_state
from resnet.runtime.devices import ParallelConfig, devices_for, make_mesh
from resnet.runtime.sharding import spec_of_shape
from resnet.training import loop
from resnet.training.trainer import make_trainer
from tests.sharding_cases import DIVIDED, LEAST, get_config
from tests.stream_cases import STATISTICS, one_tar
from tests.tally import record

ROOT = Path(__file__).parents[1]


def tiny(**fields):
    return replaced(get_config(), fields)


def streamed(folder):
    """Fields of a run on a stream of the images in a tar."""
    fields = {"name": "image_folder", "dir": str(one_tar(folder)), "image_size": 8, "train_limit": 0}
    fields |= {"random_resized_crop": 0.3} | STATISTICS
    return {f"data.{name}": value for name, value in fields.items()}


def after_steps(config, devices, seeds=(0,), steps=3):
    """(trainer, state on the devices, each seed's state and metrics on the host)."""
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(devices, len(seeds)), seeds)
    state = trainer.start()
    for step in range(steps):
        state, metrics = trainer.train()(state, trainer.batch(range(step, step + 1)))
    return trainer, state, trainer.to_host(state), trainer.to_host(metrics)


def assert_equal_but_for_rounding(found, expected):
    """1e-5 of the largest value of an array; differently ordered sums of float32."""

    def close(x, y):
        scale = max(np.abs(np.asarray(y, np.float64)).max(), 1e-3)
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * scale)

    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    "shape, spec",
    (
        ((3, 3, 16, 64), (None, None, None, "data")),
        ((3, 3, 64, 16), (None, None, "data")),
        ((128, 10), ("data",)),
        ((127, 101), ()),
        ((62,), ()),
        ((), ()),
    ),
)
def test_the_largest_dimension_that_divides_is_divided(shape, spec):
    assert spec_of_shape(shape, 4, LEAST) == PartitionSpec(*spec)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "fields",
    (
        {"optimizer.clip_norm": 0.5},
        {"optimizer.name": "lamb"},
        pytest.param({"optimizer.name": "lars"}, marks=pytest.mark.slow),  # norms of layers, as LAMB has
        {"model.scan_blocks": True, "model.ghost_batch": 4},
    ),
    ids=str,
)
def test_steps_equal_those_of_a_whole_state(fields):
    """Gradients, the norms of all of them, moments and averages; of the device's bytes, what was computed."""
    whole = tiny(**fields)
    divided = tiny(**fields, **DIVIDED)
    expected = after_steps(whole, 1)
    trainer, state, states, metrics = after_steps(divided, 2)
    assert_equal_but_for_rounding((states, metrics), expected[2:])
    leaves = jax.tree.leaves(state)
    parts = [leaf.addressable_shards[0].data.size for leaf in leaves]
    sizes = [leaf.size // 2 if spec_of_shape(leaf.shape, 2, LEAST) else leaf.size for leaf in leaves]
    assert parts == sizes and sum(sizes) < 0.6 * sum(leaf.size for leaf in leaves)
    found = trainer.evaluate(state.variables, trainer.dataset.test, lambda: False)
    known = expected[0].evaluate(expected[1].variables, trainer.dataset.test, lambda: False)
    assert_equal_but_for_rounding(found, known)


@pytest.mark.thorough
def test_several_seeds_are_divided_alike():
    seeds = (0, 1, 2)
    config = tiny(**DIVIDED, **{"train.seeds": 3})
    _, state, states, metrics = after_steps(config, 2, seeds, steps=2)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {2}
    for seed in seeds:
        alone = after_steps(tiny(), 1, (seed,), steps=2)
        assert_equal_but_for_rounding((states[seed], metrics[seed]), (alone[2][0], alone[3][0]))


@pytest.mark.thorough
def test_parameters_are_gathered_and_gradients_divided():
    """What the program exchanges; on the CPU, XLA adds up whole gradients and keeps a part of each."""
    config = tiny(**DIVIDED)
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(2))
    arguments = trainer.start(), trainer.batch(range(1))
    assert isinstance(arguments[1], Resident)
    text = trainer.train().lower(*arguments).compile().as_text()
    gathered = re.findall(r" = f32\[([\d,]*)\]\S* all-gather\(", text)
    shapes = [leaf.shape for leaf in jax.tree.leaves(trainer.shapes.params)]
    divided = [",".join(map(str, shape)) for shape in shapes if spec_of_shape(shape, 2, LEAST)]
    assert not collections.Counter(divided) - collections.Counter(gathered)
    assert len(gathered) <= len(divided) + 1  # and what the scores need of the logits
    assert " all-reduce(" in text


@pytest.mark.thorough
def test_on_one_device_the_program_is_that_of_a_whole_state():
    """And so are its bits."""
    texts = []
    for fields in ({}, DIVIDED):
        config = replaced(load_config(ROOT / "configs/digits_small.py"), fields)
        trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
        state = trainer.layout.together
        texts.append(trainer.train().lower(state, trainer.batch(range(1))).as_text())
    assert texts[0] == texts[1]


@pytest.mark.thorough
def test_a_state_is_saved_and_restored_in_parts(tmp_path, monkeypatch):
    """What is divided comes to no device or host as a whole; later steps change nothing of a save."""
    config = tiny(**DIVIDED, **{"model.scan_blocks": True, "train.seeds": 3})
    trainer, state, states, _ = after_steps(config, 2, (0, 1, 2), steps=1)
    apart = trainer.layout.to_save(state)
    for leaf, wanted in zip(jax.tree.leaves(apart[1]), jax.tree.leaves(trainer.shapes), strict=True):
        assert leaf.sharding == wanted.sharding and leaf.shape == wanted.shape
        part = leaf.addressable_shards[0].data.size
        assert part == leaf.size // (2 if spec_of_shape(leaf.shape, 2, LEAST) else 1)
    monkeypatch.setattr(sealing, "AT_A_TIME", 1000)
    saver = Saver(tmp_path)
    saver.save(apart[1], {})
    for step in (1, 2):
        state, _ = trainer.train()(state, trainer.batch(range(step, step + 1)))
    saver.close()
    assert not saver.failure
    restored, _ = checkpoint.restore(tmp_path, 1, trainer.shapes)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), states[1])
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(trainer.shapes), strict=True):
        assert leaf.sharding == wanted.sharding
    together = trainer.to_devices([restored] * 3)
    jax.tree.map(np.testing.assert_array_equal, trainer.to_host(together)[2], states[1])
    written = json.loads((tmp_path / "checkpoints/1/state/array_metadatas/process_0").read_text())
    arrays = [each["array_metadata"] for each in written["array_metadatas"]]
    parts = {array["param_name"]: tuple(array["write_shape"]) for array in arrays}
    kernel = trainer.shapes.params["head"]["dense"]["kernel"]
    assert parts["params.head.dense.kernel"] == kernel.sharding.shard_shape(kernel.shape) != kernel.shape
    check_state(restored, 1)
    with pytest.raises(Diverged, match="not finite at step 1"):
        check_state(jax.tree.map(lambda leaf: leaf * jnp.nan, restored.params), 1)


@pytest.fixture
def on_four(tmp_path):
    """Trains on four devices in a process of its own; the folder of the run."""

    def run(**fields):
        command = [sys.executable, "scripts/train.py", "--config=tests/sharding_cases.py"]
        command += [f"--workdir={tmp_path / 'four'}", "--config.parallel.host_devices=4"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return tmp_path / "four"

    return run


def assert_same_run(folder, expected):
    """The losses of all steps, and the weights in the end."""

    def losses(workdir):
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if line["split"] == "train"]

    assert_equal_but_for_rounding(
        (losses(folder), resnet.load(folder).variables), (losses(expected), resnet.load(expected).variables)
    )


@pytest.mark.thorough
def test_saved_on_four_devices_taken_up_by_two_and_by_one(on_four, tmp_path):
    fields = DIVIDED | {"optimizer.name": "lamb", "optimizer.clip_norm": 0.5}
    saved = on_four(**fields)
    loop.train(tiny(**fields), tmp_path / "alone", mesh=make_mesh(1))
    assert_same_run(saved, tmp_path / "alone")
    for devices in (2, 1):
        taken_up = tmp_path / str(devices)
        shutil.copytree(saved, taken_up)
        (taken_up / "result.json").unlink()
        shutil.rmtree(taken_up / "checkpoints/4")
        loop.train(tiny(**fields), taken_up, mesh=make_mesh(devices))
        assert_same_run(taken_up, tmp_path / "alone")
    record("divided", "a divided state saved on four devices", "taken up by two and by one", 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("two seeds", "stream"))
def test_four_devices_share_seeds_and_streams(kind, on_four, tmp_path):
    fields = {"train.seeds": 2} if kind == "two seeds" else streamed(tmp_path / "data")
    folder = on_four(**fields, **DIVIDED)
    alone = loop.train(tiny(**fields), tmp_path / "alone", mesh=make_mesh(1))
    assert len(alone.get("runs", [alone])) == fields.get("train.seeds", 1)
    for name in ("seed0", "seed1") if kind == "two seeds" else (".",):
        assert_same_run(folder / name, tmp_path / "alone" / name)


def test_a_negative_size_is_refused():
    with pytest.raises(InputError, match="`parallel.shard_parameters` must be at least 0; got -1"):
        ParallelConfig(shard_parameters=-1).check()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 6])
def test_seeds_that_are_left_share_their_batches_as_before(count, seeds):
    """Expects the most devices that share each batch as with all seeds, or None if no number of them does."""
    shares = count // math.gcd(seeds, count)
    assert devices_for(seeds, seeds, count) == count
    for left in range(1, seeds):
        chosen = devices_for(left, seeds, count)
        possible = [n for n in range(1, count + 1) if n // math.gcd(left, n) == shares]
        assert chosen == max(possible, default=None)
        assert possible or shares > 1, "one device computes any seed whole"
