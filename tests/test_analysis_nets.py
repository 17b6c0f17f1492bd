"""Curvature, surfaces, similarity and trainable depth of whole nets."""

import math

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from resnet.analysis import curvature, landscape, similarity, trainability
from resnet.analysis.krylov import Ritz
from resnet.analysis.settled import batches, logits_of, loss_of, settled
from resnet.analysis.subject import of_config
from resnet.config import Config, replaced
from resnet.errors import InputError


def tiny(**fields):
    config = Config()
    config.data.name = "digits"
    config.model.family, config.model.blocks, config.model.width = "chain", (3,), 0.25
    for name, value in fields.items():
        setattr(config.model, name, value)
    return of_config("tiny", config, images=8)


@pytest.fixture(scope="module")
def subject():
    return tiny()


@pytest.mark.thorough
def test_products_with_the_hessian_of_a_net_are_differences_of_its_gradient():
    net = settled(tiny(activation="tanh"))  # ReLU has kinks, which differences see and derivatives do not
    params, logits, loss = net.variables["params"], logits_of(net), loss_of(net)
    (images,), (labels,) = batches(net)
    flat, unravel = ravel_pytree(params)
    gradient = jax.jit(jax.grad(lambda flat: loss(logits(unravel(flat), images), labels)))
    v = np.random.default_rng(0).normal(size=flat.size) / math.sqrt(flat.size)
    products = curvature.hessian_products(logits, loss, params, *batches(net))(v)
    step = 1e-2
    differences = (gradient(flat + step * v) - gradient(flat - step * v)) / (2 * step)
    cosine = products @ differences / np.linalg.norm(products) / np.linalg.norm(differences)
    assert cosine > 0.9999
    assert np.linalg.norm(products) == pytest.approx(np.linalg.norm(differences), rel=1e-2)


@pytest.mark.thorough
def test_curvature_of_a_net(subject):
    answers = [curvature.ask(subject, curvature.Options(ggn=ggn, steps=8)) for ggn in (False, True)]
    for answer in answers:
        assert answer.eigenvalues[-1] > 0 and len(answer.errors) == len(answer.eigenvalues) == 8
        cell = answer.grid[1] - answer.grid[0]
        assert answer.density.sum() * cell == pytest.approx(1, abs=0.02)
        assert answer.tables() and answer.plot()
    assert answers[1].below_zero == 0 and answers[1].eigenvalues[0] > -1e-3 * answers[1].eigenvalues[-1]


def test_the_share_below_zero_is_a_share_of_the_weight():
    ritz = Ritz(np.array([-1.0, 0.0, 3.0]), np.array([0.25, 0.5, 0.25]), np.zeros(3))
    assert curvature._summary("t", "m", 3, 0.0, [ritz], (0.0, 0.0), 1).below_zero == 0.25


