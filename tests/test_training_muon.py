"""Muon: the kernels whose updates it orthogonalises, and the directions and lengths of these updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.training.optimizers import OptimizerConfig, make_optimizer
from tests.test_training_optimizers import BLOCK, GRADIENTS, in_float64, walked


def test_muon_orthogonalises_kernels_of_blocks_alone():
    """Their update has singular values near each other; the head's is Adam's."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 6)) * jnp.arange(1.0, 7).reshape(1, 1, 1, 6)
    params = {"stage1": {"block1": {"conv1": {"kernel": kernel}}}, "head": {"kernel": kernel[0, 0]}}
    optimizer = make_optimizer(OptimizerConfig(name="muon", weight_decay=0.0), lambda step: 1.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    values = np.linalg.svd(updates["stage1"]["block1"]["conv1"]["kernel"].reshape(-1, 6), compute_uv=False)
    assert values.max() / values.min() < 2 < np.linalg.cond(kernel.reshape(-1, 6))
    assert values.min() > 0.6 and values.max() < 1.3
    np.testing.assert_allclose(jnp.abs(updates["head"]["kernel"]), 1.0, rtol=1e-3)


def test_muon_takes_longer_steps_where_outputs_are_more_than_inputs():
    """By the root of their ratio (Jordan 2024)."""
    kernel = jax.random.normal(jax.random.key(0), (1, 1, 2, 8))
    params = {"stage1": {"block1": {"conv1": {"kernel": kernel}}}}
    optimizer = make_optimizer(OptimizerConfig(name="muon", weight_decay=0.0), lambda step: 1.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    values = np.linalg.svd(updates["stage1"]["block1"]["conv1"]["kernel"].reshape(2, 8), compute_uv=False)
    assert values.min() > 1.2 and values.max() < 2.6


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_has_the_directions_of_its_momentum(nesterov):
    """U and V of an update U S V^T are those of the moving average of the gradients."""
    b = 0.6
    config = OptimizerConfig(name="muon", momentum=b, nesterov=nesterov, weight_decay=0.0)
    last, before = (in_float64(walked(config, GRADIENTS[:n]), BLOCK) for n in (5, 4))
    m = 0.0
    for grads in GRADIENTS:
        g = in_float64(grads, BLOCK)
        m = b * m + (1 - b) * g
    ahead = b * m / (1 - b**6) + (1 - b) * g / (1 - b**5) if nesterov else m
    left, _, right = np.linalg.svd(ahead.reshape(9, 2), full_matrices=False)
    values = left.T @ ((before - last) / 0.1).reshape(9, 2) @ right.T
    assert (np.diag(values) > 0.5).all() and (np.diag(values) < 1.3).all()
    np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-3)
