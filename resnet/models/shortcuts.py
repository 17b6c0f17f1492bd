"""Shortcuts: how a block's input x and its residual branch F(x) are joined. Adding one is done here alone.

A change of shape is apart from that and comes first: see transitions.py.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.geometry import BRANCHES, BlockSpec, Convolution, blocks_per_stage, has_bias
from resnet.models.layers import Conv, Dropout
from resnet.models.norms import normalize
from resnet.models.transitions import TRANSITIONS, Convolutions, project, projection_convolution

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


class ShortcutPath(nn.Module):
    """The shortcut of one block: x through the transition where the shape changes, then joined with F(x)."""

    config: "ModelConfig"
    block: BlockSpec
    train: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], branch: Float[Array, "b y x o"], key: Array | None
    ) -> Float[Array, "b y x o"]:
        shortcut = SHORTCUTS[self.config.shortcut]
        carried = x
        if self.block.changes_shape and not shortcut.changes_shape:
            carried = TRANSITIONS[self.config.transition].apply(self, x)
        return shortcut.merge(self, carried, branch, x, key)

    def layer(self, spec: Convolution, x: Array, bias_start: float = 0.0, init: str = "") -> Array:
        """The convolution `spec` and the norm behind it; `bias_start` goes to the last of the two."""
        norm = spec.norm and self.config.norm != "none"
        x = Conv(spec, self.config, init, bias_start=0.0 if norm else bias_start, name=spec.name)(x)
        if not norm:
            return x
        name = "norm" if spec.name == "projection" else f"{spec.name}_norm"
        return normalize(
            self.config, x, self.train, name=name, axis_name=self.axis_name, bias_start=bias_start
        )

    def scalar(self, name: str, start: float, like: Array) -> Array:
        """A learned scalar parameter, in the type of `like`."""
        return self.param(name, nn.initializers.constant(start), ()).astype(like.dtype)


# Shortcuts: x and F(x) joined. Each merge takes (path, x, F(x), the block's input, key for dropout).


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """merge(path, x, F(x), input, key) gives the sum; the rest says what the merge has and allows.

    `convolutions` and `scalars`: its parameters in a block. `is_sum`: F(x) is added, so stochastic
    depth may drop it. `changes_shape`: takes the block's input itself, without a transition.
    `norm_free`: defined without normalisation. `input_scale`: factor on the branch's activated input.
    """

    merge: Callable[[ShortcutPath, Array, Array, Array, Array | None], Array]
    convolutions: Convolutions = lambda config, block: ()
    scalars: Callable[["ModelConfig"], int] = lambda config: 0
    is_sum: bool = True
    changes_shape: bool = False
    norm_free: bool = False
    input_scale: Callable[["ModelConfig", BlockSpec], float] | None = None


def none(path, x, branch, inputs, key):
    """F(x): a plain net."""
    return branch


def identity(path, x, branch, inputs, key):
    """x + F(x) (He 2015)."""
    return x + branch


def project_everywhere(path, x, branch, inputs, key):
    """BN(W x) + F(x) in every block: option C, and the 1x1 convolution of He 2016, Table 1."""
    return project(path, x) + branch


def constant_scaling(path, x, branch, inputs, key):
    """a x + b F(x) (He 2016, Table 1)."""
    return path.config.shortcut_scale * x + path.config.branch_scale * branch


def gate_convolution(config: "ModelConfig", block: BlockSpec) -> tuple[Convolution, ...]:
    """The 1x1 convolution of the gates of He 2016, strided where the block is."""
    norm = config.gate_norm
    return (Convolution("gate", 1, block.inputs, block.outputs, block.stride, bias=not norm, norm=norm),)


def gate(path: ShortcutPath, inputs: Array) -> Array:
    """g = sigmoid(W x + c), for each pixel and channel."""
    (spec,) = gate_convolution(path.config, path.block)
    g = jax.nn.sigmoid(path.layer(spec, inputs, path.config.gate_bias, path.config.gate_init))
    path.sow("intermediates", "opening", g)
    return g


def exclusive_gating(path, x, branch, inputs, key):
    """(1 - g) x + g F(x) (He 2016, Table 1)."""
    g = gate(path, inputs)
    return (1 - g) * x + g * branch


def shortcut_only_gating(path, x, branch, inputs, key):
    """(1 - g) x + F(x) (He 2016, Table 1)."""
    return (1 - gate(path, inputs)) * x + branch


def highway_convolutions(config: "ModelConfig", block: BlockSpec) -> tuple[Convolution, ...]:
    """The two 3x3 convolutions of a highway's transform gate."""
    first = Convolution(
        "gate1", 3, block.inputs, block.outputs, block.stride, bias=has_bias(config), norm=True
    )
    return first, Convolution("gate2", 3, block.outputs, block.outputs, bias=has_bias(config), norm=True)


