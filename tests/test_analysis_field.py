"""Spectra, curvature, surfaces, similarity and gradients' correlation, where the answer is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.analysis import curvature, landscape, similarity
from resnet.analysis.krylov import lanczos
from resnet.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def quadratic(rng, hessian):
    """A loss 1/2 |A w|^2 over [batches, b] "images", none of which matters."""
    data = jnp.zeros((2, 3))
    root = jnp.asarray(np.linalg.cholesky(hessian).T, jnp.float32)
    params = {"a": jnp.ones(2), "b": jnp.ones((len(hessian) - 2, 1))}
    logits = lambda p, images: root @ jnp.concatenate([p["a"], p["b"].ravel()])  # noqa: E731
    loss = lambda y, labels: 0.5 * jnp.square(y).sum()  # noqa: E731
    return logits, loss, params, data, data


@pytest.mark.parametrize("products", [curvature.hessian_products, curvature.ggn_products])
def test_a_quadratic_has_the_spectrum_of_its_matrix(rng, products):
    q, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    values = np.array([0.1, 0.2, 1, 2, 3, 9])
    apply = products(*quadratic(rng, q @ np.diag(values) @ q.T))
    found = lanczos(apply, rng.normal(size=6), 6)
    np.testing.assert_allclose(found.values, values, atol=1e-4)


def test_the_gauss_newton_part_leaves_out_the_curvature_of_the_net():
    # y = w^2 and loss 1/2 (y - label)^2: Hessian 6 w^2 - 2 label, its Gauss-Newton part 4 w^2.
    case = (lambda p, x: p**2, lambda y, label: 0.5 * jnp.square(y - label).sum(), jnp.array([0.5]))
    data = (jnp.zeros((2, 1)), jnp.array([[2.0], [4.0]]))
    assert curvature.hessian_products(*case, *data)(np.ones(1)) == pytest.approx(6 * 0.25 - 2 * 3)
    assert curvature.ggn_products(*case, *data)(np.ones(1)) == pytest.approx(4 * 0.25)


def test_directions_have_the_lengths_of_the_filters():
    params = {"conv": 2.0 + jnp.arange(36.0).reshape(3, 3, 2, 2), "bias": jnp.ones(4), "dense": jnp.eye(3)}
    direction = landscape.filter_normalized(jax.random.key(0), params)
    other = landscape.filter_normalized(jax.random.key(1), params)
    assert not direction["bias"].any()
    for name in ("conv", "dense"):
        lengths = [jnp.sqrt(jnp.square(t[name]).reshape(-1, t[name].shape[-1]).sum(0)) for t in
                   (params, direction, other)]  # fmt: skip
        np.testing.assert_allclose(lengths[1], lengths[0], rtol=1e-5)
        np.testing.assert_allclose(lengths[2], lengths[0], rtol=1e-5)
    assert not np.allclose(direction["conv"], other["conv"])


def test_a_surface_is_that_of_the_loss_and_goes_on_where_it_stopped(tmp_path):
    params = {"w": jnp.array([[1.0, 2.0]])}
    directions = [{"w": jnp.array([[1.0, 0.0]])}, {"w": jnp.array([[0.0, 1.0]])}]
    losses_at = landscape.surface_losses(lambda p: jnp.square(p["w"]).sum(), params, directions)
    points = landscape.grid(0.5, 3, 2)
    expected = (1 + points[:, 0]) ** 2 + (2 + points[:, 1]) ** 2
    path = tmp_path / "surface.npz"
    asked = []

    def dying(coordinates):
        asked.append(coordinates[0])
        if len(asked) > 2:
            raise KeyboardInterrupt
        return losses_at(coordinates)

    with pytest.raises(KeyboardInterrupt):
        landscape.evaluate_surface(dying, points, path, "one", chunk=2)
    with pytest.raises(KeyboardInterrupt):
        landscape.evaluate_surface(dying, points, path, "one", chunk=2)
    np.testing.assert_array_equal(asked, points[[0, 2, 4, 4]])
    losses = landscape.evaluate_surface(losses_at, points, path, "one", chunk=4)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    again = landscape.evaluate_surface(dying, points, path, "one", chunk=4)
    np.testing.assert_array_equal(again, losses)
    assert [file.name for file in tmp_path.iterdir()] == ["surface.npz"]
    with pytest.raises(InputError, match="another surface"):
        landscape.evaluate_surface(losses_at, points, path, "other", chunk=4)
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="unreadable"):
        landscape.evaluate_surface(losses_at, points, path, "one", chunk=4)


def test_rotated_and_scaled_features_are_the_same_and_noise_is_none(rng):
    x = rng.normal(size=(64, 5)) * [5, 2, 1, 1, 1]
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    others = [x @ rotation, -3 * x + 7, rng.normal(size=(64, 2, 3))]
    split = lambda arrays: [[jnp.asarray(a[i : i + 32]) for a in arrays] for i in (0, 32)]  # noqa: E731
    cka = similarity.linear_cka(zip(split([x]), split(others), strict=True))
    assert cka[0, :2] == pytest.approx([1, 1], abs=1e-5)
    assert abs(cka[0, 2]) < 0.15


def test_a_layer_that_gives_each_image_the_same_is_most_alike_to_none():
    cka = np.array([[0.5, np.nan, 0.25], [np.nan, np.nan, np.nan]])
    answer = similarity.Similarity("net", "other", ["a", "dead"], ["a", "dead", "b"], cka)
    alive, dead = next(iter(answer.tables().values()))
    assert (alive["most alike"], alive["CKA"]) == ("a", 0.5)
    assert dead["most alike"] is None and dead["CKA"] is None


def test_unbiased_similarity_of_noise_is_zero_on_average_and_batches_agree(rng):
    noise = lambda: [jnp.asarray(rng.normal(size=(8, 40)))]  # noqa: E731
    draws = [(noise(), noise()) for _ in range(300)]
    assert abs(similarity.linear_cka(draws)[0, 0]) < 0.05
    x = rng.normal(size=(20, 3))
    a, b = x, x + rng.normal(size=(20, 3))
    centred = [similarity.u_centred(jnp.asarray(each)) for each in (a, b)]
    gram_a, gram_b = ((each - each.mean(0)) @ (each - each.mean(0)).T for each in (a, b))
    for gram in (gram_a, gram_b):
        np.fill_diagonal(gram, 0)
    n, ones = 20, np.ones(20)
    # Song 2012, equation 5.
    expected = np.trace(gram_a @ gram_b) + ones @ gram_a @ ones * (ones @ gram_b @ ones) / (n - 1) / (n - 2)
    expected -= 2 / (n - 2) * ones @ gram_a @ gram_b @ ones
    assert (centred[0] * centred[1]).sum() == pytest.approx(expected, rel=1e-4)


def test_a_trace_has_its_standard_error(rng):
    matrix = rng.normal(size=(40, 40))
    matrix += matrix.T
    off = matrix - np.diag(np.diag(matrix))
    trace, error = curvature.trace_of(lambda v: matrix @ v, 40, 400, rng)
    assert abs(trace - np.trace(matrix)) < 4 * error
    assert error == pytest.approx(math.sqrt(2 * np.square(off).sum() / 400), rel=0.2)  # Hutchinson 1990
    assert math.isnan(curvature.trace_of(lambda v: matrix @ v, 40, 1, rng)[1])
