"""What other code bases call the tensors of our nets: name maps as data.

Keys are our modules: those of a block begin with `block/`, and {i} stands for the number at their end.
In their names, {stage} and {block} are our numbers, from 1; {stage0}, {block0} and {i0} count from 0.
"""

import dataclasses
import re
from collections.abc import Mapping

from resnet.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Naming:
    """Maps our modules to theirs."""

    modules: Mapping[str, str]
    variations: Mapping[tuple[str, str], Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """What differs where a field of ModelConfig has a value: {(field, value): modules}."""
    pointwise: tuple[str, ...] = ()
    """Linear layers of ours that are 1x1 convolutions there."""


def _blocks(prefix: str, modules: Mapping[str, str]) -> dict[str, str]:
    return {f"block/{ours}": f"{prefix}.{theirs}" for ours, theirs in modules.items()}


_LAYER = "layer{stage}.{block0}"
_SQUEEZE = ("block/squeeze/reduce", "block/squeeze/expand")
_DEEP = {
    **{f"stem/conv{i}": f"conv1.{3 * i - 3}" for i in (1, 2, 3)},
    **{f"stem/norm{i}": f"conv1.{3 * i - 2}" for i in (1, 2)},
    "stem/norm3": "bn1",
}
_POOLED_PROJECTION = {"shortcut/projection": "downsample.1", "shortcut/norm": "downsample.2"}

TORCHVISION = Naming(
    modules={
        "stem/conv1": "conv1",
        "stem/norm1": "bn1",
        "head/dense": "fc",
        **_blocks(
            _LAYER,
            {
                "conv{i}": "conv{i}",
                "norm{i}": "bn{i}",
                "shortcut/projection": "downsample.0",
                "shortcut/norm": "downsample.1",
                "squeeze/reduce": "se.fc1",
                "squeeze/expand": "se.fc2",
            },
        ),
    },
    variations={
        ("stem", "deep"): _DEEP,
        ("stem", "deep_strided"): _DEEP | {"stem/conv4": "maxpool.0", "stem/norm4": "maxpool.1"},
        ("transition", "average_projection"): _blocks(_LAYER, _POOLED_PROJECTION),
    },
    pointwise=_SQUEEZE,
)

_V2_BLOCK = "stages.{stage0}.blocks.{block0}"
TIMM_V2 = Naming(
    modules={
        "stem/conv1": "stem.conv",
        "head/norm": "norm",
        "head/dense": "head.fc",
        **_blocks(
            _V2_BLOCK,
            {"conv{i}": "conv{i}", "norm{i}": "norm{i}", "shortcut/projection": "downsample.conv"},
        ),
    },
    variations={
        ("stem", "deep"): {
            **{f"stem/conv{i}": f"stem.conv{i}" for i in (1, 2, 3)},
            **{f"stem/norm{i}": f"stem.norm{i}" for i in (1, 2)},
        },
    },
    pointwise=("head/dense",),
)

TRANSFORMERS = Naming(
    modules={
        "stem/conv1": "resnet.embedder.embedder.convolution",
        "stem/norm1": "resnet.embedder.embedder.normalization",
        "head/dense": "classifier.1",
        **_blocks(
            "resnet.encoder.stages.{stage0}.layers.{block0}",
            {
                "conv{i}": "layer.{i0}.convolution",
                "norm{i}": "layer.{i0}.normalization",
                "shortcut/projection": "shortcut.convolution",
                "shortcut/norm": "shortcut.normalization",
            },
        ),
    },
)

# github akamaster/pytorch_resnet_cifar10, kuangliu/pytorch-cifar and their many descendants.
CIFAR = Naming(
    modules={
        "stem/conv1": "conv1",
        "stem/norm1": "bn1",
        "head/norm": "bn",
        "head/dense": "linear",
        **_blocks(
            _LAYER,
            {
                "conv{i}": "conv{i}",
                "norm{i}": "bn{i}",
                "shortcut/projection": "shortcut.0",
                "shortcut/norm": "shortcut.1",
            },
        ),
    },
)

NAMINGS = {
    "torchvision": TORCHVISION,
    "timm": TORCHVISION,  # of its file resnet.py; torchvision's names with squeeze and deep stems added
    "timm_v2": TIMM_V2,  # of its file resnetv2.py: pre-activation, BiT
    "transformers": TRANSFORMERS,
    "cifar": CIFAR,
}

_MODULE = re.compile(r"(?:stage(\d+)/block(\d+)/)?(.*?)(\d*)")


def their_module(naming: Naming, config: ModelConfig, module: str) -> str | None:
    """Their name of a module of ours, such as stage1/block2/conv1; None if they have no such module."""
    match = _MODULE.fullmatch(module)
    assert match is not None
    stage, block, stem, i = match.groups()
    modules = dict(naming.modules)
    for (field, value), changed in naming.variations.items():
        if getattr(config, field) == value:
            modules |= changed
    theirs = modules.get(f"block/{stem}{'{i}' if i else ''}" if stage else module)
    if theirs is None:
        return None
    numbers = {"stage": int(stage or 1), "block": int(block or 1), "i": int(i or 1)}
    return theirs.format(**numbers, **{f"{name}0": n - 1 for name, n in numbers.items()})


def is_pointwise(naming: Naming, module: str) -> bool:
    """Whether a linear layer of ours is a 1x1 convolution there."""
    return re.sub(r"stage\d+/block\d+/", "block/", module) in naming.pointwise
