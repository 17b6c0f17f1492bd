"""Known numbers of parts of published nets: gains, channels of zeros, averaged pixels, borders."""

import jax
import jax.numpy as jnp
import numpy as np

from resnet.kernels.pooling import max_pool
from resnet.models.config import BlockSpec
from resnet.models.geometry import STEMS
from resnet.models.layers import Conv, Layers
from resnet.models.shortcuts.table import ShortcutPath
from tests.models_cases import images, net

ODD = images(2, 5, 7, 4)
CHANGE = BlockSpec(stage=2, block=1, index=1, inputs=4, width=8, outputs=8, stride=2)


def padded(**fields):
    """Returns ODD after the shortcut of CHANGE, to which a branch of zeros is added."""
    path = ShortcutPath(net(transition="pad", **fields), CHANGE)
    return np.asarray(path.apply({}, ODD, jnp.zeros((2, 3, 4, 8)), False))


def test_an_activation_with_its_gain_keeps_the_variance():
    layers = Layers(ShortcutPath(net(gain_corrected=True), CHANGE), False, False, 0)
    gain = np.sqrt(2 / (1 - 1 / np.pi))  # of ReLU (Brock 2021), whose constant is 0.06 % above it
    np.testing.assert_allclose(layers.activate("relu", ODD), gain * jnp.maximum(ODD, 0), rtol=1e-3)


def test_channels_of_zeros_stand_at_the_end_or_on_both_sides():
    end, both = padded(pad_side="end"), padded(pad_side="both")
    pixels = ODD[:, ::2, ::2]
    np.testing.assert_array_equal(end, np.concatenate([pixels, np.zeros_like(pixels)], -1))
    assert not both[..., [0, 1, 6, 7]].any()
    np.testing.assert_array_equal(both[..., 2:6], pixels)


def test_averages_at_the_border_are_of_the_pixels_within():
    odd = np.pad(np.float64(ODD), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=np.nan)
    windows = odd.reshape(2, 3, 2, 4, 2, 4)
    np.testing.assert_allclose(padded(pad_mode="average")[..., :4], np.nanmean(windows, (2, 4)), atol=1e-6)


def test_circular_padding_commutes_with_a_shift():
    conv = Conv(net(padding="circular"), outputs=4, size=3)
    variables = conv.init(jax.random.key(0), ODD)

    def shifted(x):
        return jnp.roll(x, (2, 3), (1, 2))

    of_shifted, shifted_after = conv.apply(variables, shifted(ODD)), shifted(conv.apply(variables, ODD))
    np.testing.assert_allclose(of_shifted, shifted_after, atol=1e-6)


def test_the_pool_of_the_bit_stem_counts_zeros_at_the_border():
    pooled = max_pool(-jnp.ones((1, 4, 4, 1)), STEMS["bit"].border)
    assert pooled[0, :, :, 0].tolist() == [[0, 0], [0, -1]]
