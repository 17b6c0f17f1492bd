"""PyTorch's DataLoader over a folder of images, with torchvision's training transforms written on Pillow.

torchvision's own are these lines of Python; it is left out because its compiled part must fit the PyTorch
at hand. The last steps, conversion to float and normalisation, are left out on both sides.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RATIO = (3 / 4, 4 / 3)


def torch_loader(folder: Path, batch: int, size: int, workers: int) -> Callable[[], Any]:
    """A call takes all batches of an epoch, in a random order; its worker processes are there already."""
    from torch.utils.data import DataLoader

    images = Images(sorted(folder.rglob("*.jpg")), size)
    loader = DataLoader(images, batch, shuffle=True, num_workers=workers, persistent_workers=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


class Images:
    """Images and labels, each read, cropped and mirrored when it is asked for."""

    def __init__(self, paths: list[Path], size: int):
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch

        path = self.paths[index]
        with path.open("rb") as file:
            image = Image.open(file).convert("RGB")
        top, left, height, width = random_box(*image.size)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels, int(path.parent.name)


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random part, as torchvision's RandomResizedCrop draws it."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    side = min(width, height)
    return (height - side) // 2, (width - side) // 2, side, side
