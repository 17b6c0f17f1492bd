"""JPEGs of several sizes in class folders, and the same in tars of every layout."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.files.delivery import Pace
from resnet.data.files.stream import TrainingStream

CLASSES = ("n01", "n02", "n03")
BATCH, STEPS = 5, 11  # 24 images: four steps an epoch, so that epochs end in between
STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def jpeg(seed: int, size: tuple[int, int] = (0, 0)) -> bytes:
    """Smooth noise, so that compression leaves it what it is."""
    random = np.random.RandomState(seed)
    width, height = size if any(size) else random.randint(20, 60, 2)
    small = Image.fromarray(random.randint(0, 256, (5, 6, 3)).astype(np.uint8))
    file = io.BytesIO()
    small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


def images(split: str, count: int) -> dict[str, bytes]:
    """ "n01/train_3.JPEG": content, for each class."""
    start = 0 if split == "train" else 1000
    return {
        f"{name}/{split}_{i}.JPEG": jpeg(start + 100 * label + i)
        for label, name in enumerate(CLASSES)
        for i in range(count)
    }


TRAIN, VALIDATION = images("train", 8), images("val", 4)


def folders(root: Path, train=TRAIN, validation=VALIDATION) -> Path:
    """root/train/<class>/*.JPEG and root/val/<class>/*.JPEG."""
    for split, files in (("train", train), ("val", validation)):
        for name, content in files.items():
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """A tar of files, in an order that is not theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name in sorted(files, key=lambda name: name[::-1]):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return path


def one_tar(root: Path) -> Path:
    """A tar of train/<class>/file and val/<class>/file."""
    files = {f"./train/{name}": content for name, content in TRAIN.items()}
    return tar(root / "all.tar", files | {f"./val/{name}": content for name, content in VALIDATION.items()})


def two_tars(root: Path) -> Path:
    """A folder with a tar of <class>/file for each split."""
    tar(root / "train.tar", TRAIN)
    tar(root / "val.tar", VALIDATION)
    return root


def published(root: Path) -> Path:
    """A tar of tars for training, and validation images under numbers with a list of their labels."""
    inner = {}
    for label in CLASSES:
        files = {name.split("/")[1]: data for name, data in TRAIN.items() if name.startswith(label)}
        inner[f"{label}.tar"] = tar(root / "inner.tar", files).read_bytes()
        (root / "inner.tar").unlink()
    tar(root / "ILSVRC2012_img_train.tar", inner)
    flat, labels = numbered()
    tar(root / "ILSVRC2012_img_val.tar", flat)
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(labels) + "\n")
    return root


def numbered() -> tuple[dict[str, bytes], list[str]]:
    """(the validation images under ImageNet's names, their classes in that order)."""
    order = sorted(VALIDATION, key=lambda name: name[::-1])
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(len(order))]
    return {new: VALIDATION[old] for new, old in zip(names, order, strict=True)}, [
        n.split("/")[0] for n in order
    ]


LAYOUTS = (folders, one_tar, two_tars, published)


def config(root: Path, **fields) -> DataConfig:
    """Random-resized crops of 16 pixels."""
    fields = {"image_size": 16, "random_resized_crop": 0.2, "eval_crop": 0.8, **STATISTICS, **fields}
    return DataConfig(name="image_folder", dir=str(root), **fields)


def stream(root: Path, **fields):
    return load_dataset(config(root, **fields))


def batches(data, steps=range(STEPS), seeds=(0,), **pace):
    """Each step's batch, taken one by one."""
    stream = TrainingStream(data.train, seeds, BATCH, STEPS, Pace(**pace))
    try:
        return [stream.take(range(step, step + 1)) for step in steps]
    finally:
        stream.close()


def digests(found):
    return [hashlib.sha256(b["image"].tobytes() + b["label"].tobytes()).hexdigest() for b in found]
