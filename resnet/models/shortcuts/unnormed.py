"""Fixup and normaliser-free nets: shortcuts that set the scale of the branch in place of a norm."""

import dataclasses

from resnet.errors import InputError
from resnet.models.branches import ORDERS, Place
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import blocks_per_stage, count_blocks, layers_of_block
from resnet.models.layers import ACTIVATION, BIAS
from resnet.models.shortcuts.junction import UNNORMED, Shortcut


def fixup(at, x, branch):
    """x + scale F(x) + bias (Zhang 2019)."""
    return x + at.layers.scalar("scale", 1.0, branch) * branch + at.layers.scalar("bias", 0.0, branch)


# A learned scalar before each convolution and activation; the one after the sum is the merge's.
FIXUP_ORDER = dataclasses.replace(
    ORDERS["postactivation"],
    before=(BIAS,), between=(BIAS, ACTIVATION, BIAS), stem=(BIAS, ACTIVATION), pooled=(BIAS,),
)  # fmt: skip


def fixup_place(config: ModelConfig, place: Place) -> Place:
    """The last convolution of a branch starts at 0, the others smaller with the net's depth."""
    if place.last:
        return dataclasses.replace(place, kernel_init="zero", init_scale=1.0)
    blocks, m = count_blocks(config), layers_of_block(config)
    return dataclasses.replace(place, init_scale=blocks ** (-1 / (2 * m - 2)))


def check_fixup(config: ModelConfig) -> None:
    """Raises InputError for nets without Fixup's places of scalars, or its scale."""
    if config.activation_order != "postactivation":
        raise InputError("shortcut 'fixup' is defined for model.activation_order=postactivation; "
                         f"got {config.activation_order!r}")  # fmt: skip
    if layers_of_block(config) < 2:
        raise InputError("shortcut 'fixup' scales the branch by L^(-1/(2m-2)), which needs m >= 2 "
                         "convolutions; set model.branch=basic or bottleneck")  # fmt: skip
    if config.branch_init_scale != 1:
        raise InputError("shortcut 'fixup' sets the scale of the branch's kernels itself; set "
                         f"model.branch_init_scale=1; got {config.branch_init_scale}")  # fmt: skip


NF_ALPHA = 0.2  # Brock 2021, "Characterizing signal propagation", section 3.


def normalizer_free(at, x, branch):
    """x + 0.2 gain F(beta act(x)), gain learned from 0 (Brock 2021)."""
    return x + NF_ALPHA * at.layers.scalar("gain", 0.0, branch) * branch


def nf_beta(config: ModelConfig, block: BlockSpec) -> float:
    """1 over the expected deviation of x: each stage resets its variance to 1, each block adds 0.2^2.

    This assumes branches and transitions of variance 1, which need `model.gain_corrected`.
    """
    if block.block == 1:
        previous = blocks_per_stage(config)[block.stage - 2] if block.stage > 1 else 0
        return (1 + previous * NF_ALPHA**2) ** -0.5
    return (1 + (block.block - 1) * NF_ALPHA**2) ** -0.5


def check_normalizer_free(config: ModelConfig) -> None:
    """Raises InputError unless activations come first and kernels are standardised."""
    if config.activation_order != "preactivation" or config.weight_standardization != "scaled":
        raise InputError(
            "shortcut 'normalizer_free' needs model.activation_order=preactivation and "
            f"model.weight_standardization=scaled; got {config.activation_order!r} and "
            f"{config.weight_standardization!r}"
        )


SHORTCUTS = {
    "fixup": Shortcut(
        fixup, norm_free=True, needs=UNNORMED | {"zero_head": True}, zero_kernels=True, check=check_fixup,
        order=FIXUP_ORDER, place=fixup_place,
    ),
    "normalizer_free": Shortcut(
        normalizer_free, norm_free=True,
        needs=UNNORMED | {"weight_standardization": "scaled", "gain_corrected": True},
        check=check_normalizer_free, input_scale=nf_beta,
    ),
}  # fmt: skip
