"""The grammar of residual nets: which combinations of the fields of ModelConfig are a net."""

from resnet.errors import InputError, check_at_least, check_choice, check_regex
from resnet.models.branches import BRANCHES, ORDERS, Order, places
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import FAMILIES, STEMS, block_specs, stem_layers
from resnet.models.layers import (
    ACTIVATION,
    ACTIVATIONS,
    KERNEL_INITS,
    NORM,
    OUTPUTS,
    PADDINGS,
    STANDARDIZATIONS,
)
from resnet.models.norms import NORMS
from resnet.models.shortcuts.table import SHORTCUTS, block_of_stream
from resnet.models.shortcuts.tailored import TAILORED
from resnet.models.shortcuts.transitions import PAD_MODES, PAD_SIDES, TRANSITIONS

CHOICES = {
    "family": FAMILIES,
    "stem": STEMS,
    "branch": BRANCHES,
    "activation_order": ORDERS,
    "stride_at": ("first", "3x3"),
    "activation": (*ACTIVATIONS, *TAILORED),
    "after_sum": ("auto", *ACTIVATIONS),
    "shortcut": SHORTCUTS,
    "transition": ("none", *TRANSITIONS),
    "pad_mode": PAD_MODES,
    "pad_side": PAD_SIDES,
    "dropout_kind": ("inverted", "plain"),
    "alpha_init": ("zero", "inverse_sqrt"),
    "stochastic_depth_rule": ("linear", "constant"),
    "stochastic_depth_each": ("batch", "image"),
    "norm": NORMS,
    "weight_standardization": STANDARDIZATIONS,
    "kernel_init": KERNEL_INITS,
    "gate_init": KERNEL_INITS,
    "output": OUTPUTS,
    "padding": PADDINGS,
    "dtype": ("float32", "bfloat16"),
}
# Initial kernels that are a map of all input channels.
DENSE_INITS = ("identity", "delta_orthogonal", "scaled_delta_orthogonal")
FRACTIONS = (
    "se_ratio",
    "branch_dropout",
    "shortcut_dropout",
    "stochastic_depth",
    "bn_momentum",
    "head_dropout",
)


def check_net(config: ModelConfig) -> None:
    """Raises InputError, naming field, value and remedy, if this is not a net of the grammar."""
    _check_choices(config)
    _check_ranges(config)
    _check_combinations(config)
    normed = [
        each for each in stem_layers(config) if NORM in ORDERS[config.activation_order].of_stem(each.last)
    ]
    _check_norm_groups(config, "stem", [layer.outputs for layer in normed])
    for block in block_specs(config):
        _check_block(config, block_of_stream(config, block))


def _check_choices(config: ModelConfig) -> None:
    for field, choices in CHOICES.items():
        check_choice(f"model.{field}", getattr(config, field), choices)


def _check_ranges(config: ModelConfig) -> None:
    for field in FRACTIONS:
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise InputError(f"`model.{field}` must be at least 0 and below 1; got {value}")
    for field in ("width", "branch_width", "norm_epsilon"):
        if not getattr(config, field) > 0:
            raise InputError(f"`model.{field}` must be above 0; got {getattr(config, field)}")
    least_of = {
        "groups": 1, "norm_groups": 1, "ghost_batch": 0, "stem_width": 0, "low_rank": 1, "streams": 1,
        "widening": 0,
    }  # fmt: skip
    for field, least in least_of.items():
        check_at_least(f"model.{field}", getattr(config, field), least)


def _check_combinations(config: ModelConfig) -> None:
    shortcut, order = SHORTCUTS[config.shortcut], ORDERS[config.activation_order]
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
    for field in ("bn_fixed", "widening"):
        if config.scan_blocks and getattr(config, field):
            raise InputError(f"`model.{field}` tells blocks apart, which `model.scan_blocks` runs as one; "
                             "set model.scan_blocks=None")  # fmt: skip
    _check_branch(config)
    _check_first_kernels(config, order)
    if config.activation in TAILORED and config.after_sum not in ("auto", "identity"):
        raise InputError(
            f"`model.activation` {config.activation!r} is solved for all activations of a net, and "
            f"model.after_sum is {config.after_sum!r}; set model.after_sum=auto"
        )
    if config.activation in TAILORED and config.gain_corrected:
        raise InputError(f"`model.gain_corrected` has no effect on `model.activation` {config.activation!r}, "
                         "which is solved for its scale; set model.gain_corrected=False")  # fmt: skip
    shortcut.check(config)
    if config.groups > 1 and config.kernel_init in DENSE_INITS:
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
        raise InputError("`model.zero_gamma` with model.activation_order="
                         f"{config.activation_order!r} would start branches at an "
                         "activation of 0, through which ReLU passes no gradient; set "
                         "model.zero_gamma=False, or model.shortcut=rezero")  # fmt: skip


