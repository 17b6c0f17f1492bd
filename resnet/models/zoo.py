"""Published nets as data: each a point of the grammar, with the counts it must have.

`parameters` and `macs` are those of the source, not ours; `scripts/describe.py --zoo` and the tests
hold ours against them. CIFAR nets are for 10 classes and 32x32 images, ImageNet's for 1000 and 224x224.
"""

import copy
import dataclasses
from typing import Any

from resnet.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class KnownNet:
    """A published net, its parameters and multiply-accumulates (None: not published), and who says so."""

    _config: ModelConfig
    parameters: int
    macs: int | None
    source: str
    num_outputs: int = 10
    image_shape: tuple[int, int, int] = (32, 32, 3)

    @property
    def config(self) -> ModelConfig:
        """A copy of the net's config, which the caller may change."""
        return copy.copy(self._config)


IMAGENET = {"num_outputs": 1000, "image_shape": (224, 224, 3)}
PAPERS = "counted from the published definition"
TIMM = "timm 1.0.31, {}"
PYRAMID = "github jhkim89/PyramidNet"
HIGHWAY = "github flukeskywalker/highway-resnet-comparison"


def _cifar(depth: int, **fields: Any) -> ModelConfig:
    return ModelConfig(depth=depth, **fields)


def _wide(depth: int, width: int) -> ModelConfig:
    """Wide ResNet (Zagoruyko 2016): pre-activation, projections, a stem of 16 channels."""
    return ModelConfig(
        family="wide",
        depth=depth,
        width=width,
        stem_width=16,
        activation_order="preactivation",
        transition="projection",
    )


def _resnext29(groups: int) -> ModelConfig:
    """ResNeXt-29 for CIFAR (Xie 2017): `groups` groups of 64 channels in the first stage."""
    return ModelConfig(
        depth=29, branch="bottleneck", width=4, branch_width=groups, groups=groups, transition="projection"
    )


def _pyramid(depth: int, widening: int, **fields: Any) -> ModelConfig:
    """PyramidNet for CIFAR (Han 2017): wider by the same number of channels in each block."""
    return ModelConfig(
        depth=depth, widening=widening, activation_order="pyramid", pad_mode="average", **fields
    )


def _shake(width: int) -> ModelConfig:
    """Shake-Shake-26 for CIFAR (Gastaldi 2017): 2 x 16 `width` channels in the first stage."""
    return ModelConfig(
        depth=26, width=width, stem_width=16, branch="shake_shake", activation_order="shake_shake",
        transition="shifted_projection",
    )  # fmt: skip


def _revnet(depth: int) -> ModelConfig:
    """RevNet for CIFAR (Gomez 2017): two streams, each as wide as a ResNet."""
    return ModelConfig(
        depth=depth,
        width=2,
        shortcut="reversible",
        activation_order="preactivation",
        pad_mode="average",
        pad_side="both",
    )


def _imagenet(depth: int, **fields: Any) -> ModelConfig:
    branch = "basic" if depth in (18, 34) else "bottleneck"
    defaults: dict[str, Any] = {
        "family": "imagenet",
        "stem": "imagenet",
        "branch": branch,
        "transition": "projection",
    }
    return ModelConfig(depth=depth, **(defaults | fields))


RESNET_D = {"stem": "deep", "transition": "average_projection"}
RESNET_RS = {"stem": "deep_strided", "transition": "average_projection", "se_ratio": 0.25}
PREACTIVATION = {"activation_order": "preactivation", "transition": "projection"}
# resnet-1k-layers, by the authors of He 2016, strides the first 1x1 of a bottleneck; fb.resnet.torch the 3x3.
BOTTLENECK = {"branch": "bottleneck", "stride_at": "first", "transition": "projection"}
C = {"shortcut": "projection", "transition": "projection"}
GATE = {"shortcut": "exclusive_gating"}
BIT = {"stem": "bit", "activation_order": "preactivation", "norm": "group", "weight_standardization": "plain"}
NF = {
    "activation_order": "preactivation",
    "norm": "none",
    "weight_standardization": "scaled",
    "gain_corrected": True,
    "shortcut": "normalizer_free",
}
# The gate doubles a branch's parameters, which a width of 7/8 makes up for in part.
HIGHWAY_110 = {
    "shortcut": "highway",
    "transition": "projection",
    "width": 0.875,
    "stem_width": 16,
    "gate_bias": -6.0,
    "after_sum": "identity",
}

