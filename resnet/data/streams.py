"""Streams of random numbers of a run: what a seed means."""

import jax
import numpy as np
from jaxtyping import Array, Float64, Int, Key

# The generator and the layout of its draws are named, so that no default and no environment changes them.
GENERATOR = "threefry2x32"
PARTITIONABLE = True
# What tells the streams of one seed apart; the values are arbitrary, but part of what a seed means.
INIT, AUGMENT, DROPOUT, CROP, MIX, MIRROR, ORDER = 0, 1, 2, 3, 4, 5, 0x0D


def random_key(seed: int | Int[Array, ""], stream: int) -> Key[Array, ""]:
    """The key of one stream of a run."""
    return jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), stream)


def host_draws(seed: int, stream: int, step: int, count: int) -> Float64[np.ndarray, " count"]:
    """Uniform numbers in 0..1 for a step, drawn on the host, which decodes; longer lists begin alike.

    They are made of the bits of Philox4x64-10 (Salmon 2011), which NumPy promises never to change (NEP 19).
    """
    counter = np.array([0, step, 0, 0], np.uint64)
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=counter).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


def pin_streams() -> None:
    """Sets for this process what JAX draws from a key; it could be otherwise by the environment."""
    jax.config.update("jax_threefry_partitionable", PARTITIONABLE)
    jax.config.update("jax_random_seed_offset", 0)