def highway(path, x, branch, inputs, key):
    """t F(x) + (1 - t) x, t = sigmoid(BN(conv(relu(BN(conv(x)))))).

    Source: github flukeskywalker/highway-resnet-comparison.
    """
    first, second = highway_convolutions(path.config, path.block)
    hidden = jax.nn.relu(path.layer(first, inputs, init=path.config.gate_init))
    t = jax.nn.sigmoid(path.layer(second, hidden, path.config.gate_bias, path.config.gate_init))
    path.sow("intermediates", "opening", t)
    return t * branch + (1 - t) * x


def dropout(path, x, branch, inputs, key):
    """dropout(x) + F(x) (He 2016, Table 1)."""
    return Dropout(path.config.shortcut_dropout, path.config.dropout_kind)(x, key) + branch


def scaled_branch(path, x, branch, inputs, key):
    """x + alpha F(x), alpha learned (ReZero, Bachlechner 2020; SkipInit, De 2020)."""
    config = path.config
    start = 0.0 if config.alpha_init == "zero" else sum(blocks_per_stage(config)) ** -0.5
    return x + path.scalar("alpha", start, branch) * branch


def fixup(path, x, branch, inputs, key):
    """x + scale F(x) + bias (Zhang 2019); the branch adds scalars of its own."""
    return x + path.scalar("scale", 1.0, branch) * branch + path.scalar("bias", 0.0, branch)


def fixup_scalars(config: "ModelConfig") -> int:
    """Biases before each convolution and activation, and one multiplier."""
    return 2 * len(BRANCHES[config.branch].sizes) + 1


NF_ALPHA = 0.2  # Brock 2021, "Characterizing signal propagation", section 3.


def normalizer_free(path, x, branch, inputs, key):
    """x + 0.2 gain F(beta act(x)), gain learned from 0 (Brock 2021)."""
    return x + NF_ALPHA * path.scalar("gain", 0.0, branch) * branch


def nf_beta(config: "ModelConfig", block: BlockSpec) -> float:
    """1 over the expected deviation of x: each stage resets its variance to 1, each block adds 0.2^2."""
    if block.block == 1:
        previous = blocks_per_stage(config)[block.stage - 2] if block.stage > 1 else 0
        return (1 + previous * NF_ALPHA**2) ** -0.5
    return (1 + (block.block - 1) * NF_ALPHA**2) ** -0.5


SHORTCUTS = {
    "none": Shortcut(none, changes_shape=True, is_sum=False),
    "identity": Shortcut(identity),
    "projection": Shortcut(project_everywhere, projection_convolution, changes_shape=True),
    "constant_scaling": Shortcut(constant_scaling),
    "exclusive_gating": Shortcut(exclusive_gating, gate_convolution, is_sum=False),
    "shortcut_only_gating": Shortcut(shortcut_only_gating, gate_convolution),
    "highway": Shortcut(highway, highway_convolutions, is_sum=False),
    "dropout": Shortcut(dropout),
    "rezero": Shortcut(scaled_branch, scalars=lambda config: 1),
    "skipinit": Shortcut(scaled_branch, scalars=lambda config: 1, norm_free=True),
    "fixup": Shortcut(fixup, scalars=fixup_scalars, norm_free=True),
    "normalizer_free": Shortcut(
        normalizer_free, scalars=lambda config: 1, norm_free=True, input_scale=nf_beta
    ),
}


# Arrays that differ between blocks of one shape, so that scanned blocks can be given their own:
# `key` (training draws), `survival` (stochastic depth), `input_scale`, `branch` (instead of F(x)); each
# only where it is used.
BlockArrays = dict[str, Array]


def is_random(config: "ModelConfig") -> bool:
    """Whether training draws random numbers inside the net."""
    rates = (config.branch_dropout, config.head_dropout, config.stochastic_depth)
    return any(rates) or config.shortcut == "dropout"


def survival_probability(config: "ModelConfig", block: BlockSpec) -> float:
    """p_l of stochastic depth: 1 - l / L * (1 - p_L) for the linear rule, l = 1 ... L."""
    share = 1.0
    if config.stochastic_depth_rule == "linear":
        share = (block.index + 1) / sum(blocks_per_stage(config))
    return 1 - share * config.stochastic_depth


def block_arrays(config: "ModelConfig", block: BlockSpec, key: Array | None) -> BlockArrays:
    """The arrays of one block."""
    arrays = {}
    if key is not None:
        arrays["key"] = jax.random.fold_in(key, block.index)
    if config.stochastic_depth:
        arrays["survival"] = jnp.float32(survival_probability(config, block))
    if (input_scale := SHORTCUTS[config.shortcut].input_scale) is not None:
        arrays["input_scale"] = jnp.float32(input_scale(config, block))
    return arrays
