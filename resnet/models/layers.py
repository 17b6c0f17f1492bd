"""Convolution, norms, activations and their variance gains, initialisers: what blocks are made of."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.kernels.convolution import convolve
from resnet.models.geometry import Convolution

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


@dataclasses.dataclass(frozen=True)
class Activation:
    """A non-linearity, and the gain that keeps unit variance for unit normal inputs.

    Gains: google-deepmind/deepmind-research, nfnets/base.py; leaky_relu by the same integral, slope 0.01.
    """

    function: Any
    gain: float


ACTIVATIONS = {
    "identity": Activation(lambda x: x, 1.0),
    "relu": Activation(jax.nn.relu, 1.7139588594436646),
    "leaky_relu": Activation(jax.nn.leaky_relu, 1.70590341091156),
    "sigmoid": Activation(jax.nn.sigmoid, 4.803835391998291),
    "tanh": Activation(jnp.tanh, 1.5939117670059204),
    "silu": Activation(jax.nn.silu, 1.7881293296813965),
    "gelu": Activation(jax.nn.gelu, 1.7015043497085571),
}

OUTPUTS = {
    "identity": lambda logits: logits,
    "sigmoid": jax.nn.sigmoid,
    "softmax": jax.nn.softmax,
}

PADDINGS = {"zero": "constant", "circular": "wrap"}


def activate(config: "ModelConfig", name: str, x: Array) -> Array:
    """The activation `name` of x, times its variance gain if the config asks for that."""
    y = ACTIVATIONS[name].function(x)
    return y * ACTIVATIONS[name].gain if config.gain_corrected else y


def scaled_identity(key: Array, shape: tuple[int, ...]) -> Array:
    """A kernel that hands each input channel to the output channel of the same number."""
    kernel = jnp.zeros(shape)
    channels = jnp.arange(min(shape[2:]))
    return kernel.at[shape[0] // 2, shape[1] // 2, channels, channels].set(1)


def delta_orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
    """Orthogonal at the kernel's centre, zero elsewhere (Xiao 2018): all singular values 1."""
    matrix = nn.initializers.orthogonal()(key, shape[2:])
    return jnp.zeros(shape).at[shape[0] // 2, shape[1] // 2].set(matrix)


def fans(shape: tuple[int, ...]) -> dict[str, float]:
    """Values that a kernel (..., inputs, outputs) joins to one output, to one input, and their mean."""
    receptive = math.prod(shape[:-2])
    fan_in, fan_out = receptive * shape[-2], receptive * shape[-1]
    return {"in": fan_in, "out": fan_out, "average": (fan_in + fan_out) / 2}


def normal(gain: float, fan: str) -> Callable[..., Array]:
    """Draws kernels from N(0, gain / fan)."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        # Drawn flat: XLA takes four times as long to compile the same draw in four dimensions.
        flat = jax.random.normal(key, (math.prod(shape),))
        return flat.reshape(shape) * math.sqrt(gain / fans(shape)[fan])

    return draw


def uniform(gain: float, fan: str) -> Callable[..., Array]:
    """Draws kernels with variance gain / fan from a uniform distribution around 0."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        flat = jax.random.uniform(key, (math.prod(shape),), minval=-1.0)
        return flat.reshape(shape) * math.sqrt(3 * gain / fans(shape)[fan])

    return draw


KERNEL_INITS = {
    "he_fan_in": normal(2.0, "in"),
    "he_fan_out": normal(2.0, "out"),
    "glorot": uniform(1.0, "average"),
    "lecun": normal(1.0, "in"),
    "orthogonal": nn.initializers.orthogonal(),
    "delta_orthogonal": delta_orthogonal,
    "identity": scaled_identity,
    "zero": nn.initializers.zeros,
}

# Uniform within 1/sqrt(fan-in): what fb.resnet.torch and torchvision leave at PyTorch's default.
HEAD_INIT = uniform(1 / 3, "in")

# Added to a kernel's variance before it is standardised. plain: BiT; scaled: Brock 2021, eq. 3.
STANDARDIZATIONS = {"none": None, "plain": 1e-10, "scaled": 1e-4}


class Conv(nn.Module):
    """The convolution that `spec` describes; its initial kernel is `kernel_init` times `init_scale`."""

    spec: Convolution
    config: "ModelConfig"
    kernel_init: str = ""
    init_scale: float = 1.0
    bias_start: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        spec, config = self.spec, self.config
        draw = KERNEL_INITS[self.kernel_init or config.kernel_init]
        kernel = self.param("kernel", lambda *a: self.init_scale * draw(*a), spec.kernel_shape)
        kernel = self._standardized(kernel).astype(x.dtype)
        padding = (spec.size - 1) // 2
        if config.padding != "zero" and padding:
            border = (padding, padding)
            x = jnp.pad(x, ((0, 0), border, border, (0, 0)), PADDINGS[config.padding])
            padding = 0
        y = convolve(x, kernel, spec.stride, padding, spec.groups)
        if spec.bias:
            bias = self.param("bias", nn.initializers.constant(self.bias_start), (spec.outputs,))
            y = y + bias.astype(y.dtype)[None, None, None]
        return y

    def _standardized(self, kernel: Array) -> Array:
        """The kernel with mean 0 and variance 1 (plain) or gain^2 / fan-in (scaled) per output channel."""
        kind = self.config.weight_standardization
        if kind == "none":
            return kernel
        mean = kernel.mean((0, 1, 2), keepdims=True)
        variance = kernel.var((0, 1, 2), keepdims=True)
        if kind == "plain":
            return (kernel - mean) * jax.lax.rsqrt(variance + STANDARDIZATIONS["plain"])
        fan_in = kernel[..., 0].size
        gain = self.param("gain", nn.initializers.ones, (self.spec.outputs,))
        scale = jax.lax.rsqrt(jnp.maximum(variance * fan_in, STANDARDIZATIONS["scaled"]))
        return (kernel - mean) * scale * gain[None, None, None]


def fixup_bias(module: nn.Module, config: "ModelConfig", x: Array, name: str) -> Array:
    """x plus a learned scalar `name` of the module, in a Fixup net (Zhang 2019); x in any other."""
    if config.shortcut != "fixup":
        return x
    return x + module.param(name, nn.initializers.zeros, ()).astype(x.dtype)


class Dropout(nn.Module):
    """Zeroes each value with probability `rate` in training, with draws from `key`.

    inverted: what is kept is divided by 1 - rate. plain: it is not, and evaluation multiplies by 1 - rate.
    """

    rate: float
    kind: str = "inverted"

    @nn.compact
    def __call__(self, x: Array, key: Array | None) -> Array:
        keep = 1 - self.rate
        if self.rate == 0:
            return x
        if key is None:
            return x if self.kind == "inverted" else x * keep
        kept = jnp.where(jax.random.bernoulli(key, keep, x.shape), x, 0)
        return kept / keep if self.kind == "inverted" else kept


class SqueezeExcitation(nn.Module):
    """x times a gate per channel, computed from the channels' means (Hu 2018)."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        pooled = x.mean((1, 2))
        hidden = jax.nn.relu(nn.Dense(self.hidden, dtype=x.dtype, name="reduce")(pooled))
        gate = jax.nn.sigmoid(nn.Dense(x.shape[-1], dtype=x.dtype, name="expand")(hidden))
        return x * gate[:, None, None]
