"""Windows of images: the form for TPUs cuts out the pixels that a slice does, and no loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet.kernels.windows import moved_along, window

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", ("uint8", "bfloat16", "float32"))
@pytest.mark.parametrize("room", range(10))
def test_every_start_gives_the_pixels_of_a_slice(dtype, room):
    x = jnp.asarray(RNG.integers(0, 256, (3, 5 + room, 2)), dtype)
    x = x.at[1, room].set(jnp.nan) if dtype != "uint8" else x
    starts = jnp.arange(room + 1)
    moved = jax.vmap(lambda start: moved_along(x, start, 5, 1))(starts)
    sliced = jnp.stack([lax.slice_in_dim(x, start, start + 5, axis=1) for start in range(room + 1)])
    np.testing.assert_array_equal(moved.astype(float), sliced.astype(float))


def cut(images, starts):
    return jax.vmap(lambda image, start: window(image, start, (32, 30)))(images, starts)


def test_on_a_tpu_windows_are_cut_without_a_gather():
    images = jax.ShapeDtypeStruct((4, 40, 40, 3), jnp.bfloat16)
    starts = jax.ShapeDtypeStruct((4, 2), jnp.int32)
    text = {
        platform: jax.jit(cut).trace(images, starts).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("tpu", "cuda", "cpu")
    }
    assert "gather" not in text["tpu"] and "dynamic_slice" not in text["tpu"] and "select" in text["tpu"]
    assert "gather" in text["cuda"] and "gather" in text["cpu"]


def test_here_windows_are_slices():
    images = jnp.asarray(RNG.normal(size=(4, 40, 40, 3)), jnp.float32)
    starts = jnp.asarray([(0, 0), (8, 10), (3, 5), (7, 1)])
    expected = [images[i, y : y + 32, x : x + 30] for i, (y, x) in enumerate(starts.tolist())]
    np.testing.assert_array_equal(jax.jit(cut)(images, starts), jnp.stack(expected))
