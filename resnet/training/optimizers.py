"""Optimisers as one optax chain: clipping, decay, momentum or moments, multipliers and learning rate."""

import copy
import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from absl import logging
from jaxtyping import Array

from resnet.errors import InputError, check_at_least, check_choice, check_regex
from resnet.fields import Fields
from resnet.models.scanning import by_path, each_block, is_stacked
from resnet.paths import check_matches, leaf_paths, parameter_path
from resnet.training.schedules import Schedule


@dataclasses.dataclass(unsafe_hash=True)
class OptimizerConfig(Fields, section="optimizer"):
    """How gradients become updates."""

    name: str = "sgd"
    """sgd, adamw, lamb, lars, rmsprop, lion or muon."""
    momentum: float = 0.9
    """Momentum of SGD, LARS, RMSProp and Muon; decay of the first moment in AdamW, LAMB and Lion."""
    nesterov: bool = False
    """Whether SGD, AdamW, LARS and Muon use Nesterov's momentum."""
    beta2: float = 0.999
    """Decay of the second moment in AdamW, LAMB, RMSProp and Muon's Adam; of the momentum in Lion."""
    epsilon: float = 1e-8
    """Added to the root of the second moment; in RMSProp, to the second moment under the root; in Muon, to
    the norm of a kernel too."""
    weight_decay: float = 1e-4
    """Weight decay: in SGD, LARS and RMSProp added to the gradient, as in PyTorch, else decoupled."""
    decay: str = "all"
    """What is decayed: all parameters (as fb.resnet.torch does), or kernels only (as He 2015 does)."""
    adapt: str = "all"
    """What LAMB and LARS scale to the norm of the weights: all parameters, or kernels only, as timm does."""
    trust: float = 0.001
    """Norm of an update over that of the weights in LARS, at a learning rate of 1."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient; a longer one is scaled down. 0 = no clipping."""
    lr_multipliers: tuple[tuple[str, float], ...] = ()
    """Pairs (regular expression on the '/'-joined parameter path, factor); first match; 0 freezes."""
    within: tuple[tuple[str, float], ...] = ()
    """Pairs (regular expression on the path, b) of parameters that each step leaves between -b and b
    (weighted residuals: shortcut/alpha, 1); first match."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_choice("optimizer.name", self.name, PRECONDITIONERS)
        check_choice("optimizer.decay", self.decay, CHOSEN)
        check_choice("optimizer.adapt", self.adapt, CHOSEN)
        for field in ("momentum", "beta2"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise InputError(f"`optimizer.{field}` must be at least 0 and below 1; got {value}")
        for field in ("epsilon", "weight_decay", "clip_norm", "trust"):
            check_at_least(f"optimizer.{field}", getattr(self, field), 0)
        if self.nesterov and ("nesterov" in self.idle() or self.momentum == 0):
            names = ", ".join(_readers("nesterov"))
            raise InputError(
                f"`optimizer.nesterov` needs a momentum above 0 and one of the optimisers {names}; "
                f"got name {self.name!r}, momentum {self.momentum}"
            )
        for field in PAIRS:
            for pair in getattr(self, field):
                _check_pair(f"optimizer.{field}", pair)

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, and what each of them is for."""
        of_some = {field for each in PRECONDITIONERS.values() for field in each.fields}
        unread = of_some.difference(PRECONDITIONERS[self.name].fields)
        found = {field: f"`optimizer.name` {', '.join(_readers(field))}" for field in unread}
        return found if self.weight_decay else found | {"decay": "`optimizer.weight_decay` above 0"}


PAIRS = ("lr_multipliers", "within")
"""Fields that give numbers to parameters by their paths."""


def _check_pair(field: str, pair: Any) -> None:
    """Raises InputError unless `pair` is (valid regular expression, number >= 0)."""
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
        raise InputError(f"`{field}` must hold pairs (regular expression, number); got {pair!r}")
    check_regex(field, pair[0])
    check_at_least(field, pair[1], 0)


