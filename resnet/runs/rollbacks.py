"""Runs that diverge: the reason, the parameters to look at, and the record of each rollback."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet.errors import first_of
from resnet.paths import leaf_paths
from resnet.runs.metrics.records import read_json, write_json
from resnet.runtime.sharding import finite
from resnet.runtime.signals import RunStopped

FILE = "rollbacks.json"
SHOWN = 4  # gradients, the largest


class Diverged(RunStopped):
    """A loss, gradient or parameter that training cannot go on from."""

    def __init__(self, reason: str, step: int, window: tuple[int, int], norms: np.ndarray | None = None):
        """`norms` are those of each parameter's gradient, where they were watched."""
        super().__init__(f"{reason} at step {step} (window {window[0]}-{window[1]})", exit_code=1)
        self.step, self.norms = step, norms


class RollBack(Exception):
    """A run is to be taken up again from its last due checkpoint, at a lower rate."""

    def __init__(self, workdir: Path, error: Diverged):
        super().__init__(str(error))
        self.workdir, self.error = workdir, error


def reason(values: Mapping[str, float], spike_factor: float = 0.0) -> str:
    """Why a step with these metrics diverged; "" if it did not."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            return f"{name} is {values[name]}"
    if values.get("diverged"):
        return f"loss is {values['loss']:.4g}, more than {spike_factor:g} times its mean,"
    return ""


def check_state(state: Any, step: int) -> None:
    """Raises Diverged if a number of a state is not finite: no such checkpoint is written."""
    if not all(finite(state)):
        raise Diverged("a state that is not finite", step, (step, step))


def offending(params: Any, norms: np.ndarray | None) -> str:
    """The parameters to look at: first those of gradients that are not finite, or are largest."""
    paths = leaf_paths(params)
    if norms is None:
        good = finite(params)
        return "all parameters are finite" if all(good) else _named("parameters not finite", paths, good)
    if np.isfinite(norms).all():
        largest = [paths[i] for i in np.argsort(-norms)[:SHOWN]]
        return f"the largest gradients are those of {', '.join(largest)}"
    return _named("gradients not finite", paths, np.isfinite(norms).tolist())


def _named(what: str, paths: Sequence[str], finite: Sequence[bool]) -> str:
    bad = [path for path, ok in zip(paths, finite, strict=True) if not ok]
    if len(bad) == len(paths):
        return f"{what}: all {len(bad)}"
    return f"{what}: {first_of(bad)}"


def read_rollbacks(workdir: Path) -> list[dict[str, Any]]:
    """What a run went back from: [{"step", "reason", "to", "rate"}], in order."""
    return read_json(workdir / FILE, _are_rollbacks, aside=True) or []


def _are_rollbacks(value: Any) -> bool:
    return all({"step", "reason", "to", "rate"} <= set(each) for each in value)


def write_rollback(workdir: Path, error: Diverged, to: int, factor: float) -> None:
    """Adds that the run went back to the checkpoint of a step, with its rates times `factor` once more."""
    known = read_rollbacks(workdir)
    rate = factor ** (len(known) + 1)
    write_json(workdir / FILE, [*known, {"step": error.step, "reason": str(error), "to": to, "rate": rate}])
