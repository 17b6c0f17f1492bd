"""Small nets with the same weights here and in PyTorch. torch, timm and transformers are optional."""

import dataclasses
import functools
import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch, an optional extra, is not installed")

from resnet.errors import InputError  # noqa: E402
from resnet.models.config import ModelConfig  # noqa: E402
from scripts.peers import nets as peers  # noqa: E402
from scripts.peers.parity import LOSSES, compare, compare_training  # noqa: E402

# The tests of our own code raise on rank promotion and on warnings; PyTorch's warnings are its own.
pytestmark = pytest.mark.filterwarnings("ignore:::(torch|timm|transformers|huggingface_hub)")

BASE = {"family": "imagenet", "stem": "imagenet", "blocks": (1, 1, 1, 1), "transition": "projection"}
BOTTLENECK = BASE | {"branch": "bottleneck"}
SMALL = {"layers": (1, 1, 1, 1)}


def assert_parity(peer):
    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    found = compare(peer, images, np.arange(4))
    assert found.within, found


def test_resnet20_and_its_training():
    assert_parity(peers.RESNET20)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 16, 32, 32, 3), np.uint8)
    ours, theirs = compare_training(peers.RESNET20, images, random.integers(0, 10, (3, 16)))
    np.testing.assert_allclose(ours, theirs, atol=LOSSES)


@pytest.mark.parametrize(
    ("name", "config", "naming"),
    [
        (
            "resnet50d",
            ModelConfig(**BOTTLENECK | {"stem": "deep", "transition": "average_projection"}),
            "timm",
        ),
        ("seresnet50", ModelConfig(**BOTTLENECK, se_ratio=1 / 16), "timm"),
        ("resnext50_32x4d", ModelConfig(**BOTTLENECK, groups=32, branch_width=2.0), "timm"),
        ("resnetv2_50", ModelConfig(**BOTTLENECK, activation_order="preactivation"), "timm_v2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_timm(name, config, naming):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm, an optional extra, is not installed")
    assert_parity(peers.timm_peer(name, config, naming, **SMALL))


def test_bit():
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm, an optional extra, is not installed")
    peers.import_timm()
    from timm.layers.std_conv import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    def build(num_outputs):
        convolution = functools.partial(StdConv2d, eps=1e-8)
        return ResNetV2(**SMALL, num_classes=num_outputs, stem_type="fixed", conv_layer=convolution)

    fields = {
        "stem": "bit",
        "activation_order": "preactivation",
        "norm": "group",
        "weight_standardization": "plain",
    }
    assert_parity(peers.Peer(build, ModelConfig(**BOTTLENECK | fields), "timm_v2", "timm BiT"))


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_transformers(layer_type):
    pytest.importorskip("transformers", reason="transformers is not installed")
    hidden = [32, 64, 128, 256] if layer_type == "basic" else [64, 128, 256, 512]
    width = hidden[0] / 64 / (4 if layer_type == "bottleneck" else 1)
    options = {"depths": [1, 1, 1, 1], "hidden_sizes": hidden, "layer_type": layer_type}
    config = ModelConfig(**BASE | {"branch": layer_type}, width=width, stem_width=64)
    assert_parity(peers.transformers_peer(0, config, **options))


def test_a_difference_is_found():
    other = dataclasses.replace(peers.RESNET20.config, pad_side="end")
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    found = compare(dataclasses.replace(peers.RESNET20, config=other), images, np.arange(4))
    assert not found.within and found.logits > 1e-2


def test_a_package_that_is_missing():
    with pytest.raises(InputError, match="nonesuch, which this needs, is not installed: pip install"):
        peers.need("nonesuch")