@pytest.mark.thorough
def test_the_surface_of_a_net_has_its_loss_in_the_middle(subject, tmp_path):
    options = {"kept": str(tmp_path), "points_per_call": 4, "reach": 0.5}
    line = landscape.ask(subject, landscape.Options(dimensions=1, points=5, **options))
    plane = landscape.ask(subject, landscape.Options(dimensions=2, points=3, **options))
    net = settled(subject)
    loss = float(net.losses(logits_of(net)(net.variables["params"], net.images)).mean())
    assert line.losses[2] == pytest.approx(loss, rel=1e-4) == plane.losses[1, 1]
    assert len(list(tmp_path.iterdir())) == 2
    for answer in (line, plane):
        assert (
            answer.tables()["Loss on the grid"][0]["at the weights"]
            == answer.losses.ravel()[answer.losses.size // 2]
        )
        answer.plot().canvas.draw()
    with pytest.raises(InputError, match="--dimensions"):
        landscape.ask(subject, landscape.Options(dimensions=3))


def test_an_even_number_of_points_leaves_out_the_weights():
    line = landscape.Landscape("even", np.linspace(-1, 1, 4), np.ones(4))
    assert line.tables()["Loss on the grid"][0]["at the weights"] is None


def test_local_minima_of_a_grid():
    losses = np.ones((5, 5))
    losses[1, 1], losses[3, 3], losses[0, 4] = 0.5, 0.2, 0.1
    assert landscape.minima(losses + np.arange(25).reshape(5, 5) * 1e-6) == 2
    assert landscape.minima(np.array([3.0, np.nan, 2.0, 1.0, 2.0])) == 1


def test_a_net_is_most_like_itself_layer_by_layer(subject):
    answer = similarity.ask(subject, similarity.Options(batch=4))
    np.testing.assert_allclose(np.diagonal(answer.cka), 1, atol=1e-5)
    np.testing.assert_allclose(answer.cka, answer.cka.T, atol=1e-5)
    assert answer.layers == ["stem", *(f"stage1/block{i}" for i in range(1, 4)), "head"]
    assert answer.tables() and answer.plot()
    with pytest.raises(InputError, match="`--batch` must be between 4 and"):
        similarity.ask(subject, similarity.Options(batch=3))


def test_another_net_sees_the_same_images_in_its_own_normalisation():
    config = Config()
    config.data.name, config.model.blocks, config.model.width = "digits", (1, 1, 1), 0.25
    channel = of_config("channel", config, data="test", images=8)
    none = of_config("none", replaced(config, {"data.normalization": "none"}), data="test", images=8)
    assert np.abs(channel.images - none.images).max() > 0.1
    np.testing.assert_allclose(none.shown_images_of(channel).images, none.images, atol=1e-5)
    np.testing.assert_array_equal(channel.shown_images_of(channel).images, channel.images)
    noise = of_config("noise", config, images=8)
    np.testing.assert_array_equal(none.shown_images_of(noise).images, noise.images)


@pytest.mark.parametrize(
    "fields", [{}, {"bn_fixed": "stage1"}, {"widening": 8, "activation_order": "pyramid"}]
)
def test_any_net_has_constant_norms_and_logits_of_its_own(fields):
    """Nets whose blocks cannot be scanned too."""
    net = settled(tiny(**fields))
    logits, _ = net.model.apply(net.variables, net.images)
    np.testing.assert_allclose(
        logits_of(net)(net.variables["params"], net.images), logits, rtol=1e-4, atol=1e-5
    )


def test_depth_until_a_limit_is_measured_or_extrapolated():
    rng, blocks = np.random.default_rng(0), np.arange(1, 61)
    noise = rng.normal(0, 1e-3, 60)
    exponential = lambda rate: np.full(60, math.log(rate)) + noise  # noqa: E731
    cases = [
        (exponential(1.467), "measured", 19),
        (exponential(0.99), "extrapolated (exponential)", 3 / -math.log10(0.99)),
        (1.5 * np.log1p(1 / blocks) + noise / 100, "extrapolated (power)", 99),
        (rng.normal(0, 0.1, 60), "no limit seen", None),
        (np.zeros(60), "no limit seen", None),
    ]
    for increments, outcome, depth in cases:
        decades = np.cumsum(increments) / math.log(10)
        found = trainability.depth_of_limit(decades, increments, 3.0)
        assert found[0] == outcome
        assert found[1] == (depth if depth is None else pytest.approx(depth, rel=0.03))
    # The rate of growth leaves out the first quarter, and the limit is beyond all that was measured.
    increments = np.where(np.arange(60) < 15, 0.0, 2.9 / 45 * math.log(10))
    found = trainability.depth_of_limit(np.cumsum(increments) / math.log(10), increments, 3.0)
    assert found == ("extrapolated (exponential)", 61)
    # Where the signal dies on the way, what is alive is extrapolated.
    increments = np.where(np.arange(60) < 40, 0.1, np.nan)
    outcome, depth = trainability.depth_of_limit(np.cumsum(increments) / math.log(10), increments, 3.0)
    assert outcome == "extrapolated (exponential)"
    assert depth == pytest.approx(3 * math.log(10) / 0.1, rel=0.03)


@pytest.mark.thorough
def test_trainable_depth_of_some_combinations(subject):
    options = trainability.Options(
        blocks=8, seeds=1, decades=0.5, shortcuts=("none", "rezero", "fixup"), orders=("preactivation",)
    )
    answer = trainability.ask(subject, options)
    none, rezero, fixup = answer.cells
    assert none.outcome == "measured" and none.per_block > 1.2  # batch norm and ReLU: explodes
    assert (rezero.outcome, rezero.depth) == ("no limit seen", None)  # the identity
    assert fixup.outcome.startswith("refused: shortcut 'fixup' is defined for")
    assert answer.tables() and answer.plot()
    with pytest.raises(InputError, match="--orders"):
        trainability.ask(subject, trainability.Options(orders=("post",)))
