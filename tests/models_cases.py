"""The nets that the tests of the models room run through, made from the grammar's own tables.

A shortcut, order, norm or other choice added to its table is covered here without a further line.
"""

import functools
import itertools
from typing import Any

import jax
import pytest

from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.geometry import FAMILIES
from resnet.models.grammar import CHOICES, check_net
from resnet.models.resnet import ResNet, make_model
from resnet.models.shortcuts.table import SHORTCUTS

# A family that compiles in a second: one block that keeps the shape and one that changes it.
FAMILIES["tiny"] = (4, 8)
TINY = {"family": "tiny", "blocks": (1, 1), "norm_groups": 2}
NUM_OUTPUTS = 5
# For programs that run once: compiling costs more than running.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# What an entry may need of the other fields; as few of them as possible are set.
NEEDS = (
    ("transition", "pad"),
    ("stochastic_depth", 0.0),
    ("gain_corrected", False),
    ("norm", "none"),
    ("gate_norm", False),
    ("weight_standardization", "scaled"),
    ("groups", 1),
    ("branch_width", 1.0),
    ("branch", "basic"),
    ("after_sum", "auto"),
    ("weight_standardization", "none"),
)
# Choices that are no table's.
NUMBERS = {
    "groups": (1, 2),
    "branch_width": (1.0, 2.0),
    "se_ratio": (0.0, 0.25),
    "gain_corrected": (False, True),
    "gate_norm": (False, True),
    "zero_head": (False, True),
    "branch_dropout": (0.0, 0.25),
    "stochastic_depth": (0.0, 0.5),
    "remat": (False, True),
}
# Fields that the mixed cases go through; bfloat16 has tests of its own, families differ in widths only.
VARIED = {
    field: tuple(choices)
    for field, choices in (CHOICES | NUMBERS).items()
    if field not in ("family", "shortcut", "activation_order", "dtype")
}


@functools.cache
def net(**fields: Any) -> ModelConfig | None:
    """A tiny net with these fields and what they need; None where the grammar refuses all of that."""
    for count in range(len(NEEDS) + 1):
        for needed in itertools.combinations(NEEDS, count):
            config = ModelConfig(**(TINY | fields | dict(needed)))
            try:
                check_net(config)
            except InputError:
                continue
            return config
    return None


def plain_cases() -> dict[str, ModelConfig]:
    """Every shortcut in every order that it allows, with nothing but what it needs."""
    pairs = itertools.product(CHOICES["shortcut"], CHOICES["activation_order"])
    made = {f"{s}-{o}": net(shortcut=s, activation_order=o) for s, o in pairs}
    return {name: config for name, config in made.items() if config}


def mixed_cases() -> dict[str, ModelConfig]:
    """Few nets that together have every shortcut, every order and every choice of the other fields."""
    fields = {
        "shortcut": tuple(CHOICES["shortcut"]),
        "activation_order": tuple(CHOICES["activation_order"]),
        **VARIED,
    }
    had, cases = set(), {}
    for n in range(10 * len(fields["shortcut"])):
        # Orders move on with each round, so that every shortcut meets every order.
        wanted = {field: choices[n % len(choices)] for field, choices in fields.items()}
        if wanted.items() <= had or not (config := net(**wanted)):
            continue
        if not had >= (values := {(field, getattr(config, field)) for field in fields}):
            cases[f"{config.shortcut}-{config.activation_order}-{n}"] = config
            had |= values
    return cases


PLAIN = plain_cases()
# As parameters of a test: every shortcut in its first order and the identity in all; the others are thorough.
FIRST = {config.shortcut: name for name, config in reversed(PLAIN.items())}
PLAIN_PARAMS = [
    pytest.param(
        config,
        id=name,
        marks=[] if config.shortcut == "identity" or name in FIRST.values() else pytest.mark.thorough,
    )
    for name, config in PLAIN.items()
    if not SHORTCUTS[config.shortcut].streams  # these have tests of their own: test_models_streams.py
]
MIXED = mixed_cases()


def images(*shape: int, seed: int = 0) -> jax.Array:
    """Noise in the shape of four images, or in another."""
    return jax.random.normal(jax.random.key(seed), shape or (4, 8, 8, 3))


@functools.cache
def start(config: ModelConfig, seed: int = 0) -> tuple[ResNet, dict[str, Any]]:
    """(model, initial variables)."""
    model = make_model(config, NUM_OUTPUTS)
    return model, _initialized(model, seed)


@functools.partial(jax.jit, static_argnums=0)
def _initialized(model: ResNet, seed: int) -> dict[str, Any]:
    """As one program: one by one, its hundreds of small operations take ten times as long to compile."""
    return model.lazy_init(jax.random.key(seed), images())


def split(variables: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(parameters, the other collections)."""
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


def loss(params, state, x, key, model):
    """(mean square of the logits, (logits, features, new statistics)) in training."""
    (logits, features), state = model.apply(
        {"params": params, **state}, x, train=True, mutable=["batch_stats"], rngs={"dropout": key}
    )
    return (logits**2).mean(), (logits, features, state)
