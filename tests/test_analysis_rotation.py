"""Angles and cosines of blocks that are known: the identity, a factor, and branches across x."""

import dataclasses

import numpy as np
import pytest

from resnet.analysis import rotation
from resnet.analysis.subject import of_config
from resnet.config import Config
from resnet.errors import InputError
from resnet.models.config import ModelConfig
from tests.models_cases import images

CHAIN = {"family": "chain", "blocks": (4,), "norm": "none", "activation": "identity", "padding": "circular",
         "after_sum": "identity", "kernel_init": "identity"}  # fmt: skip


def asked(**model):
    config = Config(model=ModelConfig(**CHAIN | model))
    return rotation.ask(of_config("chain", config, images=4), rotation.Options()).nets[0]


@pytest.mark.thorough
def test_blocks_that_do_not_turn_x():
    """F(x) = x doubles it: no angle, cosine 1, no effective depth."""
    found = asked()
    np.testing.assert_allclose(found.angle, 0, atol=0.01)
    np.testing.assert_allclose(found.change, 1, rtol=1e-5)
    np.testing.assert_allclose([found.cosine, found.in_pixels], 1, rtol=1e-5)


@pytest.mark.thorough
def test_branches_across_x():
    """Orthogonal updates have no part along x within a pixel, and y is as much longer as it is turned."""
    found = asked(shortcut="orthogonal", kernel_init="delta_orthogonal")
    assert found.blocks == [f"stage1/block{i}" for i in range(1, 5)]
    np.testing.assert_allclose(np.tan(np.radians(found.angle)), found.change, rtol=0.02)
    assert 3 < found.effective_depth <= 4


@pytest.mark.thorough
def test_a_net_at_its_start_has_the_statistics_of_the_images():
    """The question measures the statistics first: with a new net's, 0 and 1, batch norms do nothing."""
    config = Config(model=ModelConfig(family="chain", blocks=(4,)))
    net = of_config("chain", config, images=8)
    running, batch = (
        rotation.ask(net, rotation.Options(each)).nets[0].angle for each in ("running", "batch")
    )
    np.testing.assert_allclose(running, batch, rtol=1e-3)


def test_the_effective_depth_counts_the_blocks_that_turn_x():
    angles = np.array([10.0, 10.0, 0.0, 0.0])
    net = rotation.Rotation("net", list("abcd"), angles, angles, angles, angles)
    assert net.effective_depth == pytest.approx(2)
    assert dataclasses.replace(net, angle=np.full(4, 3.0)).effective_depth == pytest.approx(4)
    assert dataclasses.replace(net, angle=np.zeros(4)).effective_depth == 0


def test_directions_that_have_nothing_to_do_with_each_other():
    """Of normal values in 16 channels: mean absolute cosine near sqrt(2 / (16 pi)) within pixels."""
    x, f = images(16, 4, 4, 16), images(16, 4, 4, 16, seed=1)
    angle, change, cosine, in_pixels = rotation._measured(x, x + f, f)
    assert in_pixels == pytest.approx((2 / (16 * np.pi)) ** 0.5, rel=0.05)
    assert (angle, change) == (pytest.approx(45, abs=2), pytest.approx(1, abs=0.05))
    assert abs(cosine) < 0.05


@pytest.mark.thorough
def test_a_net_whose_blocks_all_change_the_shape_is_refused():
    config = Config(model=ModelConfig(blocks=(1, 1, 1), stem_width=8, transition="projection"))
    with pytest.raises(InputError, match="has no block that keeps the shape of x"):
        rotation.ask(of_config("net", config, images=2), rotation.Options())
