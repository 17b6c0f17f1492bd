"""The grammar of residual nets: the fields of ModelConfig, and which combinations are a net."""

import dataclasses

from resnet.errors import InputError, check_at_least, check_choice, check_regex
from resnet.fields import Fields
from resnet.models.branches import ACTIVATION, NORM, ORDERS
from resnet.models.geometry import BRANCHES, FAMILIES, block_specs, branch_convolutions
from resnet.models.layers import ACTIVATIONS, KERNEL_INITS, OUTPUTS, PADDINGS, STANDARDIZATIONS
from resnet.models.norms import NORMS
from resnet.models.shortcuts import SHORTCUTS
from resnet.models.stems import STEMS, stem_convolutions, stem_norms
from resnet.models.transitions import PAD_MODES, PAD_SIDES, TRANSITIONS


@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig(Fields, section="model"):
    """A residual net. Defaults: ResNet-20 for CIFAR (He 2015), shortcut A."""

    # The net from far away.
    family: str = "cifar"
    """depth rule and widths: cifar (6n+2 or 9n+2; 16-32-64), wide (6n+4), imagenet (18 ... 420), chain
    (equal blocks: 2n+2 or 3n+2; 16)"""
    depth: int = 20
    """number of layers with weights, by the family's rule; ignored where `blocks` is given"""
    blocks: tuple[int, ...] = ()
    """residual blocks of each stage, instead of `depth`"""
    width: float = 1.0
    """factor on the family's widths (WRN-28-10: 10)"""
    stem_width: int = 0
    """channels that leave the stem (Wide ResNet: 16), 0 for the family's first width times `width`"""
    stem: str = "cifar"
    """first layers: cifar (3x3), imagenet (7x7/2, max-pool), deep (three 3x3, max-pool), deep_strided,
    bit (imagenet with zeros around the max-pool)"""

    # The residual branch F(x).
    branch: str = "basic"
    """convolutions of F: basic (3x3, 3x3), bottleneck (1x1, 3x3, 1x1), single (3x3)"""
    order: str = "postactivation"
    """He 2016 Table 2, a to e: postactivation, norm_after_sum, activation_before_sum,
    activation_only_preactivation, preactivation"""
    inner: float = 1.0
    """inner width of a branch over its stage's width (ResNeXt-50 32x4d and WRN-50-2: 2)"""
    groups: int = 1
    """groups of the branch's 3x3 convolutions (ResNeXt: 32)"""
    stride_at: str = "3x3"
    """convolution of a bottleneck that carries the stride: first (v1) or 3x3 (v1.5)"""
    squeeze: float = 0.0
    """squeeze-and-excitation: its hidden width over the block's outputs, 0 for none (SE: 1/16)"""
    branch_dropout: float = 0.0
    """dropout rate before the last convolution of a branch (Wide ResNet: 0.3)"""
    activation: str = "relu"
    """non-linearity inside the branch, the stem and the head"""
    after_sum: str = "auto"
    """function after the sum; auto: `activation` where the order has one there, else identity"""
    gain_corrected: bool = False
    """multiply every activation by its variance gain (nfnets), so that it keeps unit variance"""

    # The shortcut.
    shortcut: str = "identity"
    """how x and F(x) are joined: none, identity, projection, constant_scaling, exclusive_gating,
    shortcut_only_gating, highway, dropout, rezero, skipinit, fixup, normalizer_free"""
    transition: str = "pad"
    """x where the shape changes: pad (option A), projection (B), average_projection (ResNet-D), none"""
    pad_mode: str = "subsample"
    """spatial part of a zero-padding transition: subsample (He 2015) or average (stochastic depth)"""
    pad_side: str = "end"
    """where the zero channels go: end (fb.resnet.torch) or both"""
    shortcut_scale: float = 0.5
    """a of constant scaling, a*x + b*F(x)"""
    branch_scale: float = 0.5
    """b of constant scaling, a*x + b*F(x)"""
    gate_bias: float = 0.0
    """initial bias of a gate, before its sigmoid (He 2016 Table 1: 0 to -10; highway: -6)"""
    gate_norm: bool = False
    """normalise a 1x1 gate before its sigmoid"""
    gate_init: str = "he_fan_out"
    """initialisation of a gate's kernel"""
    shortcut_dropout: float = 0.5
    """rate of the dropout shortcut"""
    dropout_kind: str = "inverted"
    """inverted (scaled by 1/keep in training) or plain (scaled by keep in evaluation)"""
    alpha_init: str = "zero"
    """start of the branch's multiplier in rezero and skipinit: zero or inverse_sqrt (1/sqrt(blocks))"""
    stochastic_depth: float = 0.0
    """probability of dropping the last branch in training (Huang 2016: 0.5)"""
    stochastic_depth_rule: str = "linear"
    """drop probability over depth: linear (from 0) or constant"""

    # Normalisation.
    norm: str = "batch"
    """normalisation: batch, group, layer, instance, none"""
    norm_groups: int = 32
    """channel groups of group norm"""
    norm_epsilon: float = 1e-5
    """added to the variance"""
    bn_momentum: float = 0.9
    """share of the old running statistics kept at each step (PyTorch's momentum is one minus this)"""
    bn_unbiased: bool = False
    """running variance with n-1 in the denominator, as PyTorch keeps it"""
    bn_fixed: str = ""
    """regular expression on the paths of batch norms ("^stage1/") that keep their running statistics, and
    use them in training too: for fine-tuning; empty: none"""
    ghost_batch: int = 0
    """images that share batch statistics (He 2015 CIFAR: 64), 0 for the whole batch on all devices"""
    weight_standardization: str = "none"
    """kernels standardised per output channel: none, plain (BiT), scaled (normaliser-free)"""

    # Start.
    kernel_init: str = "he_fan_out"
    """initial kernels: he_fan_in, he_fan_out, glorot, lecun, orthogonal, delta_orthogonal, identity, zero"""
    branch_init_scale: float = 1.0
    """factor on the initial kernels of every residual branch"""
    zero_gamma: bool = False
    """start branches at 0: the scale of the norm that ends them (Goyal 2017), or the last kernel (timm)"""
    zero_head: bool = False
    """start the last linear layer at 0 (Fixup)"""

    # The end, and how it is computed.
    output: str = "softmax"
    """output function, which fixes the loss: softmax (cross-entropy), sigmoid (binary cross-entropy),
    identity (squared error)"""
    head_dropout: float = 0.0
    """dropout rate before the last linear layer"""
    padding: str = "zero"
    """border of the 3x3 and 7x7 convolutions: zero or circular"""
    dtype: str = "float32"
    """type of activations and products: float32 or bfloat16; parameters and statistics stay float32"""
    scan_blocks: bool | None = None
    """run the identical blocks of a stage as one scanned block, which is compiled once for all; None: where
    a stage has more than nine"""
    remat: bool = False
    """recompute each block in the backward pass instead of storing its activations"""

    def check(self) -> None:
        """Raises InputError, naming field, value and remedy, if this is not a net of the grammar."""
        _check_choices(self)
        _check_ranges(self)
        _check_combinations(self)
        normed = stem_convolutions(self, channels=3)[: stem_norms(self)]
        _check_norm_groups(self, "stem", [convolution.outputs for convolution in normed])
        for block in block_specs(self):
            _check_block(self, block)


