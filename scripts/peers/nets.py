"""Nets of PyTorch code bases with random weights, for comparison: timm, transformers and akamaster's.

Nothing is downloaded. torch, timm and transformers are imported when a net is built.
"""

import dataclasses
import functools
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

from resnet.errors import check_installed
from resnet.models.config import ModelConfig
from resnet.models.zoo import ZOO


@dataclasses.dataclass(frozen=True)
class Peer:
    """A net there (`build(num_outputs)`), the same net here, and its naming."""

    build: Callable[[int], Any]
    config: ModelConfig
    naming: str
    source: str


class _Stubs:
    """Finds and makes empty modules in place of torchvision and timm.data.

    timm imports them for its data loading; no net of the ones compared depends on them.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] == "torchvision" or name.startswith("timm.data"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        # PEP 562: any name is there, and is an empty class.
        module.__dict__["__getattr__"] = lambda name: _placeholder(name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def _placeholder(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def import_timm() -> Any:
    """timm, also where torchvision is not installed."""
    need("torch", "timm")
    if "timm" in sys.modules or importlib.util.find_spec("torchvision"):
        import timm

        return timm
    stubs = _Stubs()
    sys.meta_path.insert(0, stubs)  # type: ignore[arg-type]
    try:
        import timm
        import timm.models

        return timm
    finally:
        sys.meta_path.remove(stubs)  # type: ignore[arg-type]
        # transformers asks whether torchvision is there, and must not find the stub.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]


def need(*packages: str) -> None:
    """Raises InputError, with the remedy, if one of the optional packages is not installed."""
    check_installed(packages, "pip install -r requirements-torch.txt, then pip install --no-deps timm")


def timm_peer(name: str, config: ModelConfig, naming: str = "timm", **options: Any) -> Peer:
    """The net `name` of timm."""

    def build(num_outputs: int) -> Any:
        return import_timm().create_model(name, num_classes=num_outputs, **options)

    return Peer(build, config, naming, f"timm {name}")


def transformers_peer(depth: int, config: ModelConfig, **options: Any) -> Peer:
    """The ResNet of transformers with a config such as those of microsoft/resnet-18 … resnet-152."""

    def build(num_outputs: int) -> Any:
        need("torch", "transformers")
        import transformers

        fields = transformers.ResNetConfig(num_labels=num_outputs, **options)  # type: ignore[call-arg]
        return transformers.ResNetForImageClassification(fields)

    return Peer(build, config, "transformers", f"transformers ResNet-{depth}")


def akamaster_resnet(depth: int, num_outputs: int) -> Any:
    """A net for CIFAR by the definition of github akamaster/pytorch_resnet_cifar10, shortcut A."""
    need("torch")
    from torch import nn
    from torch.nn.functional import pad

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int):
            super().__init__()
            self.stride = 1 if inputs == outputs else 2
            self.side = (outputs - inputs) // 2
            self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.act = nn.ReLU()

        def forward(self, x):
            branch = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
            sides = (0, 0, 0, 0, self.side, self.side)
            return self.act(branch + pad(x[:, :, :: self.stride, :: self.stride], sides))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            blocks = (depth - 2) // 6
            self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks)))
            self.layer2 = nn.Sequential(Block(16, 32), *(Block(32, 32) for _ in range(blocks - 1)))
            self.layer3 = nn.Sequential(Block(32, 64), *(Block(64, 64) for _ in range(blocks - 1)))
            self.linear = nn.Linear(64, num_outputs)
            self.act = nn.ReLU()

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(self.act(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return Net()


def akamaster_peer(depth: int) -> Peer:
    """The net of that depth and the same net here."""
    config = ModelConfig(depth=depth, pad_side="both")
    return Peer(functools.partial(akamaster_resnet, depth), config, "cifar", f"akamaster resnet{depth}")


RESNET20 = akamaster_peer(20)

_TIMM = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50d"),
    *("resnext50_32x4d", "wide_resnet50_2", "seresnet50", "resnetrs50"),
)
_BASIC = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
PEERS = {
    "resnet20": RESNET20,
    **{name: timm_peer(name, ZOO[name].config) for name in _TIMM},
    "resnetv2_50": timm_peer(
        "resnetv2_50",
        dataclasses.replace(ZOO["resnet50"].config, activation_order="preactivation"),
        "timm_v2",
    ),
    "resnetv2_50x1_bit": timm_peer("resnetv2_50x1_bit", ZOO["resnetv2_50x1_bit"].config, "timm_v2"),
    "transformers-18": transformers_peer(18, ZOO["resnet18"].config, depths=[2, 2, 2, 2], **_BASIC),
    "transformers-50": transformers_peer(50, ZOO["resnet50"].config),
    "transformers-152": transformers_peer(152, ZOO["resnet152"].config, depths=[3, 8, 36, 3]),
}
