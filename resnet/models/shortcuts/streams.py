"""Shortcuts that carry several streams of x from block to block, which each block mixes anew.

They lie one behind another in the channels of what is carried; `Mixture` says what a block does with them.
Hyper-connections: Zhu 2024 (arXiv 2409.19606), and doubly stochastic Xie 2025 (arXiv 2512.24880). LAuReL's
previous activations: Menghani 2024 (arXiv 2411.07501). Attention over depth: arXiv 2603.15031. RevNet: Gomez
2017 (arXiv 1707.04585).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.models.branches import ORDERS, activation_after_sum
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import block_specs, count_blocks
from resnet.models.layers import KERNEL_INITS, NORM, Layers
from resnet.models.shortcuts.junction import Carried, Junction, Mixture, Shortcut, Streams
from resnet.models.shortcuts.reversible import scan_reversibly

FACTOR = 0.01  # of what depends on the pixel, at the start: Zhu 2024's code and Xie 2025, Table 5.
SINKHORN_STEPS = 20  # Xie 2025, Table 5.
EPSILON = 1e-6


def apart(carried: Carried, n: int) -> Float[Array, "b h w n c"]:
    """The streams, along an axis of their own."""
    return carried.reshape(*carried.shape[:3], n, -1)


def side_by_side(streams: Float[Array, "b h w n c"]) -> Carried:
    """The streams one behind another in the channels."""
    return streams.reshape(*streams.shape[:3], -1)


def each_stream(transition: Callable[[Array], Array], carried: Carried, n: int) -> Float[Array, "b y x _"]:
    """A transition applied to every stream, as if these were further images."""
    streams = jnp.moveaxis(apart(carried, n), 3, 0)
    moved = transition(streams.reshape(-1, *streams.shape[2:]))
    return side_by_side(jnp.moveaxis(moved.reshape(n, -1, *moved.shape[1:]), 0, 3))


def weighted(carried: Carried, weights: Float[Array, "#b #h #w n"]) -> Float[Array, "b h w c"]:
    """The sum of the streams, each times its weight."""
    return (apart(carried, weights.shape[-1]) * weights[..., None].astype(carried.dtype)).sum(3)


def mixing(mixture: Callable[[Junction, Carried], Mixture]) -> Callable:
    """A `Streams.read`, of a function that gives a block's mixture."""

    def read(at: Junction, carried: Carried) -> tuple[Array, Mixture]:
        found = mixture(at, carried)
        return weighted(carried, found.read), found

    return read


def mix_streams(at, carried, branch):
    """H_j becomes sum_i mix_ij H_i + write_j F, with the weights of every stride-th pixel."""
    mixture, stride = at.mixture, at.block.stride
    write = mixture.write[:, ::stride, ::stride].astype(carried.dtype)
    kept = apart(carried, write.shape[-1])
    if mixture.mix is not None:
        mix = mixture.mix[:, ::stride, ::stride].astype(carried.dtype)
        kept = (kept[..., :, None, :] * mix[..., None]).sum(3)
    return side_by_side(kept + write[..., None] * branch[..., None, :])


# What leaves the stem as streams, and the streams as what the head is given.


def copies(x: Float[Array, "b h w c"], n: int) -> Carried:
    """Every stream starts as x."""
    return jnp.tile(x, (1, 1, 1, n))


