"""Divergence as the jitted step sees it: noticed, left out, and trained on at a lower rate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from resnet.models.scanning import each_block, unstack_blocks
from resnet.training.config import ROLLBACK, SKIP, STOP, TrainConfig

# A spike is judged against the running mean of the loss over about fifty steps, once there were ten.
MEMORY, WARM_UP = 0.98, 10


def watched(config: TrainConfig) -> bool:
    """Whether the step itself looks for divergence; else only the host does, at what it reads anyway."""
    return config.on_divergence != STOP or config.spike_factor > 0


def initial_guard(config: TrainConfig) -> dict[str, Array]:
    """What a step must know to judge the next: {} where nothing is watched."""
    guard = {}
    if config.spike_factor:
        guard |= {"loss": jnp.float32(0.0), "seen": jnp.float32(0.0)}
    if config.on_divergence == ROLLBACK:
        guard["rate"] = jnp.float32(1.0)
    return guard


def at_lowered_rate(updates: Any, guard: Mapping[str, Array]) -> Any:
    """The updates at the learning rate that is left after rollbacks."""
    return jax.tree.map(lambda u: u * guard["rate"], updates) if "rate" in guard else updates


def guarded(old: Any, new: Any, metrics: dict[str, Array], grads: Any, config: TrainConfig) -> Any:
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


def at_rate(state: Any, rollbacks: int, config: TrainConfig) -> Any:
    """The state on the host, at the learning rate that so many rollbacks have left it."""
    if "rate" not in state.guard:
        return state
    rate = np.float32(config.rollback_factor**rollbacks)
    # Rates only fall: the state knows better than a count that was lost with its file.
    return dataclasses.replace(state, guard=state.guard | {"rate": np.minimum(rate, state.guard["rate"])})
