"""Singular values of Jacobians against those of the matrices themselves; norms as constants."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import spectrum
from resnet.analysis.settled import batches, logits_of, settled
from resnet.analysis.subject import of_config
from resnet.config import Config

LINEAR = {"activation": "identity", "norm": "none", "shortcut": "none", "after_sum": "identity"}


def tiny(blocks=(3,), images=2, **fields):
    config = Config()
    config.data.name = "digits"
    config.model.family, config.model.blocks, config.model.width = "chain", blocks, 0.125
    for name, value in fields.items():
        setattr(config.model, name, value)
    return of_config("tiny", config, images=images)


def jacobians(chain, images):
    """The matrix at each image, column by column."""
    through = lambda x: functools.reduce(lambda x, part: part(x), chain, x)  # noqa: E731
    column = jax.jit(lambda v: jax.jvp(through, (images,), (jnp.broadcast_to(v, images.shape),))[1])
    shape = images.shape[1:]
    columns = [column(row.reshape(shape)) for row in np.eye(math.prod(shape), dtype=np.float32)]
    return np.stack(columns, axis=-1).reshape(len(images), -1, len(columns))


@pytest.mark.thorough
@pytest.mark.parametrize("fields", [LINEAR, {"shortcut": "identity"}], ids=["linear", "residual, batch norm"])
def test_the_values_are_those_of_the_matrices(fields):
    subject = settled(tiny(**fields))
    parts = subject.parts("running")
    joints = list(functools.reduce(lambda xs, part: [*xs, part(xs[-1])], parts, [subject.images]))
    rng = np.random.default_rng(0)
    for first, last in ((2, 3), (0, 5)):
        chain = parts[first:last]
        found = spectrum.singular_values(chain, joints[first : last + 1], 999, rng)
        for ritz, matrix in zip(found, jacobians(chain, joints[first]), strict=True):
            true = np.linalg.svd(matrix)[1]
            assert ritz.values[[-1, 0]] == pytest.approx(true[[0, -1]], abs=1e-4 * float(true[0]))
            if len(ritz.values) == len(true):
                assert ritz.mean(2) == pytest.approx(np.mean(true**2), rel=1e-3)
    if fields is LINEAR:  # of a product of matrices
        each = [jacobians([part], x[:1])[0] for part, x in zip(parts[1:4], joints[1:4], strict=True)]
        product = each[2] @ each[1] @ each[0]
        values = spectrum.singular_values(parts[1:4], joints[1:5], 999, rng)[0].values
        assert values[-1] == pytest.approx(np.linalg.norm(product, 2), rel=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exact_shortcuts_have_equal_singular_values(scale):
    fields = {"shortcut": "constant_scaling", "shortcut_scale": scale, "branch_scale": 0.0}
    subject = tiny(after_sum="identity", **fields)
    answer = spectrum.ask(subject, spectrum.Options(jacobians=2, chains=2))
    assert answer.lengths == [1, 3]
    for values, power in ((answer.blocks[0], 1), (answer.chains[1], 3)):
        assert (values.largest, values.smallest) == pytest.approx((scale**power,) * 2)
        assert values.condition == pytest.approx(1) and values.complete
    assert len(answer.tables()["Every block"]) == 3
    assert len(answer.plot().axes) == 3


@pytest.mark.thorough
def test_fewer_steps_give_bounds():
    answers = [
        spectrum.ask(tiny(), spectrum.Options(jacobians=1, steps=steps)).chains[-1] for steps in (8, 128)
    ]
    assert not answers[0].complete and answers[1].complete
    assert (
        answers[0].largest <= answers[1].largest * (1 + 1e-6) and answers[0].smallest >= answers[1].smallest
    )
    assert answers[0].condition <= answers[1].condition


@pytest.mark.thorough
def test_a_net_at_its_start_has_the_statistics_of_its_images():
    subject = tiny(images=6, activation_order="preactivation")
    net = settled(subject)
    wanted, _ = subject.model.apply(
        subject.variables, subject.images, train=True, mutable=["batch_stats"]
    )  # fmt: skip
    (images,), _ = batches(net)
    found = logits_of(net)(net.variables["params"], images)
    np.testing.assert_allclose(found, wanted[0], rtol=1e-3, atol=1e-4)


def test_a_map_to_zero_has_no_condition():
    nothing = spectrum.Ritz(np.zeros(3), np.ones(3) / 3, np.zeros(3))
    row = spectrum._row(spectrum.Values.of("head", [nothing]))
    assert (row["largest"], row["smallest"], row["condition"]) == (0, "0 to round-off", "infinite")
