"""Shortcuts with a gate, which opens and shuts for each pixel and channel, or with random draws."""

import jax
from jaxtyping import Array

from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import count_blocks
from resnet.models.layers import Dropout
from resnet.models.shortcuts.junction import Junction, Shortcut


def gate(at: Junction) -> Array:
    """g = sigmoid(W x + c), for each pixel and channel, strided where the block is."""
    config, block, normed = at.config, at.block, at.config.gate_norm
    x = at.layers.conv(
        at.inputs, "gate", block.outputs, 1, block.stride, kernel_init=config.gate_init,
        bias=not normed, bias_start=0.0 if normed else config.gate_bias,
    )  # fmt: skip
    if normed:
        x = at.layers.norm(x, "gate_norm", bias_start=config.gate_bias)
    return at.layers.show("opening", jax.nn.sigmoid(x))


def exclusive_gating(at, x, branch):
    """(1 - g) x + g F(x) (He 2016, Table 1)."""
    g = gate(at)
    return (1 - g) * x + g * branch


def shortcut_only_gating(at, x, branch):
    """(1 - g) x + F(x) (He 2016, Table 1)."""
    return (1 - gate(at)) * x + branch


def highway(at, x, branch):
    """t F(x) + (1 - t) x, t = sigmoid(BN(conv(relu(BN(conv(x)))))).

    Source: github flukeskywalker/highway-resnet-comparison.
    """
    hidden = jax.nn.relu(at.normed_conv(at.inputs, "gate1", 3, at.block.stride))
    logits = at.normed_conv(hidden, "gate2", 3, 1, at.config.gate_bias)
    t = at.layers.show("opening", jax.nn.sigmoid(logits))
    return t * branch + (1 - t) * x


def dropout(at, x, branch):
    """dropout(x) + F(x) (He 2016, Table 1)."""
    return Dropout(at.config.shortcut_dropout, at.config.dropout_kind)(x, at.key) + branch


def shake_drop(at, x, branch):
    """x + (b + u - b u) F(x), and v in place of u where the gradient flows (Yamada 2018, arXiv 1802.02375).

    b ~ Bernoulli(p_l) for the batch, u ~ U(-1, 1) and v ~ U(0, 1) for each value, as in the authors' code. In
    evaluation x + p_l F(x), the mean.
    """
    keep = at.number.astype(x.dtype)
    if at.key is None:
        return x + keep * branch
    of_b, of_u, of_v = jax.random.split(at.key, 3)
    b = jax.random.bernoulli(of_b, at.number).astype(x.dtype)
    u = jax.random.uniform(of_u, branch.shape, x.dtype, minval=-1.0)
    v = jax.random.uniform(of_v, branch.shape, x.dtype)
    backward = (b + v - b * v) * branch
    return x + backward + jax.lax.stop_gradient((b + u - b * u) * branch - backward)


def shake_drop_keep(config: ModelConfig, block: BlockSpec) -> float:
    """p_l = 1 - (l / L) rate in block l of L, the rate being `shortcut_dropout` (the paper: 1/2)."""
    return 1 - config.shortcut_dropout * (block.index + 1) / count_blocks(config)


OF_GATES = ("gate_bias", "gate_init")
SHORTCUTS = {
    "exclusive_gating": Shortcut(exclusive_gating, is_sum=False, fields=(*OF_GATES, "gate_norm")),
    "shortcut_only_gating": Shortcut(shortcut_only_gating, fields=(*OF_GATES, "gate_norm")),
    "highway": Shortcut(highway, is_sum=False, fields=OF_GATES),
    "dropout": Shortcut(dropout, draws=True, by_pixel=True, fields=("shortcut_dropout", "dropout_kind")),
    "shake_drop": Shortcut(
        shake_drop, draws=True, by_pixel=True, fields=("shortcut_dropout",), number=shake_drop_keep
    ),
}
