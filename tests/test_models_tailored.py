"""Activations made for the depth of a net: the numbers of the papers, and what they promise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.geometry import count_activations
from resnet.models.layers import KERNEL_INITS, Conv
from resnet.models.shortcuts.tailored import (
    TAILORED,
    composed,
    cosine_map,
    dks_numbers,
    tailored_slope,
    tat_numbers,
)
from tests.models_cases import images, net

# Activations in a chain: slope and scale. The middle three stand in the authors' K-FAC example.
SLOPES = {
    19: (0.1644428, 1.3954716), 31: (0.3116549, 1.3501630), 55: (0.4518560, 1.2887551),
    109: (0.5855527, 1.2203873), 49: (0.42590719, None), 100: (0.57043953, None), 151: (0.63864791, None),
}  # fmt: skip


@pytest.mark.parametrize("count", SLOPES)
def test_tailored_slopes(count):
    slope, scale = SLOPES[count]
    assert tailored_slope(count) == pytest.approx(slope, abs=5e-8)
    assert composed(tailored_slope(count), count) == pytest.approx(0.9)
    if scale:
        x = jnp.array([-1.0, 2.0])
        np.testing.assert_allclose(TAILORED["tat_relu"](count)(x), [-slope * scale, 2 * scale], rtol=1e-6)


@pytest.mark.parametrize(("count", "cosine"), [(9, 0.8548), (13, 0.9071), (19, 0.9445)])
def test_cosine_of_orthogonal_inputs_behind_relu(count, cosine):
    """Up to 12 activations ReLU stays below 0.9 by itself, and is not changed."""
    assert composed(0.0, count) == pytest.approx(cosine, abs=5e-5)
    assert (tailored_slope(count) == 0) == (count < 13)


def test_the_cosine_map_is_that_of_the_activation():
    """The mean of f(u) f(v) over 400,000 pairs of normal values with cosine c."""
    f = TAILORED["tat_relu"](55)
    u, w = np.asarray(jax.random.normal(jax.random.key(0), (2, 400_000)))
    for c in (-0.5, 0.0, 0.7):
        v = c * u + math.sqrt(1 - c**2) * w
        mean = float((np.asarray(f(u)) * np.asarray(f(v))).mean())
        assert mean == pytest.approx(cosine_map(c, tailored_slope(55)), abs=6e-3)


def moments(name, count):
    """Of h(z), z normal, by the trapezium rule and autodiff: what the conditions are about."""
    z = np.linspace(-9, 9, 4001)
    weights = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    h = TAILORED[name](count)
    functions = (h, jax.grad(h), jax.grad(jax.grad(h)))
    values, first, second = (np.asarray(jax.vmap(f)(jnp.float32(z)), np.float64) for f in functions)
    each = (values, values**2, values * first * z, first**2, second**2)
    return [float((weights * v).sum()) for v in each]


@pytest.mark.parametrize("count", (3, 19, 55, 109))
def test_conditions_of_smooth_activations(count):
    """TAT: C''(1) = 0.3 / n. DKS: C(0) = 0, C'(1) = 1.5^(1/n). Both keep the mean square, to first order."""
    _, square, slope_of_square, slope, curvature = moments("tat_softplus", count)
    assert (square, slope_of_square, slope) == pytest.approx((1, 1, 1), abs=2e-4)
    assert curvature == pytest.approx(0.3 / count, rel=1e-3)
    mean, square, slope_of_square, slope, _ = moments("dks_softplus", count)
    assert (mean, square, slope_of_square) == pytest.approx((0, 1, 1), abs=2e-4)
    assert slope == pytest.approx(1.5 ** (1 / count), abs=2e-4)
    for s, _, g, _ in (tat_numbers(count), dks_numbers(count)):
        assert 0 < s * g < 2


def test_depths_without_a_solution_are_refused():
    with pytest.raises(InputError, match="no softplus is known that has"):
        dks_numbers(1)


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"depth": 20}, 19),
        ({"depth": 56, "activation_order": "preactivation"}, 55),
        ({"depth": 110, "activation_order": "preactivation"}, 109),
        ({"depth": 20, "branch": "single", "activation_order": "activation_only_preactivation"}, 19),
        ({"family": "imagenet", "stem": "imagenet", "branch": "bottleneck", "depth": 50,
          "activation_order": "preactivation"}, 49),
        ({"depth": 20, "after_sum": "identity"}, 10),
        ({"depth": 20, "activation_order": "preactivation", "after_sum": "identity"}, 19),
    ],
)  # fmt: skip
def test_activations_in_a_chain(fields, count):
    """Two a basic block and one more, three a bottleneck, as the authors count them."""
    assert count_activations(ModelConfig(**fields)) == count


@pytest.mark.thorough
def test_kernels_that_keep_the_mean_square():
    """Exactly where channels do not become fewer; else in expectation."""
    for inputs, outputs, tolerance in ((8, 8, 1e-5), (3, 16, 1e-5), (64, 32, 0.1)):
        x = images(4, 8, 8, inputs)
        conv = Conv(net(norm="none", kernel_init="scaled_delta_orthogonal"), outputs=outputs, size=3)
        y = conv.apply(conv.init(jax.random.key(0), x), x)
        ratio = jnp.square(y).mean(3) / jnp.square(x).mean(3)
        assert ratio.mean() == pytest.approx(1, abs=tolerance)
        assert outputs < inputs or float(jnp.abs(ratio - 1).max()) < 1e-4


@pytest.mark.thorough
def test_what_wide_layers_do_to_orthogonal_inputs():
    """19 orthogonal layers of 400 channels with tailored ReLU: 0.9, within what the width allows."""
    f, draw = TAILORED["tat_relu"](19), KERNEL_INITS["scaled_delta_orthogonal"]
    found = []
    for seed in range(4):
        x = jnp.eye(400)[:2] * math.sqrt(400)
        for key in jax.random.split(jax.random.key(seed), 19):
            x = f(x @ draw(key, (1, 1, 400, 400))[0, 0])
        found.append(float(x[0] @ x[1] / jnp.linalg.norm(x[0]) / jnp.linalg.norm(x[1])))
    assert np.mean(found) == pytest.approx(0.9, abs=0.025)
