"""What flows through a net: how large the signal is on its way up, and the gradient on its way down."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from resnet.models.chain import Part

# Root mean squares outside of these are taken for overflow and underflow of float32.
SMALLEST, LARGEST = 1e-30, 1e30


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
    """Natural logarithms of root mean squares, over images, pixels and channels.

    A joint lies before each block, and one behind the last. What lies beyond the joint at which the
    signal leaves the range of float32 is NaN, and so is a gradient that is exactly 0.
    """

    blocks: tuple[str, ...]
    x: Float[np.ndarray, " joints"]
    branch: Float[np.ndarray, " blocks"]
    """Of F(x), before the shortcut scales or gates it."""
    cosine: Float[np.ndarray, " blocks"]
    """Between x and F(x), mean over the images; NaN where their shapes differ."""
    gradient: Float[np.ndarray, " joints"]
    """Of the gradient to the joint; its root mean square at the top is 1 if it starts as noise."""


def flow(parts: Sequence[Part], images: Float[Array, "b h w c"], gradient_at_top) -> Flow:
    """Sends images up the chain `parts`, and a gradient down.

    `gradient_at_top(x)` gives the gradient to x, the output of the last block. It is renormalised at
    every joint, and its scale kept as a logarithm: no depth over- or underflows.
    """
    stem, blocks = parts[0], [part for part in parts if part.own is not None]
    joints, shown = [stem(images)], []
    for block in blocks:
        y, inside = block.open(joints[-1])
        shown.append(_compare(joints[-1], inside["branch"]))
        joints.append(y)
    scales = np.array(jax.device_get([rms(x) for x in joints]), np.float64)
    branch, cosine = np.array(jax.device_get(shown), np.float64).T
    top = _last_alive(scales)
    with np.errstate(divide="ignore"):
        result = Flow(
            tuple(block.name for block in blocks), np.log(scales), np.log(branch), cosine,
            np.full(len(joints), np.nan),
        )  # fmt: skip
    for values, alive in ((result.x, top + 1), (result.branch, top), (result.cosine, top)):
        values[alive:] = np.nan
    result.gradient[: top + 1] = _down(blocks[:top], joints[: top + 1], gradient_at_top)
    return result


def noise_like(x: Array, seed: int = 0) -> Array:
    """Normal values with root mean square 1."""
    noise = jax.random.normal(jax.random.key(seed), x.shape, x.dtype)
    return noise / rms(noise)


def _down(blocks: Sequence[Part], joints: Sequence[Array], gradient_at_top) -> np.ndarray:
    """Logarithm of the gradient's scale at every joint."""
    gradient = gradient_at_top(joints[-1])
    scales = [rms(gradient)]
    for block, x in zip(reversed(blocks), reversed(joints[:-1]), strict=True):
        gradient = block.pull(x, gradient / jnp.where(scales[-1] > 0, scales[-1], 1))
        scales.append(rms(gradient))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.cumsum(np.log(np.array(jax.device_get(scales), np.float64)))[::-1]
    return np.where(np.isfinite(logs), logs, np.nan)


def _last_alive(scales: np.ndarray) -> int:
    """The last joint up to which the signal is in the range of float32; 0 at least."""
    dead = ~((scales > SMALLEST) & (scales < LARGEST))
    return max(int(np.argmax(dead)) - 1, 0) if dead.any() else len(scales) - 1


@jax.jit
def rms(x: Array) -> Array:
    """Root mean square; x is scaled first, because squares overflow at 1e19."""
    wide = x.astype(jnp.float32)
    largest = jnp.maximum(jnp.abs(wide).max(), jnp.finfo(jnp.float32).tiny)
    return largest * jnp.sqrt(jnp.square(wide / largest).mean())


@jax.jit
def _compare(x: Array, branch: Array) -> tuple[Array, Array]:
    """(root mean square of F(x), cosine between x and F(x))."""
    if x.shape != branch.shape:
        return rms(branch), jnp.float32(jnp.nan)
    a, b = (v.astype(jnp.float32).reshape(len(v), -1) / rms(v) for v in (x, branch))
    norms = jnp.sqrt(jnp.square(a).sum(1) * jnp.square(b).sum(1))
    return rms(branch), ((a * b).sum(1) / norms).mean()
