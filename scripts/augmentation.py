"""Draws what augmentation makes of two photographs, for docs/augmentation.md: python scripts/augmentation.py

A picture for each policy, with the drawn operations and arguments under each of thirty images, and one of
mixing. The photographs come with scikit-learn. Prints the names of the files as one JSON object.
"""

from pathlib import Path
from typing import Any

import cli
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images

from resnet.data.augmentation.mixing import Mixing
from resnet.data.augmentation.policies import AutoAugment, RandAugment, TimmRandAugment, TrivialAugmentWide
from resnet.files import save_png
from scripts.peers.pillow import drawn

OUTPUT = Path(__file__).parents[1] / "docs" / "augmentation"
SIDE, ROWS, COLUMNS = 96, 5, 6
COLOURS = 128  # of a picture: a quarter of the bytes
POLICIES = {
    "rand_augment": RandAugment(2, 9, "bilinear"),
    "timm_rand_augment": TimmRandAugment(2, 7, 0.5),
    "trivial_augment": TrivialAugmentWide("bilinear"),
    "auto_augment_imagenet": AutoAugment("imagenet", "bilinear"),
    "auto_augment_cifar10": AutoAugment("cifar10", "bilinear"),
    "auto_augment_svhn": AutoAugment("svhn", "bilinear"),
}
MIXINGS = {
    "mixup 0.2": Mixing(0.2, 0, each="pair"),
    "mixup 1.0": Mixing(1.0, 0, each="pair"),
    "CutMix 1.0": Mixing(0, 1.0, each="pair"),
}


def photographs() -> np.ndarray:
    """Two photographs, cut to a square and made small."""
    found = []
    for image in load_sample_images().images:
        h, w, _ = image.shape
        square = Image.fromarray(image[:, (w - h) // 2 : (w + h) // 2])
        found.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return np.stack(found)


def saved(name: str, images: list[np.ndarray], texts: list[str]) -> str:
    """The path of a picture of all images, each with its text below."""
    figure = Figure(figsize=(10, 10.5), layout="constrained")
    for axes, image, text in zip(figure.subplots(ROWS, COLUMNS).flat, images, texts, strict=True):
        axes.imshow(image)
        axes.set_xlabel(text, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    path = OUTPUT / f"{name}.png"
    save_png(figure, path, dpi=80)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    return path.name


def of_policy(policy) -> tuple[list[np.ndarray], list[str]]:
    """Thirty images, and what was drawn for each."""
    images, texts = [], []
    change, originals = jax.jit(policy.__call__), photographs()
    for i, key in enumerate(jax.random.split(jax.random.key(0), ROWS * COLUMNS)):
        keys = list(jax.random.split(key))
        images.append(np.asarray(change(keys, jnp.asarray(originals[i % 2]))))
        texts.append("\n".join(_label(policy, *draw) for draw in drawn(policy, keys, SIDE, SIDE)))
    return images, texts


def _label(policy: Any, name: str, argument: float) -> str:
    """The operation, with its argument where it has one."""
    space = policy.space(SIDE, SIDE)
    has_argument = np.ptp(space.arguments[space.names.index(name)]) > 0
    return f"{name} {argument:.3g}" if has_argument else name


def of_mixing() -> tuple[list[np.ndarray], list[str]]:
    """Ten images of each mixing, and the share of its own label that each has."""
    images, texts = [], []
    batch = jnp.asarray(np.tile(photographs(), (5, 1, 1, 1)) / 255, jnp.float32)
    for name, mixing in MIXINGS.items():
        found, share = mixing(jax.random.key(1), jnp.arange(10), batch)
        images += list(np.asarray(found).clip(0, 1))
        texts += [f"{name}\nown label {value:.2f}" for value in share.tolist()]
    return images, texts


def main(overrides: list[str]) -> dict[str, Any]:
    """Draws all pictures."""
    cli.refuse_overrides(overrides, "no config is read here")
    OUTPUT.mkdir(exist_ok=True)
    files = [saved(name, *of_policy(policy)) for name, policy in POLICIES.items()]
    return {"files": [*files, saved("mixing", *of_mixing())]}


if __name__ == "__main__":
    cli.run(main)
