"""Convolution, activations and their gains, initialisers, and `Layers`, which a net is written with."""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.kernels.convolution import convolve
from resnet.kernels.relu import relu_of_sum
from resnet.models.config import ModelConfig
from resnet.models.norms import Product, norm_layer
from resnet.models.shortcuts.tailored import TAILORED


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


def identity_kernel(key: Array, shape: tuple[int, ...]) -> Array:
    """A kernel that hands each input channel to the output channel of the same number."""
    kernel = jnp.zeros(shape)
    channels = jnp.arange(min(shape[2:]))
    return kernel.at[shape[0] // 2, shape[1] // 2, channels, channels].set(1)


def delta_orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
    """Orthogonal at the kernel's centre, zero elsewhere (Xiao 2018): all singular values 1."""
    matrix = nn.initializers.orthogonal()(key, shape[2:])
    return jnp.zeros(shape).at[shape[0] // 2, shape[1] // 2].set(matrix)


def scaled_delta_orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
    """The same times sqrt(outputs / inputs) where that is above 1: keeps the mean square (Martens 2021)."""
    return delta_orthogonal(key, shape) * max(1.0, math.sqrt(shape[-1] / shape[-2]))


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
    "scaled_delta_orthogonal": scaled_delta_orthogonal,
    "identity": identity_kernel,
    "zero": nn.initializers.zeros,
}

# Uniform within 1/sqrt(fan-in): what fb.resnet.torch and torchvision leave at PyTorch's default.
HEAD_INIT = uniform(1 / 3, "in")

# Added to a kernel's variance before it is standardised. plain: BiT; scaled: Brock 2021, eq. 3.
STANDARDIZATIONS = {"none": None, "plain": 1e-10, "scaled": 1e-4}
# github szagoruyko/diracnets: b at the start, and what torch's `normalize` keeps a length from.
DIRAC_START, DIRAC_EPSILON = 0.1, 1e-24


def standardized(kernel: Array, kind: str, gain: Array | None = None) -> Array:
    """The kernel with mean 0 and variance 1 (plain) or gain^2 / fan-in (scaled) per output channel."""
    if kind == "none":
        return kernel
    mean = kernel.mean((0, 1, 2), keepdims=True)
    variance = kernel.var((0, 1, 2), keepdims=True)
    if gain is None:
        return (kernel - mean) * jax.lax.rsqrt(variance + STANDARDIZATIONS["plain"])
    fan_in = kernel[..., 0].size
    scale = jax.lax.rsqrt(jnp.maximum(variance * fan_in, STANDARDIZATIONS["scaled"]))
    return (kernel - mean) * scale * gain[None, None, None]


def dirac(kernel: Array, a: Float[Array, " o"], b: Float[Array, " o"]) -> Array:
    """a I + b W / |W|, I the kernel that returns its input, |W| of each output channel (DiracNet)."""
    length = jnp.sqrt(jnp.square(kernel).sum((0, 1, 2), keepdims=True) + DIRAC_EPSILON)
    identity = identity_kernel(jax.random.key(0), kernel.shape)
    return a[None, None, None] * identity + b[None, None, None] * kernel / length


def check_floating(x: Array) -> None:
    """Raises InputError for an array of integers.

    Weights are cast to the type of the array: as integers, most of them would be 0.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"a net takes normalised images of a floating type; got {x.dtype}")


class Conv(nn.Module):
    """A convolution with a square kernel of `size` pixels, padded by (size - 1) / 2 on each side.

    Its initial kernel is `kernel_init`, or else the config's, times `init_scale`; `copies` of it, each drawn
    anew, lie side by side. `dirac`: the identity is part of its kernel, which starts at I + 0.1 W/|W|
    (DiracNet, Zagoruyko 2017, arXiv 1706.00388).
    """

    config: ModelConfig
    outputs: int
    size: int
    stride: int = 1
    groups: int = 1
    bias: bool = False
    bias_start: float = 0.0
    kernel_init: str = ""
    init_scale: float = 1.0
    copies: int = 1
    dirac: bool = False

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b y x o"]:
        kernel, bias = self.weights(x)
        padding = (self.size - 1) // 2
        if self.config.padding != "zero" and padding:
            border = (padding, padding)
            x = jnp.pad(x, ((0, 0), border, border, (0, 0)), PADDINGS[self.config.padding])
            padding = 0
        y = convolve(x, kernel, self.stride, padding, self.groups)
        return y if bias is None else y + bias[None, None, None]

    @nn.compact
    def weights(
        self, x: Float[Array, "b h w i"]
    ) -> tuple[Float[Array, "k k g o"], Float[Array, " o"] | None]:
        """Returns the kernel to convolve x with, and the bias or None, both in the type of x."""
        check_floating(x)
        shape = (self.size, self.size, x.shape[-1] // self.groups, self.outputs // self.copies)
        kernel = self._reparametrized(self.param("kernel", self._initial, shape)).astype(x.dtype)
        if not self.bias:
            return kernel, None
        bias = self.param("bias", nn.initializers.constant(self.bias_start), (self.outputs,))
        return kernel, bias.astype(x.dtype)

    @property
    def pointwise(self) -> bool:
        """Whether each pixel is multiplied by one matrix, and no more."""
        return self.size == self.stride == self.groups == 1 and not self.bias

    def _initial(self, key: Array, of_one: tuple[int, ...]) -> Array:
        draw = KERNEL_INITS[self.kernel_init or self.config.kernel_init]
        keys = jax.random.split(key, self.copies) if self.copies > 1 else [key]
        return self.init_scale * jnp.concatenate([draw(each, of_one) for each in keys], axis=-1)

    def _reparametrized(self, kernel: Array) -> Array:
        """The kernel that is used, from the one that is learned."""
        kind, channels = self.config.weight_standardization, (self.outputs,)
        gain = self.param("gain", nn.initializers.ones, channels) if kind == "scaled" else None
        kernel = standardized(kernel, kind, gain)
        if not self.dirac:
            return kernel
        a = self.param("a", nn.initializers.ones, channels)
        return dirac(kernel, a, self.param("b", nn.initializers.constant(DIRAC_START), channels))


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


NORM, ACTIVATION, BIAS = "norm", "activation", "bias"


class Layers:
    """Adds layers to a module while it runs: stem, branch, shortcut and head are written with it.

    The module has the fields `config` and `axis_name`. `conv_bias`: whether convolutions carry a bias.
    `activations`: how many a signal passes through in the net, for those that are made for its depth.
    `numbered`: whether `apply` names norms and biases norm1, norm2, … or, where there is one at most, norm.
    """

    def __init__(self, module: Any, train: bool, conv_bias: bool, activations: int, numbered: bool = True):
        self.module, self.config, self.train = module, module.config, train
        self.conv_bias, self.activations, self.numbered = conv_bias, activations, numbered
        self.counts = collections.Counter()
        self.product: Product | None = None  # what the last convolution is, if its kernel is 1x1

    def conv(self, x: Array, name: str, outputs: int, size: int, stride: int = 1, **options: Any) -> Array:
        """A convolution; `options` are further fields of `Conv`."""
        options = {"bias": self.conv_bias} | options
        conv = Conv(self.config, outputs, size, stride, **options, name=name)
        y = conv(x)
        self.product = Product(x, conv.weights(x)[0], y) if conv.pointwise else None
        return y

    def norm(self, x: Array, name: str, zero_scale: bool = False, bias_start: float = 0.0) -> Array:
        """The norm of the config; x where that is none."""
        product = self.product if self.product and self.product.result is x else None
        return norm_layer(
            self.config, x, self.train, name=name, axis_name=self.module.axis_name,
            zero_scale=zero_scale, bias_start=bias_start, product=product,
        )  # fmt: skip

    def activate(self, name: str, x: Array, of_sum: bool = False) -> Array:
        """Applies the activation `name` to x, and its variance gain if the config asks for that.

        `of_sum` says that x is a sum whose addends the backward pass does not need.
        """
        if name in TAILORED:
            return TAILORED[name](self.activations)(x)
        y = relu_of_sum(x) if of_sum and name == "relu" else ACTIVATIONS[name].function(x)
        return y * ACTIVATIONS[name].gain if self.config.gain_corrected else y

    def scalar(self, name: str, start: float, like: Array) -> Array:
        """A learned scalar that starts at `start`, in the type of `like`."""
        return self.module.param(name, nn.initializers.constant(start), ()).astype(like.dtype)

    def vector(self, name: str, start: float, like: Array) -> Array:
        """A learned number for each channel of `like`, in its type; to be multiplied with it."""
        values = self.module.param(name, nn.initializers.constant(start), like.shape[-1:])
        return values.astype(like.dtype)[None, None, None]

    def show(self, name: str, value: Array) -> Array:
        """The value, which an analysis can read under this name."""
        self.module.sow("intermediates", name, value)
        return value

    def apply(self, steps: Sequence[str], x: Array, zero_scale: bool = False) -> Array:
        """x through norms, activations and learned scalar biases."""
        for step in steps:
            if step == ACTIVATION:
                x = self.activate(self.config.activation, x)
                continue
            self.counts[step] += 1
            name = f"{step}{self.counts[step]}" if self.numbered else step
            x = x + self.scalar(name, 0.0, x) if step == BIAS else self.norm(x, name, zero_scale)
        return x