def needs_of(shortcut: str) -> dict[str, object]:
    """Fields that the definition of a shortcut asks for, beside its name."""
    needs: dict[str, object] = {"norm": "none", "ghost_batch": 0} if SHORTCUTS[shortcut].norm_free else {}
    if shortcut == "normalizer_free":
        needs["weight_standardization"] = "scaled"
    if shortcut == "fixup":
        needs["zero_head"] = True
    return needs


CHOICES = {
    "family": FAMILIES,
    "stem": STEMS,
    "branch": BRANCHES,
    "order": ORDERS,
    "stride_at": ("first", "3x3"),
    "activation": ACTIVATIONS,
    "after_sum": ("auto", *ACTIVATIONS),
    "shortcut": SHORTCUTS,
    "transition": ("none", *TRANSITIONS),
    "pad_mode": PAD_MODES,
    "pad_side": PAD_SIDES,
    "dropout_kind": ("inverted", "plain"),
    "alpha_init": ("zero", "inverse_sqrt"),
    "stochastic_depth_rule": ("linear", "constant"),
    "norm": NORMS,
    "weight_standardization": STANDARDIZATIONS,
    "kernel_init": KERNEL_INITS,
    "gate_init": KERNEL_INITS,
    "output": OUTPUTS,
    "padding": PADDINGS,
    "dtype": ("float32", "bfloat16"),
}
FRACTIONS = (
    "squeeze",
    "branch_dropout",
    "shortcut_dropout",
    "stochastic_depth",
    "bn_momentum",
    "head_dropout",
)


def _check_choices(config: ModelConfig) -> None:
    for field, choices in CHOICES.items():
        check_choice(f"model.{field}", getattr(config, field), choices)


