"""Losses and gradients that leave all bounds: noticed, named, left out, or gone back from."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from resnet.errors import InputError, check_at_least, check_choice
from resnet.models.scanning import each_block, unstack_blocks
from resnet.paths import leaf_paths
from resnet.runs.records import write_json
from resnet.runtime.signals import RunStopped

if TYPE_CHECKING:
    from resnet.training.steps import TrainConfig

FILE = "rollbacks.json"
STOP, SKIP, ROLLBACK = POLICIES = ("stop", "skip", "rollback")
# A spike is one against the mean of the loss over about fifty steps, once there are ten of them.
MEMORY, WARM_UP = 0.98, 10
# A run that leaves out so many updates one after the other will not recover.
IN_A_ROW = 100
SHOWN = 4


class Diverged(RunStopped):
    """A loss, gradient or parameter that training cannot go on from."""

    def __init__(self, reason: str, step: int, window: tuple[int, int], norms: np.ndarray | None = None):
        """`norms` are those of each parameter's gradient, where they were watched."""
        super().__init__(f"{reason} at step {step} (window {window[0]}-{window[1]})", exit_code=1)
        self.step, self.norms = step, norms


def check_policy(config: "TrainConfig") -> None:
    """Raises InputError naming the field."""
    check_choice("train.on_divergence", config.on_divergence, POLICIES)
    if config.spike_factor and not config.spike_factor > 1:
        raise InputError(f"`train.spike_factor` must be 0 (off) or above 1; got {config.spike_factor}")
    check_at_least("train.rollbacks", config.rollbacks, 1)
    if not 0 < config.rollback_factor < 1:
        raise InputError(f"`train.rollback_factor` must lie between 0 and 1; got {config.rollback_factor}")


def watched(config: "TrainConfig") -> bool:
    """Whether the step itself looks for divergence; else only the host does, at what it reads anyway."""
    return config.on_divergence != STOP or config.spike_factor > 0


def initial_guard(config: "TrainConfig") -> dict[str, Array]:
    """What a step must know to judge the next: {} where nothing is watched."""
    guard = {}
    if config.spike_factor:
        guard |= {"loss": jnp.float32(0.0), "seen": jnp.float32(0.0)}
    if config.on_divergence == ROLLBACK:
        guard["rate"] = jnp.float32(1.0)
    return guard


def scaled(updates: Any, guard: Mapping[str, Array]) -> Any:
    """The updates at the learning rate that is left after rollbacks."""
    return jax.tree.map(lambda u: u * guard["rate"], updates) if "rate" in guard else updates


def guarded(old: Any, new: Any, metrics: dict[str, Array], grads: Any, config: "TrainConfig") -> Any:
    """(state, metrics) after a step from `old` to `new`, in which "diverged" is 1.0 or 0.0.

    Under the policy skip, a step that diverged changes nothing but its number and the schedule's.
    """
    loss, guard = metrics["loss"], dict(old.guard)
    bad = ~(jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]))
    if config.spike_factor:
        mean, seen = guard["loss"], guard["seen"]
        bad |= (seen >= WARM_UP) & (loss > config.spike_factor * mean)
        # In this form the first loss is the first mean, and later ones count less and less.
        share = 1.0 - jnp.minimum(MEMORY, seen / (seen + 1.0))
        guard["loss"] = jnp.where(bad, mean, mean + share * (loss - mean))
        guard["seen"] = jnp.where(bad, seen, seen + 1.0)
    metrics = metrics | {"diverged": bad.astype(jnp.float32), "gradient_norms": _norms(grads)}
    if "rate" in guard:
        metrics["learning_rate"] = metrics["learning_rate"] * guard["rate"]
    new = dataclasses.replace(new, guard=guard)
    return (_kept(old, new, bad) if config.on_divergence == SKIP else new), metrics


def _norms(grads: Any) -> Array:
    """The norm of each parameter's gradient, in the order of their paths, blocks apart."""
    norms = each_block(lambda grad: jnp.linalg.norm(grad.astype(jnp.float32).ravel()), grads)
    leaves, structure = jax.tree.flatten(norms)
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = [
        np.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)
    ]
    order = jax.tree.leaves(unstack_blocks(structure.unflatten(places)))
    return jnp.concatenate([leaf.ravel() for leaf in leaves])[np.stack(order)]


def _kept(old: Any, new: Any, bad: Array) -> Any:
    """`old` where `bad`, else `new`; step, guard and the schedule's count go on."""

    def goes_on(leaf: Any) -> bool:
        return isinstance(leaf, optax.ScaleByScheduleState)

    def choose(was: Any, now: Any) -> Any:
        return now if goes_on(now) else jnp.where(bad, was, now)

    names = ("params", "batch_stats", "opt_state", "ema")
    changed = {
        name: jax.tree.map(choose, getattr(old, name), getattr(new, name), is_leaf=goes_on) for name in names
    }
    return dataclasses.replace(new, **changed)


def reason(values: Mapping[str, float], spike_factor: float = 0.0) -> str:
    """Why a step with these metrics diverged; "" if it did not."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(values[name]):
            return f"{name} is {values[name]}"
    if values.get("diverged"):
        return f"loss is {values['loss']:.4g}, more than {spike_factor:g} times its mean,"
    return ""


def check_state(state: Any, step: int) -> None:
    """Raises Diverged if a number of a state on the host is not finite: no such checkpoint is written."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
        raise Diverged("a state that is not finite", step, (step, step))


def offending(params: Any, norms: np.ndarray | None) -> str:
    """The parameters to look at: first those of gradients that are not finite, or are largest."""
    paths = leaf_paths(params)
    if norms is None:
        finite = [bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)]
        if all(finite):
            return "all parameters are finite"
        return _named("parameters not finite", paths, finite)
    if np.isfinite(norms).all():
        largest = [paths[i] for i in np.argsort(-norms)[:SHOWN]]
        return f"the largest gradients are those of {', '.join(largest)}"
    return _named("gradients not finite", paths, np.isfinite(norms).tolist())


def _named(what: str, paths: Sequence[str], finite: Sequence[bool]) -> str:
    bad = [path for path, ok in zip(paths, finite, strict=True) if not ok]
    if len(bad) == len(paths):
        return f"{what}: all {len(bad)}"
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{what}: {', '.join(bad[:SHOWN])}{more}"


def with_rates(state: Any, rollbacks: Sequence[int], config: "TrainConfig") -> Any:
    """A state with a leading axis of runs, each at the rate that so many rollbacks have left it."""
    if "rate" not in state.guard:
        return state
    rates = np.asarray([config.rollback_factor**count for count in rollbacks], np.float32)
    rate = jax.device_put(rates, state.guard["rate"].sharding)
    return dataclasses.replace(state, guard=state.guard | {"rate": rate})


def read_rollbacks(workdir: Path) -> list[dict[str, Any]]:
    """What a run went back from: [{"step", "reason", "to", "rate"}], in order."""
    path = workdir / FILE
    return json.loads(path.read_text()) if path.exists() else []


def write_rollback(workdir: Path, error: Diverged, to: int, factor: float) -> None:
    """Adds that the run went back to the checkpoint of a step, with its rates times `factor` once more."""
    known = read_rollbacks(workdir)
    rate = factor ** (len(known) + 1)
    write_json(workdir / FILE, [*known, {"step": error.step, "reason": str(error), "to": to, "rate": rate}])
