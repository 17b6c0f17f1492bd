"""Checkpoints on disk: written in the background, restored safely.

Orbax is imported inside functions only: its import takes half a second, which a
mistyped option should not cost.
"""

import contextlib
import dataclasses
import gc
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from resnet.durations import check_interval
from resnet.errors import InputError, check_at_least
from resnet.fields import Fields
from resnet.files import free_name
from resnet.paths import shapes_by_path
from resnet.runs.checkpoints import manifest
from resnet.runs.checkpoints.alias import plain_path
from resnet.runs.checkpoints.sealing import Seal

FOLDER = "checkpoints"
UNREADABLE, ROLLED_BACK = "checkpoints_unreadable", "checkpoints_rolled_back"
FORMAT = 2
"""1: files only; 2: with a manifest of their checksums. Both are read, the latest is written."""


class Damaged(InputError):
    """A checkpoint whose files are not what was written; the message names them."""


@dataclasses.dataclass(unsafe_hash=True)
class CheckpointConfig(Fields, section="checkpoint"):
    """How often to save, and what to keep."""

    every: str = "10 %"
    """How often the state is saved; a new best on validation and the end are saved in any case."""
    keep: int = 2
    """How many checkpoints are kept, the last that were due, beside the latest and the best on validation."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_interval("checkpoint.every", self.every)
        check_at_least("checkpoint.keep", self.keep, 1)


@contextlib.contextmanager
def managing(workdir: Path) -> Iterator[Any]:
    """While entered, an orbax CheckpointManager that removes no checkpoint.

    Leaving waits for the save in flight, and raises its error.
    """
    import orbax.checkpoint as ocp

    folder = workdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=Seal(folder)),
        # Several processes wait for each other by this name; seeds that are saved at once have their own.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=str(workdir)),
    )
    with (
        plain_path(folder) as plain,
        contextlib.closing(ocp.CheckpointManager(plain, options=options)) as manager,
    ):
        yield manager
        manager.wait_until_finished()


def save(manager: Any, state: Any, metadata: dict[str, Any]) -> None:
    """Starts to save `state` under its step.

    A checkpoint of that step that is on disk already is kept: a resumed run would write the same one.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    if step in manager.all_steps():
        return
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        metadata=ocp.args.JsonSave(metadata | {"format": FORMAT}),
    )
    manager.save(step, args=args, force=True)


def score(metrics: Mapping[str, float | None]) -> float:
    """What selects the best checkpoint on validation, higher is better: top1, or minus the mae.

    Minus infinity where that is not finite.
    """
    value = metrics["top1"] if "top1" in metrics else metrics["mae"]
    if value is None or not math.isfinite(value):  # None: read back from JSON
        return -math.inf
    return value if "top1" in metrics else -value


def steps_on_disk(workdir: Path) -> list[int]:
    """Steps of the checkpoints that were finished, latest first."""
    folder = workdir / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def restore_latest(workdir: Path, target: Any) -> Any:
    """(state, metadata) of the latest checkpoint that can be read, or None if there is none at all."""
    restored = restore_together([workdir], target)
    return restored and restored[0]


def restore_together(workdirs: Sequence[Path], target: Any, *, set_aside: bool = False) -> Any:
    """[(state, metadata)] of the latest step that can be read in all workdirs; None if they share none.

    `target` has the shapes, types and shardings wanted. A damaged checkpoint is named in a warning,
    and, with `set_aside`, moved away before training goes on. Anything else that prevents a restore, such as
    lack of memory, missing permissions or another net, is raised. With `set_aside` all checkpoints are
    checked, because training may later choose between them; SHA-256 reads 1.5 GB/s.
    """
    if set_aside:
        for workdir in workdirs:
            set_damaged_aside(workdir)
    steps = sorted(steps_in_common(workdirs), reverse=True)
    for step in steps:
        restored = []
        for workdir in workdirs:
            try:
                restored.append(restore(workdir, step, target))
            except Damaged as error:
                logging.warning("%s; falling back to the one before it", error)
                if set_aside:
                    _set_aside(workdir, step)
                break
        else:
            return restored
    if steps:
        raise _none_left(workdirs[0], steps)
    return None