def _check_ranges(config: ModelConfig) -> None:
    for field in FRACTIONS:
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise InputError(f"`model.{field}` must be at least 0 and below 1; got {value}")
    for field in ("width", "inner", "norm_epsilon"):
        if not getattr(config, field) > 0:
            raise InputError(f"`model.{field}` must be above 0; got {getattr(config, field)}")
    for field, least in (("groups", 1), ("norm_groups", 1), ("ghost_batch", 0), ("stem_width", 0)):
        check_at_least(f"model.{field}", getattr(config, field), least)


def _check_combinations(config: ModelConfig) -> None:
    shortcut, order = SHORTCUTS[config.shortcut], ORDERS[config.order]
    if config.norm == "none":
        for field, off in (("zero_gamma", False), ("gate_norm", False)):
            if getattr(config, field) != off:
                raise InputError(f"`model.{field}` needs a norm; set `model.norm`, or {field}={off}")
    elif shortcut.norm_free:
        raise InputError(
            f"shortcut {config.shortcut!r} is defined without normalisation, but `model.norm` is "
            f"{config.norm!r}; set model.norm=none, or choose rezero, which allows a norm"
        )
    for field in ("ghost_batch", "bn_fixed"):
        if config.norm != "batch" and getattr(config, field):
            raise InputError(f"`model.{field}` is for batch norm; `model.norm` is {config.norm!r}")
    check_regex("model.bn_fixed", config.bn_fixed)
    if config.bn_fixed and config.scan_blocks:
        raise InputError("`model.bn_fixed` tells blocks apart, which `model.scan_blocks` runs as one; set "
                         "model.scan_blocks=None")  # fmt: skip
    if config.shortcut == "fixup" and config.order != "postactivation":
        raise InputError("shortcut 'fixup' is defined for model.order=postactivation; "
                         f"got {config.order!r}")  # fmt: skip
    if config.shortcut == "fixup" and config.branch == "single":
        raise InputError("shortcut 'fixup' scales the branch by L^(-1/(2m-2)), which needs m >= 2 "
                         "convolutions; set model.branch=basic or bottleneck")  # fmt: skip
    if config.shortcut == "normalizer_free" and (
        config.order != "preactivation" or config.weight_standardization != "scaled"
    ):
        raise InputError(
            "shortcut 'normalizer_free' needs model.order=preactivation and model.weight_standardization="
            f"scaled; got {config.order!r} and {config.weight_standardization!r}"
        )
    if config.groups > 1 and config.kernel_init in ("identity", "delta_orthogonal"):
        raise InputError(
            f"`model.kernel_init` {config.kernel_init!r} is no such map in a grouped convolution; set "
            "model.groups=1, or model.kernel_init=he_fan_out"
        )
    if config.stochastic_depth and not shortcut.is_sum:
        raise InputError(
            f"`model.stochastic_depth` drops a branch from a sum, but shortcut {config.shortcut!r} "
            "is no sum of x and F(x); set model.stochastic_depth=0 or model.shortcut=identity"
        )
    if config.zero_gamma and order.after[-1:] == (ACTIVATION,):
        raise InputError(f"`model.zero_gamma` with model.order={config.order!r} would start branches at an "
                         "activation of 0, through which ReLU passes no gradient; set "
                         "model.zero_gamma=False, or model.shortcut=rezero")  # fmt: skip


def _check_block(config: ModelConfig, block) -> None:
    shortcut = SHORTCUTS[config.shortcut]
    if config.transition == "none" and block.changes_shape and not shortcut.changes_shape:
        raise InputError(
            f"{block.name} turns {block.inputs} channels into {block.outputs} at stride {block.stride}, "
            f"and shortcut {config.shortcut!r} keeps the shape of x; set model.transition=pad "
            "(zero padding) or model.transition=projection (a matrix)"
        )
    if config.transition == "pad" and block.outputs < block.inputs and not shortcut.changes_shape:
        raise InputError(f"{block.name} narrows {block.inputs} channels to {block.outputs}, which zero "
                         "padding cannot; set model.transition=projection")  # fmt: skip
    for convolution in branch_convolutions(config, block):
        if convolution.inputs % convolution.groups or convolution.outputs % convolution.groups:
            raise InputError(
                f"`model.groups` must divide the channels of {block.name}/{convolution.name} "
                f"({convolution.inputs} to {convolution.outputs}); got {config.groups}"
            )
    widths = [block.inner, block.outputs] + [block.inputs] * (NORM in ORDERS[config.order].before)
    _check_norm_groups(config, block.name, widths)


def _check_norm_groups(config: ModelConfig, name: str, widths: list[int]) -> None:
    if config.norm == "group" and any(width % config.norm_groups for width in widths):
        raise InputError(
            f"`model.norm_groups` must divide the widths of {name} ({', '.join(map(str, widths))}); "
            f"got {config.norm_groups}"
        )
