"""Correlation of gradients at different inputs, where it is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import shattering
from resnet.analysis.subject import of_config
from resnet.config import Config
from resnet.errors import InputError
from resnet.models.chain import noise_like


def tiny(images=20, **fields):
    config = Config()
    config.data.name = "digits"
    config.model.family, config.model.blocks, config.model.width = "chain", (2,), 0.25
    for name, value in fields.items():
        setattr(config.model, name, value)
    return of_config("tiny", config, images=images)


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", ["none", "identity"])
def test_gradients_of_a_linear_net_are_the_same_at_all_inputs(shortcut):
    fields = {"activation": "identity", "after_sum": "identity", "norm": "none", "shortcut": shortcut}
    chain = tiny(**fields).parts()[:-1]
    subject = tiny(**fields)
    directions = shattering.input_gradients(chain, subject.images)
    assert shattering.mean_correlation(directions) == pytest.approx(1, abs=1e-5)
    assert shattering.autocorrelation(directions) == pytest.approx(np.ones(20), abs=1e-5)


@pytest.mark.thorough
def test_gradients_are_those_of_each_image():
    subject = tiny(norm="none")
    chain, x = subject.parts()[:-1], subject.images
    through = lambda x: functools.reduce(lambda x, part: part(x), chain, x)  # noqa: E731
    top = noise_like(through(x)[:1])
    each = np.asarray(jax.grad(lambda x: (through(x) * top).sum())(x), np.float64).reshape(len(x), -1)
    unit = each / np.linalg.norm(each, axis=1, keepdims=True)
    np.testing.assert_allclose(shattering.input_gradients(chain, x), unit, atol=1e-5)
    assert shattering.mean_correlation(unit) < 0.95


def test_white_noise_has_no_correlation_and_half_of_the_same_has_half():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 64))
    shared = noise + rng.normal(size=64)
    for values, expected in ((noise, 0.0), (shared, 0.5)):
        unit = values / np.linalg.norm(values, axis=1, keepdims=True)
        assert shattering.mean_correlation(unit) == pytest.approx(expected, abs=0.08)
        assert shattering.autocorrelation(unit)[1:100].mean() == pytest.approx(expected, abs=0.08)
    assert np.isnan(shattering.mean_correlation(noise[:1]))


def test_a_line_goes_from_one_image_to_the_other():
    start, end = jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))
    found = shattering.line(start, end, 5)
    np.testing.assert_allclose(found[:, 0, 0, 0], [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.thorough
def test_four_arms_of_a_config_and_depth():
    answer = shattering.ask(tiny(), shattering.Options(depths=(4, 10), seeds=2, points=3))
    assert [arm.name for arm in answer.arms] == list(shattering.ARMS)
    rows = answer.tables()["Gradients at two images"]
    assert len(rows) == 8 and all(-0.2 < row["cosine of gradients"] <= 1 for row in rows)
    assert [row["layers"] for row in rows[:2]] == [4, 10]
    assert answer.arms[0].along[0] == pytest.approx(1)
    assert len({tuple(arm.correlation.ravel()) for arm in answer.arms}) == 4
    assert len(answer.plot().axes) == 2
    with pytest.raises(InputError, match="--images"):
        shattering.ask(tiny(images=1), shattering.Options())


@pytest.mark.parametrize("arm", shattering.ARMS)
def test_every_arm_is_made_of_a_net_with_all_that_norms_may_have(arm):
    subject = tiny(zero_gamma=True, ghost_batch=8, bn_fixed="^stem/")
    assert (
        subject.restarted(changes=shattering.ARMS[arm]).config.model.norm
        == shattering.ARMS[arm]["model.norm"]
    )