def _check_first_kernels(config: ModelConfig, order: Order) -> None:
    """Raises InputError where a field sets the size of kernels at the start, and kernels are normalised.

    Such a size has no effect. A kernel of zeros becomes full-sized at the first update, and its direction
    hardly changes afterwards.
    """
    standardised = config.weight_standardization != "none"
    if not standardised and config.branch != "dirac":
        return
    by = "model.weight_standardization" if standardised else "model.branch=dirac"
    for field, sets, remedy in (
        ("branch_init_scale", config.branch_init_scale != 1, "1"),
        ("zero_gamma", config.zero_gamma and not order.after, "False"),
        ("kernel_init", config.kernel_init == "zero", "he_fan_out"),
        ("gate_init", standardised and config.gate_init == "zero", "he_fan_out"),
        ("shortcut", standardised and SHORTCUTS[config.shortcut].zero_kernels, "identity"),
    ):
        if sets:
            raise InputError(f"`model.{field}` {getattr(config, field)!r} sets the size of kernels at the "
                             f"start, which {by} normalises; set model.{field}={remedy}")  # fmt: skip


def _check_branch(config: ModelConfig) -> None:
    """Raises InputError for a field that the branch does not use, or that would mix branches side by side."""
    branch = BRANCHES[config.branch]
    for field, unset, serves in (
        ("groups", 1, any(operation.grouped for operation in branch.operations)),
        ("branch_width", 1.0, len(branch.operations) > 1),
    ):
        if getattr(config, field) != unset and not serves:
            raise InputError(f"`model.{field}` {getattr(config, field)!r} has no effect on branch "
                             f"{config.branch!r}; set model.{field}={unset}")  # fmt: skip
    if branch.copies == 1:
        return
    for field, apart, remedy in (
        ("norm", config.norm in ("batch", "instance", "none"), "batch"),
        ("groups", config.groups == 1, "1"),
        ("se_ratio", not config.se_ratio, "0"),
    ):
        if not apart:
            raise InputError(f"branch {config.branch!r} has two branches side by side, which model.{field}="
                             f"{getattr(config, field)!r} would mix; set model.{field}={remedy}")  # fmt: skip


def _check_block(config: ModelConfig, block: BlockSpec) -> None:
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
    if config.transition == "shifted_projection" and block.changes_shape and block.outputs < 2:
        raise InputError(f"{block.name} has one channel, and model.transition='shifted_projection' makes two "
                         "halves of its outputs; set a larger `model.width`")  # fmt: skip
    for place in places(config, block):
        if place.inputs % place.groups or place.outputs % place.groups:
            raise InputError(
                f"`model.groups` must divide the channels of {block.name}/{place.name} "
                f"({place.inputs} to {place.outputs}); got {config.groups}"
            )
    widths = [block.width, block.outputs] + [block.inputs] * (NORM in ORDERS[config.activation_order].before)
    _check_norm_groups(config, block.name, widths)


def _check_norm_groups(config: ModelConfig, name: str, widths: list[int]) -> None:
    if config.norm == "group" and any(width % config.norm_groups for width in widths):
        raise InputError(
            f"`model.norm_groups` must divide the widths of {name} ({', '.join(map(str, widths))}); "
            f"got {config.norm_groups}"
        )


def idle_in_net(config: ModelConfig) -> dict[str, str]:
    """Fields that have no effect beside the others, and what each of them is for."""
    readers: dict[str, list[str]] = {}
    for name, shortcut in SHORTCUTS.items():
        for field in shortcut.fields:
            readers.setdefault(field, []).append(name)
    found = {
        field: f"`model.shortcut` {', '.join(names)}"
        for field, names in readers.items()
        if config.shortcut not in names
    }
    blocks = block_specs(config)
    strided = any(block.stride > 1 for block in blocks)
    changed = any(block.changes_shape for block in blocks) and not SHORTCUTS[config.shortcut].changes_shape
    padded = changed and config.transition == "pad"
    kept = "a `model.shortcut` that keeps the shape of x"
    for fields, effective, purpose in (
        (("transition",), changed, f"{kept}, where blocks change it"),
        (("pad_side",), padded, f"`model.transition` pad, and {kept}, where blocks change it"),
        (("pad_mode",), padded and strided,
         f"`model.transition` pad, and {kept}, where blocks have a stride"),
        (("depth",), not config.blocks, "`model.blocks` ()"),
        (("stride_at",), BRANCHES[config.branch].strided and strided,
         "`model.branch` bottleneck, where blocks have a stride"),
        (("stochastic_depth_rule", "stochastic_depth_each"), config.stochastic_depth,
         "`model.stochastic_depth` above 0"),
        (("norm_groups",), config.norm == "group", "`model.norm` group"),
        (("bn_momentum", "bn_unbiased"), config.norm == "batch", "`model.norm` batch"),
        (("norm_epsilon",), config.norm != "none", "a `model.norm` other than none"),
    ):  # fmt: skip
        if not effective:
            found |= dict.fromkeys(fields, purpose)
    return found
