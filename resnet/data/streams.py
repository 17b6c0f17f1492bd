"""Streams of random numbers of a run: what a seed means."""

import jax
from jaxtyping import Array, Int, Key

# The generator and the layout of its draws are named, so that no default and no environment changes them.
GENERATOR = "threefry2x32"
PARTITIONABLE = True
# What tells the streams of one seed apart; the values are arbitrary, but part of what a seed means.
INIT, AUGMENT, DROPOUT, ORDER = 0, 1, 2, 0x0D


def random_key(seed: int | Int[Array, ""], stream: int) -> Key[Array, ""]:
    """The key of one stream of a run."""
    return jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), stream)


def pin_streams() -> None:
    """Sets for this process what JAX draws from a key; it could be otherwise by the environment."""
    jax.config.update("jax_threefry_partitionable", PARTITIONABLE)
