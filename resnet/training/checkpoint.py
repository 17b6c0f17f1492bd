"""Checkpoints on disk: written in the background, the last few and the best kept, restored safely.

The only importer of orbax, and only inside functions: its import takes half a second, which a
mistyped option should not cost.
"""

import contextlib
import dataclasses
import gc
import operator
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from resnet.errors import InputError, check_at_least
from resnet.training.schedules import parse_duration

FOLDER = "checkpoints"
UNREADABLE = "checkpoints_unreadable"
FORMAT = 1


@dataclasses.dataclass(unsafe_hash=True)
class CheckpointConfig:
    """How often to save, and what to keep."""

    every: str = "10 %"
    """How often the state is saved; a new best on validation and the end are saved in any case."""
    keep: int = 2
    """How many of the latest checkpoints are kept, beside the best one on validation."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        parse_duration("checkpoint.every", self.every)
        check_at_least("checkpoint.keep", self.keep, 1)


def make_manager(workdir: Path, config: CheckpointConfig) -> Any:
    """An orbax CheckpointManager that keeps the latest `keep` that were due and the best one."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    score, due = operator.itemgetter("score"), operator.itemgetter("due")
    # Seeds trained together are best at different steps; what all of them keep are those due.
    latest, best = policies.BestN(get_metric_fn=due, n=config.keep), policies.BestN(get_metric_fn=score, n=1)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy([latest, best]),
        best_fn=score,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager((workdir / FOLDER).absolute(), options=options)


def save(manager: Any, state: Any, metadata: dict[str, Any], *, score: float | None, due: bool) -> None:
    """Starts to save `state` under its step; `score` (higher is better) is from validation.

    A step that is on disk already is left alone: a run that went back writes the same again.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    if step in manager.all_steps():
        return
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        metadata=ocp.args.JsonSave(metadata | {"format": FORMAT}),
    )
    # A state that was not evaluated is never the best one.
    never = float("-inf")
    metrics = {"score": never if score is None else score, "due": step if due else never}
    manager.save(step, args=args, metrics=metrics, force=True)


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

    `target` has the shapes, types and shardings wanted. An unreadable checkpoint is named in a
    warning, and, with `set_aside`, moved out of the way of the training that follows.
    """
    steps = sorted(set.intersection(*(set(steps_on_disk(workdir)) for workdir in workdirs)), reverse=True)
    for step in steps:
        restored = []
        for workdir in workdirs:
            try:
                restored.append(restore(workdir, step, target))
            except InputError as error:
                logging.warning("%s; falling back to the one before it", error)
                if set_aside:
                    _set_aside(workdir, step)
                break
        else:
            return restored
    if steps:
        raise InputError(
            f"none of the checkpoints in {workdirs[0] / FOLDER} can be read (steps {steps}); "
            "choose another workdir to start afresh"
        )
    return None


def _set_aside(workdir: Path, step: int) -> None:
    """Moves a checkpoint to checkpoints_unreadable/<step>[.n]; nothing is deleted."""
    folder = workdir / UNREADABLE
    folder.mkdir(exist_ok=True)
    taken = len(list(folder.glob(f"{step}*")))
    (workdir / FOLDER / str(step)).rename(folder / f"{step}.{taken}" if taken else folder / str(step))


def restore(workdir: Path, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
    """(state, metadata) of one checkpoint. A part of the state can be asked for as a dict."""
    import orbax.checkpoint as ocp

    path = (workdir / FOLDER / str(step)).absolute()
    if step not in steps_on_disk(workdir):
        raise InputError(f"{workdir} has no checkpoint of step {step}; there are {steps_on_disk(workdir)}")
    arguments = jax.tree.map(
        lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype),
        target,
    )
    args = ocp.args.Composite(
        state=ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=True),
        metadata=ocp.args.JsonRestore(),
    )
    reason = ""
    with _no_stray_tracebacks():
        try:
            checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
            restored = checkpointer.restore(path, args=args)
            _check_shapes(restored["state"], target)
        except Exception as error:  # Whatever a damaged file makes the libraries raise.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if reason:
            # The reads still on their way end, and those half-done are freed, while it is quiet.
            time.sleep(0.5)
            gc.collect()
    if reason:
        raise InputError(f"checkpoint {path} is unreadable ({reason})")
    if restored["metadata"]["format"] != FORMAT:
        raise InputError(
            f"checkpoint {path} has format {restored['metadata']['format']}; this code reads {FORMAT}"
        )
    return restored["state"], restored["metadata"]


def _check_shapes(restored: Any, target: Any) -> None:
    """Raises ValueError unless all that was wanted is there; orbax alone lets some through."""
    for (path, leaf), wanted in zip(
        jax.tree_util.tree_leaves_with_path(restored), jax.tree.leaves(target), strict=True
    ):
        if not isinstance(leaf, jax.Array) or leaf.shape != wanted.shape:
            raise ValueError(f"{jax.tree_util.keystr(path)} is {leaf!r} instead of {wanted!r}")


@contextlib.contextmanager
def _no_stray_tracebacks() -> Iterator[None]:
    """Silences what orbax's asynchronous reads print from other threads after one of them failed."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
