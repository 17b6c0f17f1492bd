"""What is kept on disk, and what is read back."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.config import Config
from resnet.errors import InputError
from resnet.runs.checkpoints import checkpoint, manifest
from resnet.runs.checkpoints.checkpoint import CheckpointConfig
from resnet.runs.checkpoints.saver import Saver
from resnet.runs.open_run import OpenRun


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Stands for TrainState."""

    step: Any
    params: Any


def state_at(step):
    return State(jnp.int32(step), {"kernel": jnp.arange(6.0).reshape(2, 3) + step})


def shapes_of(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)


@pytest.fixture
def workdir(tmp_path):
    saver = Saver(tmp_path)
    for step in range(1, 6):
        saver.save(state_at(step), {"note": [step, 0.5]})
    saver.wait()
    saver.remove_all_but({4, 2})
    saver.close()
    return tmp_path


def test_the_latest_is_kept_beside_those_named(workdir):
    assert checkpoint.steps_on_disk(workdir) == [5, 4, 2]


@pytest.mark.parametrize(
    ("best", "best_step", "left"),
    [
        (None, None, [5, 4]),
        (0.9, 2, [5, 4, 2]),
        (0.9, None, [5, 4, 3, 2, 1]),
    ],  # the last as saved by older code
)
def test_the_best_is_kept_or_all_where_it_is_not_known(tmp_path, best, best_step, left):
    metadata = {"progress": {"step": 5, "best": best, "best_step": best_step}, "meter": {}}
    run = OpenRun(Config(), tmp_path, metadata, total_steps=9, steps_per_epoch=9, log_every=9)
    for step in range(1, 6):
        run.saver.save(state_at(step), {})
    run.saver.wait()
    run.remove_all_but({4})
    run.close()
    assert checkpoint.steps_on_disk(tmp_path) == left


def test_the_best_stays_until_a_better_one_is_whole(tmp_path):
    metadata = {"progress": {"step": 0, "best": 0.5, "best_step": 2}, "meter": {}}
    run = OpenRun(Config(), tmp_path, metadata, total_steps=9, steps_per_epoch=9, log_every=9)
    for step in range(1, 6):
        run.saver.save(state_at(step), {})
    run.saver.wait()
    run.progress.best, run.progress.best_step = 0.9, 6
    run.remove_all_but({4})
    assert checkpoint.steps_on_disk(tmp_path) == [5, 4, 2]
    run.saver.save(state_at(6), {})
    run.saver.wait()
    run.remove_all_but({4})
    run.close()
    assert checkpoint.steps_on_disk(tmp_path) == [6, 4]


def test_the_latest_step_that_all_workdirs_have(tmp_path):
    workdirs = [tmp_path / "a", tmp_path / "b"]
    for workdir, steps in zip(workdirs, ((1, 2, 4), (1, 2, 3)), strict=True):
        with checkpoint.managing(workdir) as manager:
            for step in steps:
                checkpoint.save(manager, state_at(step), {})
    shapes = shapes_of(state_at(0))
    assert [int(state.step) for state, _ in checkpoint.restore_together(workdirs, shapes)] == [2, 2]
    for path in (workdirs[1] / "checkpoints" / "2").rglob("d/*"):
        path.unlink()
    restored = checkpoint.restore_together(workdirs, shapes, set_aside=True)
    assert [int(state.step) for state, _ in restored] == [1, 1]
    assert (workdirs[1] / "checkpoints_unreadable" / "2").is_dir()
    assert checkpoint.steps_on_disk(workdirs[0]) == [4, 2, 1]


def test_restored_bit_for_bit(workdir):
    state, metadata = checkpoint.restore_latest(workdir, shapes_of(state_at(0)))
    assert isinstance(state, State) and metadata["note"] == [5, 0.5]
    jax.tree.map(np.testing.assert_array_equal, state, state_at(5))


