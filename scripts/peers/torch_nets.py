"""The PyTorch twins of the benchmark: nets, the batch and the side of the images they are timed with.

CIFAR's ResNets are akamaster's and ImageNet's are timm's, both from scripts.peers.nets; the wide
ResNet is written here. torch and timm are imported when a net is built.
"""

import dataclasses
from typing import Any

from resnet.models.zoo import ZOO
from scripts.peers.nets import PEERS, Peer, akamaster_peer, need


@dataclasses.dataclass(frozen=True)
class Case:
    """A net there and here, and on what it is timed."""

    name: str
    peer: Peer
    batch: int
    side: int
    """Height and width of an image in pixels."""
    num_outputs: int


def wide_resnet16_4(num_outputs: int) -> Any:
    """WRN-16-4 as in Zagoruyko 2016: pre-activation, projections from the activated input."""
    need("torch")
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.act = nn.ReLU()
            self.shortcut = nn.Sequential()
            if inputs != outputs:
                self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

        def forward(self, x):
            start = self.act(self.bn1(x))
            branch = self.conv2(self.act(self.bn2(self.conv1(start))))
            return branch + (self.shortcut(start) if len(self.shortcut) else x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.layer1 = nn.Sequential(Block(16, 64, 1), Block(64, 64, 1))
            self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
            self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
            self.bn, self.act = nn.BatchNorm2d(256), nn.ReLU()
            self.linear = nn.Linear(256, num_outputs)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
            return self.linear(self.act(self.bn(x)).mean((2, 3)))

    return Net()


WRN16_4 = Peer(wide_resnet16_4, ZOO["wrn16_4"].config, "cifar", "WRN-16-4 beside the benchmark")

CASES = {
    case.name: case
    for case in (
        *(Case(f"resnet{depth}", akamaster_peer(depth), 128, 32, 10) for depth in (20, 56, 110)),
        Case("wrn16_4", WRN16_4, 64, 32, 10),
        Case("resnet18", PEERS["resnet18"], 16, 224, 1000),
        Case("resnet50", PEERS["resnet50"], 8, 224, 1000),
        Case("resnext50_32x4d", PEERS["resnext50_32x4d"], 8, 224, 1000),
    )
}
# What --quick takes in place of each of them.
TINY = Case("resnet8", akamaster_peer(8), 4, 32, 10)