def set_damaged_aside(workdir: Path) -> None:
    """Moves all damaged checkpoints; InputError, and nothing moved, if none is whole."""
    steps, damaged = steps_on_disk(workdir), []
    for step in steps:
        try:
            _whole_metadata((workdir / FOLDER / str(step)).absolute())
        except Damaged as error:
            logging.warning("%s; it is set aside in %s", error, workdir / UNREADABLE)
            damaged.append(step)
    if steps and damaged == steps:
        raise _none_left(workdir, steps)
    for step in damaged:
        _set_aside(workdir, step)


def forget_checkpoints_after(workdir: Path, step: int) -> None:
    """Moves the checkpoints after `step` to checkpoints_rolled_back: the run will write others."""
    for later in steps_on_disk(workdir):
        if later > step:
            _set_aside(workdir, later, ROLLED_BACK)


def steps_in_common(workdirs: Sequence[Path]) -> set[int]:
    """The steps of which all workdirs have a checkpoint."""
    return set.intersection(*(set(steps_on_disk(workdir)) for workdir in workdirs))


def _none_left(workdir: Path, steps: Sequence[int]) -> InputError:
    return InputError(
        f"none of the checkpoints in {workdir / FOLDER} can be read (steps {steps}); "
        "choose another workdir to start afresh"
    )


def _set_aside(workdir: Path, step: int, where: str = UNREADABLE) -> None:
    """Moves a checkpoint to <where>/<step>[.n]; nothing is deleted."""
    folder = workdir / where
    folder.mkdir(exist_ok=True)
    (workdir / FOLDER / str(step)).rename(free_name(folder / str(step)))


def restore(workdir: Path, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
    """(state, metadata) of one checkpoint. A part of the state can be asked for as a dict.

    Raises Damaged if the files are not those that were written, InputError if there are none of this
    step, or of another net.
    """
    path = (workdir / FOLDER / str(step)).absolute()
    if step not in steps_on_disk(workdir):
        raise InputError(f"{workdir} has no checkpoint of step {step}; there are {steps_on_disk(workdir)}")
    metadata = _whole_metadata(path)
    if metadata["format"] > 1:
        return _read_state(path, target), metadata
    try:
        with _no_stray_tracebacks():
            return _read_state(path, target), metadata
    except InputError:
        raise
    except (ValueError, KeyError, FileNotFoundError) as error:
        # What the libraries raise for missing and torn files, which a manifest would have told of.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise Damaged(f"checkpoint {path} is unreadable ({reason})") from None


def _whole_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a checkpoint; Damaged unless all its files are there, with their checksums."""
    if (path / manifest.FILE).exists() and (wrong := manifest.damage(path)):
        raise Damaged(f"checkpoint {path} is unreadable ({wrong})")
    try:
        metadata = json.loads((path / "metadata" / "metadata").read_bytes())
        version = int(metadata["format"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {path} is unreadable (its metadata: {error})") from None
    if version > FORMAT:
        raise InputError(f"checkpoint {path} has format {version}; this code reads up to {FORMAT}")
    if version > 1 and (wrong := manifest.damage(path)):
        raise Damaged(f"checkpoint {path} is unreadable ({wrong})")
    return metadata


def _read_state(path: Path, target: Any) -> Any:
    import orbax.checkpoint as ocp

    arguments = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype),
        target,
    )
    args = ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True)
    handler = ocp.PyTreeCheckpointHandler()
    with plain_path(path / "state") as folder, ocp.Checkpointer(handler) as checkpointer:
        _check_shapes(path, handler.metadata(folder).tree, target)  # type: ignore[arg-type]
        return checkpointer.restore(folder, args=args)


def _check_shapes(path: Path, stored: Any, target: Any) -> None:
    """Raises InputError unless a checkpoint has everything that is wanted; orbax misses some cases."""
    there, wanted = shapes_by_path(stored), shapes_by_path(target)
    wrong = [
        f"{name}: {there.get(name, 'nothing')} there, {wanted[name]} here"
        for name in wanted
        if there.get(name) != wanted[name]
    ]
    if wrong:
        raise InputError(f"checkpoint {path} holds another net ({len(wrong)} differences: {wrong[0]}, …)")


@contextlib.contextmanager
def _no_stray_tracebacks() -> Iterator[None]:
    """Silences what orbax's asynchronous reads print from other threads after one of them failed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    except BaseException:
        # The reads still on their way end, and those half-done are freed, while it is quiet.
        time.sleep(0.5)
        gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