def first(x: Float[Array, "b h w c"], n: int) -> Carried:
    """The first stream starts as x, the others as zeros."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, (n - 1) * x.shape[-1])))


def the_sum(layers: Layers, carried: Carried, n: int) -> Float[Array, "b h w c"]:
    """All streams added."""
    return apart(carried, n).sum(3)


def the_first(layers: Layers, carried: Carried, n: int) -> Float[Array, "b h w c"]:
    """The first stream."""
    return apart(carried, n)[..., 0, :]


# Hyper-connections.


def static(at: Junction, carried: Carried) -> Mixture:
    """Block k reads stream k mod n at the start, mixes none, and writes F to all: n^2 + 2n numbers."""
    return Mixture(*_static(at))


def dynamic(at: Junction, carried: Carried) -> Mixture:
    """The static mixture plus s tanh(H' W), H' the normed streams; W starts at 0, both s at 0.01.

    With `optimizer.decay` kernels, W is decayed and the static mixture is not, as in the paper.
    """
    (read, mix, write), streams = _static(at), apart(carried.astype(jnp.float32), at.config.streams)
    n, channels = streams.shape[-2:]
    normed = _rms_normed(streams) * _learned(at.layers, "norm", jnp.ones(channels))[None, None, None, None]
    moved = jnp.tanh(normed @ _learned(at.layers, "kernel", jnp.zeros((channels, n + 2))))
    alpha, beta = (at.layers.scalar(name, FACTOR, streams) for name in ("alpha", "beta"))
    return Mixture(read + alpha * moved[..., 0], mix + alpha * moved[..., 2:], write + beta * moved[..., 1])


def _static(at: Junction) -> tuple[Array, Array, Array]:
    """What is read, mixed and written, learned."""
    n = at.config.streams
    starts = {"read": jax.nn.one_hot(at.block.index % n, n), "mix": jnp.eye(n), "write": jnp.ones(n)}
    read, mix, write = (_everywhere(_learned(at.layers, *each)) for each in starts.items())
    return read, mix, write


def doubly_stochastic(at: Junction, carried: Carried) -> Mixture:
    """sigmoid(a) is read, 2 sigmoid(b) written, sinkhorn(c) mixed, so that no product of mixtures grows.

    (a, b, c) = alpha (v Phi) + bias, v all streams of the pixel together, normed. The paper leaves open how
    Phi and bias start: here Phi with variance 1 / (n C), so that the streams come to differ, and bias at 0.
    """
    n = at.config.streams
    v = _rms_normed(carried.astype(jnp.float32))
    phi = at.layers.module.param("kernel", KERNEL_INITS["lecun"], (v.shape[-1], n * (n + 2)))
    logits, biases = v @ phi, _learned(at.layers, "bias", jnp.zeros(n * (n + 2)))
    a, b, c = (
        at.layers.scalar(f"alpha_{name}", FACTOR, v) * part + _everywhere(bias)
        for name, part, bias in zip(
            ("read", "write", "mix"),
            jnp.split(logits, (n, 2 * n), axis=-1),
            jnp.split(biases, (n, 2 * n)),
            strict=True,
        )
    )
    # A row of the paper's matrix is a stream that is written.
    mix = jnp.swapaxes(sinkhorn(c.reshape(*c.shape[:3], n, n)), -2, -1)
    return Mixture(jax.nn.sigmoid(a), mix, 2 * jax.nn.sigmoid(b))


def sinkhorn(logits: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """exp(logits) with columns, then rows, divided by their sums, 20 times: nearly doubly stochastic."""
    largest = jax.lax.stop_gradient(logits.max((-2, -1), keepdims=True))

    def divided(matrix: Array, _: None) -> tuple[Array, None]:
        matrix = matrix / matrix.sum(-2, keepdims=True)
        return matrix / matrix.sum(-1, keepdims=True), None

    # As a loop: written out, the steps of all blocks take longer to compile than the rest of the net.
    return jax.lax.scan(divided, jnp.exp(logits - largest), None, SINKHORN_STEPS)[0]


# Others.


def second(at: Junction, carried: Carried) -> tuple[Array, None]:
    """F is applied to x2."""
    return jnp.split(carried, 2, axis=-1)[1], None


def reversible(at, carried, branch):
    """(x1, x2) becomes (x2, x1 + F(x2)): two blocks are a unit of RevNet, whose G is the second's F."""
    x1, x2 = jnp.split(carried, 2, axis=-1)
    return jnp.concatenate([x2, x1 + branch], axis=-1)


def check_reversible(config: ModelConfig) -> None:
    """Raises InputError where a block could not be inverted, or has no halves."""
    _check_bare_sum(config)
    for block in block_specs(config):
        for width in (block.inputs, block.width, block.outputs):
            if width % 2:
                raise InputError(f"shortcut 'reversible' halves the channels, and {block.name} has {width}; "
                                 "set model.width so that all are even")  # fmt: skip


def previous(at: Junction, carried: Carried) -> Mixture:
    """x + F(x) + sum_j gamma_j x_(-j), x_(-j) the input of the j-th block before; gamma starts at 0."""
    n = at.config.streams
    gamma = _learned(at.layers, "gamma", jnp.zeros(n - 1))
    mix = jnp.eye(n, k=1).at[:, 0].set(jnp.append(1.0, gamma))
    newest = jnp.eye(n)[0]
    return Mixture(*map(_everywhere, (newest, mix, newest)))


def check_previous(config: ModelConfig) -> None:
    """Raises InputError where there is no stream for an input of before, or where later sums change it."""
    order = ORDERS[config.activation_order]
    activation = activation_after_sum(config, order)
    kept = activation == "identity" or (activation == "relu" and not config.gain_corrected)
    if NORM in order.after_sum or not kept:
        raise InputError("shortcut 'laurel_previous' carries earlier inputs through what follows each sum; "
                         "only the identity and ReLU leave them as they are: set "
                         "model.activation_order=preactivation and model.after_sum=auto")  # fmt: skip
    if config.streams < 2:
        raise InputError("shortcut 'laurel_previous' gives each block `model.streams` outputs of blocks, its "
                         f"input among them; set model.streams=2 or more; got {config.streams}")  # fmt: skip


def depth_attention(at: Junction, carried: Carried) -> Mixture:
    """F of block k is applied to a mean of the stem's output and of what the branches before gave."""
    place, n = at.number, count_outputs(at.config)
    assert place is not None
    known = jnp.arange(n) <= place
    written = (jnp.arange(n) == place + 1).astype(jnp.float32)
    return Mixture(_attended(at.layers, carried, known), None, _everywhere(written))


def attend_to_all(layers: Layers, carried: Carried, n: int) -> Float[Array, "b h w c"]:
    """The head reads the streams as a block does."""
    return weighted(carried, _attended(layers, carried, jnp.ones(n, bool)))


def _attended(layers: Layers, carried: Carried, known: Array) -> Float[Array, "b h w n"]:
    """The softmax of w . H'_i over the streams that are known, H' the normed streams; w starts at 0."""
    normed = _rms_normed(apart(carried.astype(jnp.float32), len(known)))
    logits = normed @ _learned(layers, "query", jnp.zeros(normed.shape[-1]))
    return jax.nn.softmax(jnp.where(_everywhere(known), logits, -jnp.inf))


def check_depth_attention(config: ModelConfig) -> None:
    """Raises InputError where streams that no block has written would not stay zeros."""
    _check_bare_sum(config)
    if config.transition not in ("pad", "none"):
        raise InputError(
            "shortcut 'depth_attention' keeps streams of zeros for the blocks to come, which "
            f"model.transition={config.transition!r} would change; set model.transition=pad"
        )


def block_index(config: ModelConfig, block: BlockSpec) -> float:
    """The number of the block in the net, from 0."""
    return float(block.index)


def _check_bare_sum(config: ModelConfig) -> None:
    if ORDERS[config.activation_order].after_sum or config.after_sum not in ("auto", "identity"):
        raise InputError(f"shortcut {config.shortcut!r} is defined where nothing follows the sum; set "
                         "model.activation_order=preactivation and model.after_sum=auto")  # fmt: skip


def _learned(layers: Layers, name: str, start: Array) -> Array:
    """Learned values, in float32."""
    return layers.module.param(name, lambda key: start)


def _everywhere(values: Array) -> Array:
    """The same for all images and pixels."""
    return values[None, None, None]


def _rms_normed(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)


def count_outputs(config: ModelConfig) -> int:
    """The stem, and every block."""
    return count_blocks(config) + 1


SHORTCUTS = {
    "hyper_static": Shortcut(
        mix_streams, fields=("streams",), streams=Streams(mixing(static), copies, the_sum)
    ),
    "hyper_dynamic": Shortcut(
        mix_streams, fields=("streams",), streams=Streams(mixing(dynamic), copies, the_sum)
    ),
    "hyper_stochastic": Shortcut(
        mix_streams, fields=("streams",), streams=Streams(mixing(doubly_stochastic), copies, the_sum)
    ),
    "laurel_previous": Shortcut(
        mix_streams, fields=("streams",), check=check_previous,
        streams=Streams(mixing(previous), first, the_first),
    ),
    "depth_attention": Shortcut(
        mix_streams, check=check_depth_attention, number=block_index,
        streams=Streams(mixing(depth_attention), first, attend_to_all, count_outputs),
    ),
    "reversible": Shortcut(
        reversible, check=check_reversible,
        streams=Streams(
            second, lambda x, n: x, lambda layers, carried, n: carried, lambda config: 2, shared=True,
            scan=scan_reversibly,
        ),
    ),
}  # fmt: skip
