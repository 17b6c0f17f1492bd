"""Optimisers as one optax chain: clip, decay, momentum or moments, multipliers, learning rate."""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from resnet.errors import InputError, check_at_least, check_choice, check_regex
from resnet.fields import Fields
from resnet.models.scanning import by_path, each_block
from resnet.paths import check_matches
from resnet.training.schedules import Schedule


@dataclasses.dataclass(unsafe_hash=True)
class OptimizerConfig(Fields, section="optimizer"):
    """How gradients become updates."""

    name: str = "sgd"
    """sgd, adamw or lamb."""
    momentum: float = 0.9
    """Momentum of SGD; decay of the first moment in AdamW and LAMB."""
    nesterov: bool = False
    """Whether SGD and AdamW use Nesterov's momentum."""
    beta2: float = 0.999
    """Decay of the second moment in AdamW and LAMB."""
    epsilon: float = 1e-8
    """Added to the root of the second moment in AdamW and LAMB."""
    weight_decay: float = 1e-4
    """Weight decay: for SGD added to the gradient before momentum, as in PyTorch, else decoupled."""
    decay: str = "all"
    """What is decayed: all parameters (as fb.resnet.torch does), or kernels only (as He 2015 does)."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient; a longer one is scaled down. 0 = no clipping."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Pairs (regular expression on the '/'-joined parameter path, factor); first match; 0 freezes."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_choice("optimizer.name", self.name, PRECONDITIONERS)
        check_choice("optimizer.decay", self.decay, DECAYED)
        for field in ("momentum", "beta2"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise InputError(f"`optimizer.{field}` must be at least 0 and below 1; got {value}")
        for field in ("epsilon", "weight_decay", "clip_norm"):
            check_at_least(f"optimizer.{field}", getattr(self, field), 0)
        if self.nesterov and (self.name == "lamb" or self.momentum == 0):
            raise InputError(
                "`optimizer.nesterov` needs `optimizer.name` sgd or adamw and a momentum above 0; "
                f"got name {self.name!r}, momentum {self.momentum}"
            )
        for pair in self.lr_multipliers:
            _check_multiplier(pair)


def _check_multiplier(pair: Any) -> None:
    """Raises InputError unless `pair` is (valid regular expression, factor >= 0)."""
    field = "optimizer.lr_multipliers"
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
        raise InputError(f"`{field}` must hold pairs (regular expression, factor); got {pair!r}")
    check_regex(field, pair[0])
    check_at_least(field, pair[1], 0)


def _is_kernel(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel"


DECAYED = {"all": lambda path: True, "kernels": _is_kernel}


def _decayed_weights(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.add_decayed_weights(config.weight_decay, partial(by_path, DECAYED[config.decay]))


def _sgd(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """Momentum SGD with coupled L2, in PyTorch's order: g + wd p, then momentum, then the rate."""
    return [_decayed_weights(config), optax.trace(config.momentum, config.nesterov)]


def _adamw(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """Adam with decoupled decay (https://arxiv.org/abs/1711.05101)."""
    moments = optax.scale_by_adam(config.momentum, config.beta2, config.epsilon, nesterov=config.nesterov)
    return [moments, _decayed_weights(config)]


def _lamb(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """AdamW scaled layer by layer to the weights' norm (https://arxiv.org/abs/1904.00962)."""
    ratio = optax.scale_by_trust_ratio()

    def scaled(update, param):
        return ratio.update(update, ratio.init(param), param)[0]

    return [*_adamw(config), optax.stateless(partial(each_block, scaled))]


PRECONDITIONERS = {"sgd": _sgd, "adamw": _adamw, "lamb": _lamb}


def _multipliers(config: OptimizerConfig) -> optax.GradientTransformation:
    """Scales each update by the factor of the first expression that its path matches, else 1."""

    def factor(path):
        matches = (f for regex, f in config.lr_multipliers if re.search(regex, path))
        return next(matches, 1.0)

    def scale(updates, params):
        return jax.tree.map(jnp.multiply, updates, by_path(factor, updates))

    return optax.stateless(scale)


def _matches(regex: str) -> Callable[[str], bool]:
    return lambda path: bool(re.search(regex, path))


def constant_where(freeze: str, params: Any) -> Any:
    """The parameters, under stop_gradient where their path matches the regular expression `freeze`."""

    def hold(leaf: Array, frozen: Any) -> Array:
        constant = jax.lax.stop_gradient(leaf)
        if isinstance(frozen, bool):
            return constant if frozen else leaf
        return jnp.where(frozen, constant, leaf)

    return jax.tree.map(hold, params, by_path(_matches(freeze), params)) if freeze else params


def _frozen(freeze: str) -> optax.GradientTransformation:
    """Sets the update to -0.0 where the path matches: x + -0.0 has the bits of x, also where x is a zero."""

    def stop(updates, params):
        frozen = by_path(_matches(freeze), updates)
        return jax.tree.map(lambda update, stopped: jnp.where(stopped, -0.0, update), updates, frozen)

    return optax.stateless(stop)


def make_optimizer(
    config: OptimizerConfig, schedule: Schedule, freeze: str = ""
) -> optax.GradientTransformation:
    """The whole chain; its state's structure does not depend on `schedule`.

    Parameters whose path matches the regular expression `freeze` keep their bits, whatever their gradient.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    multipliers = [_multipliers(config)] if config.lr_multipliers else []
    return optax.chain(
        *clip,
        *PRECONDITIONERS[config.name](config),
        *multipliers,
        optax.scale_by_learning_rate(schedule),
        *([_frozen(freeze)] if freeze else []),
    )


def check_multipliers(config: OptimizerConfig, params: Any) -> None:
    """Raises InputError for an expression of `lr_multipliers` that matches no parameter."""
    for regex, _ in config.lr_multipliers:
        check_matches("optimizer.lr_multipliers", regex, params)