# name: (config, parameters, multiply-accumulates)
_CIFAR = {
    "resnet20": (_cifar(20), 269722, 40551040),
    "resnet32": (_cifar(32), 464154, 68862592),
    "resnet44": (_cifar(44), 658586, 97174144),
    "resnet56": (_cifar(56), 853018, 125485696),
    "resnet110": (_cifar(110), 1727962, 252887680),
    "resnet1202": (_cifar(1202), 19421274, 2829238912),
    "resnet20_b": (_cifar(20, transition="projection"), 272474, 40813184),
    "resnet32_b": (_cifar(32, transition="projection"), 466906, 69124736),
    "resnet44_b": (_cifar(44, transition="projection"), 661338, 97436288),
    "resnet56_b": (_cifar(56, transition="projection"), 855770, 125747840),
    "resnet110_b": (_cifar(110, transition="projection"), 1730714, 253149824),
    "resnet1202_b": (_cifar(1202, transition="projection"), 19424026, 2829501056),
    "resnet20_c": (_cifar(20, **C), 283962, 42648192),
    "resnet32_c": (_cifar(32, **C), 489594, 72532608),
    "resnet44_c": (_cifar(44, **C), 695226, 102417024),
    "resnet56_c": (_cifar(56, **C), 900858, 132301440),
    "resnet110_c": (_cifar(110, **C), 1826202, 266781312),
    "resnet1202_c": (_cifar(1202, **C), 20538714, 2986263168),
    "preact20": (_cifar(20, activation_order="preactivation"), 269722, 40551040),
    "preact20_b": (_cifar(20, **PREACTIVATION), 272282, 40813184),
    "preact56": (_cifar(56, activation_order="preactivation"), 853018, 125485696),
    "preact56_b": (_cifar(56, **PREACTIVATION), 855578, 125747840),
    "preact110": (_cifar(110, activation_order="preactivation"), 1727962, 252887680),
    "preact110_b": (_cifar(110, **PREACTIVATION), 1730522, 253149824),
    "resnet164": (_cifar(164, **BOTTLENECK), 1704154, 244500992),
    "resnet1001": (_cifar(1001, **BOTTLENECK), 10328602, 1487849984),
    "preact164": (_cifar(164, **BOTTLENECK | PREACTIVATION), 1703258, 244500992),
    "preact1001": (_cifar(1001, **BOTTLENECK | PREACTIVATION), 10327706, 1487849984),
    "gate20": (_cifar(20, **GATE), 283626, 42648192),
    "gate110": (_cifar(110, **GATE), 1824186, 266781312),
    "wrn16_4": (_wide(16, 4), 2748890, 392612352),
    "wrn16_8": (_wide(16, 8), 10961370, 1548145664),
    "wrn28_10": (_wide(28, 10), 36479194, 5243328768),
    "wrn40_1": (_wide(40, 1), 563930, 83280512),
    "wrn40_2": (_wide(40, 2), 2243546, 327599360),
    "wrn40_4": (_wide(40, 4), 8949210, 1298582016),
}
_IMAGENET = {
    "resnet18": (_imagenet(18), 11689512, 1814073344),
    "resnet34": (_imagenet(34), 21797672, 3663761408),
    "resnet50": (_imagenet(50), 25557032, 4089184256),
    "resnet101": (_imagenet(101), 44549160, 7801405440),
    "resnet152": (_imagenet(152), 60192808, 11513626624),
    "resnet200": (_imagenet(200), 64673832, 15007481856),
    "resnet18_a": (_imagenet(18, transition="pad"), 11515688, 1794805760),
    "resnet34_a": (_imagenet(34, transition="pad"), 21623848, 3644493824),
    "resnet18_c": (_imagenet(18, **C), 12043816, 1878298624),
    "resnet34_c": (_imagenet(34, **C), 22716840, 3830747136),
    "resnet50_v1": (_imagenet(50, stride_at="first"), 25557032, 3857973248),
    "resnet101_v1": (_imagenet(101, stride_at="first"), 44549160, 7570194432),
    "resnet152_v1": (_imagenet(152, stride_at="first"), 60192808, 11282415616),
    "resnet200_v1": (_imagenet(200, stride_at="first"), 64673832, 14776270848),
}
# Parameters and multiply-accumulates counted in timm's modules of these names.
_TIMM = {
    "resnet18d": (_imagenet(18, **RESNET_D), 11708744, 2053713920),
    "resnet34d": (_imagenet(34, **RESNET_D), 21816904, 3903401984),
    "resnet50d": (_imagenet(50, **RESNET_D), 25576264, 4328824832),
    "resnet101d": (_imagenet(101, **RESNET_D), 44568392, 8041046016),
    "resnet152d": (_imagenet(152, **RESNET_D), 60212040, 11753267200),
    "resnet200d": (_imagenet(200, **RESNET_D), 64693064, 15247122432),
    "resnext50_32x4d": (_imagenet(50, groups=32, branch_width=2.0), 25028904, 4230479872),
    "resnext101_32x4d": (_imagenet(101, groups=32, branch_width=2.0), 44177704, 7969996800),
    "resnext101_32x8d": (_imagenet(101, groups=32, branch_width=4.0), 88791336, 16414015488),
    "wide_resnet50_2": (_imagenet(50, branch_width=2.0), 68883240, 11398021120),
    "seresnet50": (_imagenet(50, se_ratio=1 / 16), 28088024, 4091699200),
    "resnetrs50": (_imagenet(50, **RESNET_RS), 35691912, 4454490112),
    "resnetrs101": (_imagenet(101, **RESNET_RS), 63618696, 8175624192),
    "resnetrs152": (_imagenet(152, **RESNET_RS), 86621576, 11895185408),
    "resnetrs200": (_imagenet(200, **RESNET_RS), 93209992, 15391137792),
    "resnetrs270": (_imagenet(270, **RESNET_RS), 129861448, 20643618816),
    "resnetrs350": (_imagenet(350, **RESNET_RS), 163956168, 26332012544),
    "resnetrs420": (_imagenet(420, **RESNET_RS), 191891656, 31363342336),
    "resnetv2_50x1_bit": (_imagenet(50, **BIT), 25549352, 4089184256),
}