def _is_kernel(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel"


CHOSEN = {"all": lambda path: True, "kernels": _is_kernel}
Chain = list[optax.GradientTransformation]


def _decayed_weights(config: OptimizerConfig) -> optax.GradientTransformation:
    return optax.add_decayed_weights(config.weight_decay, partial(by_path, CHOSEN[config.decay]))


def _sgd(config: OptimizerConfig, rate: Chain) -> Chain:
    """Momentum SGD with coupled L2, in PyTorch's order: g + wd p, then momentum, then the rate."""
    return [_decayed_weights(config), optax.trace(config.momentum, config.nesterov), *rate]


def _adam(config: OptimizerConfig) -> Chain:
    """Adam with decoupled decay (https://arxiv.org/abs/1711.05101), without its rate."""
    moments = optax.scale_by_adam(config.momentum, config.beta2, config.epsilon, nesterov=config.nesterov)
    return [moments, _decayed_weights(config)]


def _adamw(config: OptimizerConfig, rate: Chain) -> Chain:
    return [*_adam(config), *rate]


def _lamb(config: OptimizerConfig, rate: Chain) -> Chain:
    """AdamW scaled layer by layer to the weights' norm (https://arxiv.org/abs/1904.00962)."""
    return [*_adam(config), _trust_ratios(config, 1.0), *rate]


def _lars(config: OptimizerConfig, rate: Chain) -> Chain:
    """SGD whose gradients are scaled to the norms of the weights (https://arxiv.org/abs/1708.03888).

    As in MLPerf, the learning rate comes before momentum.
    """
    momentum = optax.trace(config.momentum, config.nesterov)
    return [_decayed_weights(config), _trust_ratios(config, config.trust), *rate, momentum]


def _rmsprop(config: OptimizerConfig, rate: Chain) -> Chain:
    """TensorFlow's: mean squares start at 1, epsilon is under the root, the rate comes before momentum."""
    squares = optax.scale_by_rms(config.beta2, config.epsilon, initial_scale=1.0, eps_in_sqrt=True)
    return [_decayed_weights(config), squares, *rate, optax.trace(config.momentum)]


def _lion(config: OptimizerConfig, rate: Chain) -> Chain:
    """The sign of a momentum (https://arxiv.org/abs/2302.06675)."""
    return [optax.scale_by_lion(config.momentum, config.beta2), _decayed_weights(config), *rate]


def _muon(config: OptimizerConfig, rate: Chain) -> Chain:
    """Orthogonalised momentum for kernels of blocks, as matrices [all inputs, outputs]; Adam for the rest.

    Source: https://kellerjordan.github.io/posts/muon, which trains the first and last layers by AdamW.
    """

    def matrix(path, leaf):
        name, axes = parameter_path(path), leaf.ndim - is_stacked(path)
        hidden = _is_kernel(name) and axes > 1 and not name.startswith(("stem/", "head/"))
        return optax.contrib.MuonDimensionNumbers(tuple(range(-axes, -1)), -1) if hidden else None

    muon = optax.contrib.muon(
        -1.0,  # the sign is turned once more by the rate
        beta=config.momentum,
        eps=config.epsilon,
        nesterov=config.nesterov,
        adam_b1=config.momentum,
        adam_b2=config.beta2,
        muon_weight_dimension_numbers=partial(jax.tree_util.tree_map_with_path, matrix),
    )
    return [muon, _decayed_weights(config), *rate]


def _trust_ratios(config: OptimizerConfig, coefficient: float) -> optax.GradientTransformation:
    """Scales each chosen update to the norm of its weights times the coefficient."""
    ratio = optax.scale_by_trust_ratio(trust_coefficient=coefficient)

    def scaled(update, param):
        return ratio.update(update, ratio.init(param), param)[0]

    def scale(updates, params):
        chosen = by_path(CHOSEN[config.adapt], updates)
        every = each_block(scaled, updates, params)
        return jax.tree.map(lambda own, update, new: new if own else update, chosen, updates, every)

    return optax.stateless(scale)


@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """An optimiser's own part of the chain."""

    chain: Callable[[OptimizerConfig, Chain], Chain]
    """chain(config, rate) puts it around the steps `rate`, which apply the learning rate."""
    fields: tuple[str, ...] = ()
    """The fields of the config that it reads, and others may not."""


PRECONDITIONERS = {
    "sgd": Preconditioner(_sgd, ("nesterov",)),
    "adamw": Preconditioner(_adamw, ("nesterov", "beta2", "epsilon")),
    "lamb": Preconditioner(_lamb, ("beta2", "epsilon", "adapt")),
    "lars": Preconditioner(_lars, ("nesterov", "adapt", "trust")),
    "rmsprop": Preconditioner(_rmsprop, ("beta2", "epsilon")),
    "lion": Preconditioner(_lion, ("beta2",)),
    "muon": Preconditioner(_muon, ("nesterov", "beta2", "epsilon")),
}


def _readers(field: str) -> list[str]:
    """The names of the optimisers that read a field."""
    return [name for name, each in PRECONDITIONERS.items() if field in each.fields]


def _first_match(pairs: tuple[tuple[str, float], ...], otherwise: float) -> Callable[[str], float]:
    """The number of the first expression that a path matches."""
    return lambda path: next((number for regex, number in pairs if re.search(regex, path)), otherwise)


def _multipliers(config: OptimizerConfig) -> optax.GradientTransformation:
    """Scales each update by its factor in `lr_multipliers`, else 1."""
    factor = _first_match(config.lr_multipliers, 1.0)

    def scale(updates, params):
        return jax.tree.map(jnp.multiply, updates, by_path(factor, updates))

    return optax.stateless(scale)


def _within(config: OptimizerConfig) -> optax.GradientTransformation:
    """Shortens the updates that would leave the bounds of `within`; the others keep their bits."""
    bound = _first_match(config.within, math.inf)

    def project(updates, params):
        def inside(update, param, b):
            return jnp.where(jnp.isinf(b), update, jnp.clip(param + update, -b, b) - param)

        return jax.tree.map(inside, updates, params, by_path(bound, updates))

    return optax.stateless(project)


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
    """The whole chain, by the config as it is now; its state's structure does not depend on `schedule`.

    Parameters whose path matches the regular expression `freeze` keep their bits, whatever their gradient.
    Raises InputError for a field that cannot work. `check_paths` compares expressions with parameters.
    """
    config.check()
    config = copy.copy(config)
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    multipliers = [_multipliers(config)] if config.lr_multipliers else []
    rate = [*multipliers, optax.scale_by_learning_rate(schedule)]
    within = [_within(config)] if config.within else []
    frozen = [_frozen(freeze)] if freeze else []
    return optax.chain(*clip, *PRECONDITIONERS[config.name].chain(config, rate), *within, *frozen)


def check_paths(config: OptimizerConfig, params: Any) -> None:
    """Checks that each expression of `lr_multipliers` and `within` matches the path of a parameter.

    Raises InputError for one that matches none. Warns of one if earlier ones match all its parameters.
    """
    paths = leaf_paths(params)
    for field in PAIRS:
        left = paths
        for regex, _ in getattr(config, field):
            check_matches(f"optimizer.{field}", regex, paths)
            before, left = left, [path for path in left if not re.search(regex, path)]
            if left == before:
                logging.warning("`optimizer.%s`: %r has no effect, as earlier expressions match all that it "
                                "does; put it first, or leave it out", field, regex)  # fmt: skip