def test_a_part_is_restored(workdir):
    part, _ = checkpoint.restore(workdir, 4, {"params": shapes_of(state_at(0).params)})
    np.testing.assert_array_equal(part["params"]["kernel"], state_at(4).params["kernel"])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "flipped": flip_a_bit,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.thorough
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_named_and_the_one_before_taken(workdir, tmp_path_factory, damage, caplog):
    whole = workdir / "checkpoints" / "5"
    names = sorted(path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file())
    matters = [name for name in names if name not in ("_CHECKPOINT_METADATA", "commit_success.txt")]
    assert len(matters) > 5 and manifest.FILE in matters
    for name in matters:
        copy = tmp_path_factory.mktemp("copy") / "run"
        shutil.copytree(workdir, copy)
        DAMAGES[damage](copy / "checkpoints" / "5" / name)
        caplog.clear()
        state, _ = checkpoint.restore_latest(copy, shapes_of(state_at(0)))
        assert state.step == 4
        assert "5 is unreadable" in caplog.text and (name in caplog.text or name == manifest.FILE)
        assert (copy / "checkpoints" / "5").is_dir()


def test_training_sets_every_damaged_one_aside_and_deletes_none(workdir, caplog):
    for step in (4, 2):
        flip_a_bit(next((workdir / "checkpoints" / str(step)).rglob("d/*")))
    [(state, _)] = checkpoint.restore_together([workdir], shapes_of(state_at(0)), set_aside=True)
    assert state.step == 5 and checkpoint.steps_on_disk(workdir) == [5]
    assert {path.name for path in (workdir / "checkpoints_unreadable").iterdir()} == {"4", "2"}
    assert caplog.text.count("differs from its checksum); it is set aside") == 2


def test_where_all_are_damaged_nothing_is_moved_and_nothing_begun(workdir):
    for path in (workdir / "checkpoints").rglob("d/*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of the checkpoints .* \(steps \[5, 4, 2\]\)"):
            checkpoint.restore_together([workdir], shapes_of(state_at(0)), set_aside=True)


def without_manifest(workdir):
    """As the format before checksums was."""
    for folder in (workdir / "checkpoints").iterdir():
        (folder / manifest.FILE).unlink()
        path = folder / "metadata" / "metadata"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))


@pytest.mark.thorough
@pytest.mark.parametrize("damage", [None, "truncate", "no data", "no metadata"])
def test_the_format_before_checksums(workdir, damage, caplog):
    without_manifest(workdir)
    folder = workdir / "checkpoints" / "5"
    for path in folder.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10]) if damage == "truncate" else None
        path.unlink() if damage == "no data" else None
    if damage == "no metadata":
        (folder / "metadata" / "metadata").unlink()
    state, _ = checkpoint.restore_latest(workdir, shapes_of(state_at(0)))
    jax.tree.map(np.testing.assert_array_equal, state, state_at(4 if damage else 5))
    assert (f"{folder} is unreadable" in caplog.text) == bool(damage)
    assert folder.is_dir()


def test_a_later_format_is_refused(workdir, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(InputError, match="5 has format 2; this code reads up to 1"):
        checkpoint.restore_latest(workdir, shapes_of(state_at(0)))


@pytest.mark.parametrize("error", [MemoryError(), PermissionError("not yours"), ValueError("a bug")])
def test_what_is_no_damage_is_raised(workdir, monkeypatch, error):
    def failing(path, target):
        raise error

    monkeypatch.setattr(checkpoint, "_read_state", failing)
    with pytest.raises(type(error)):
        checkpoint.restore_together([workdir], shapes_of(state_at(0)), set_aside=True)
    assert checkpoint.steps_on_disk(workdir) == [5, 4, 2]


def test_nothing_readable_is_an_error_nothing_there_is_not(workdir, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert checkpoint.restore_latest(empty, shapes_of(state_at(0))) is None
    for path in (workdir / "checkpoints").rglob("d/*"):
        path.unlink()
    with pytest.raises(InputError, match=r"none of the checkpoints in .* can be read"):
        checkpoint.restore_latest(workdir, shapes_of(state_at(0)))


def test_another_shape_is_an_error(workdir):
    other = State(jnp.int32(0), {"kernel": jnp.zeros((3, 3))})
    with pytest.raises(InputError, match=r"another net .*params/kernel: \(2, 3\) there, \(3, 3\) here"):
        checkpoint.restore(workdir, 5, shapes_of(other))
    other = State(jnp.int32(0), {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)})
    with pytest.raises(InputError, match="params/bias: nothing there"):
        checkpoint.restore_latest(workdir, shapes_of(other))


def test_wrong_fields():
    with pytest.raises(InputError, match=r"`checkpoint.keep` must be at least 1"):
        CheckpointConfig(keep=0).check()
    with pytest.raises(InputError, match=r"`checkpoint.every`"):
        CheckpointConfig(every="sometimes").check()