ZOO = {
    **{name: KnownNet(*net, PAPERS) for name, net in _CIFAR.items()},
    **{name: KnownNet(*net, PAPERS, **IMAGENET) for name, net in _IMAGENET.items()},
    **{name: KnownNet(*net, TIMM.format(name), **IMAGENET) for name, net in _TIMM.items()},
    # 100 classes: (64 * 4 + 1) * 90 parameters more.
    "preact164_cifar100": KnownNet(_CIFAR["preact164"][0], 1726388, 244524032, PAPERS, num_outputs=100),
    "preact1001_cifar100": KnownNet(_CIFAR["preact1001"][0], 10350836, 1487873024, PAPERS, num_outputs=100),
    "highway110": KnownNet(_cifar(110, **HIGHWAY_110), 2649918, None, HIGHWAY),
    # Zhang 2019's code: ResNet-110 A without its 8,096 BN parameters, with 5 scalars a block and 2 more.
    "fixup110": KnownNet(
        _cifar(110, shortcut="fixup", norm="none", zero_head=True), 1720138, 252887680, "hongyi-zhang/Fixup"
    ),
    # Han 2017 (arXiv 1610.02915) rounds these to 1.7M, 3.8M, 28.3M, 27.0M and 26.0M parameters.
    "pyramid110_48": KnownNet(_pyramid(110, 48), 1772706, None, PYRAMID),
    "pyramid110_84": KnownNet(_pyramid(110, 84), 3904446, None, PYRAMID),
    "pyramid110_270": KnownNet(_pyramid(110, 270), 28485477, None, PYRAMID),
    "pyramid164_270": KnownNet(_pyramid(164, 270, branch="bottleneck"), 27216021, None, PYRAMID),
    "pyramid272_200": KnownNet(_pyramid(272, 200, branch="bottleneck"), 26210842, None, PYRAMID),
    # Gastaldi 2017 (arXiv 1705.07485), Table 1: 2.9M, 11.7M and 26.2M parameters.
    "shake26_2x32d": KnownNet(_shake(2), 2923162, None, "github xgastaldi/shake-shake"),
    "shake26_2x64d": KnownNet(_shake(4), 11653978, None, "github xgastaldi/shake-shake"),
    "shake26_2x96d": KnownNet(_shake(6), 26192922, None, "github xgastaldi/shake-shake"),
    "revnet110": KnownNet(_revnet(110), 1729194, None, "github renmengye/revnet-public"),
    # Xie 2017, Table 7: 34.4M and 68.1M parameters.
    "resnext29_8x64d": KnownNet(_resnext29(8), 34426698, None, "github prlz77/ResNeXt.pytorch"),
    # timm counts 25,557,032: it leaves out the learned gain of each of the 16 blocks.
    "nf_resnet50": KnownNet(_imagenet(50, **NF), 25557048, 4089184256, "Brock 2021", **IMAGENET),
}
