"""How fast photographs are read and decoded for training, and how a stream does at the scale of ImageNet."""

import contextlib
import gc
import importlib.util
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet.data.config import DataConfig
from resnet.data.datasets import load_dataset
from resnet.data.files.crops import DRAWS
from resnet.data.files.decoders import decode_cut
from resnet.data.files.delivery import Pace
from resnet.data.files.index import KEPT_FROM, kept_listings
from resnet.data.files.listing import Entry, make_listing
from resnet.data.files.shrink import shrink_images
from resnet.data.files.stream import StreamSplit, TrainingStream
from resnet.data.order import batch_indices
from resnet.data.splits import NAME, hold_out
from resnet.data.streams import CROP, host_draws
from scripts.benchmarks.timing import compared, interleave
from scripts.peers.torch_loader import torch_loader
from scripts.peers.torch_nets import TINY, Case

SIDES = (500, 375)  # of a photograph, as most of ImageNet's
SIZE, BATCH, COUNT, DIFFERENT = 224, 64, 256, 32
CORES = {"one core": 1, "two cores": 2}
GIVEN = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
FILES, IMAGENET, CLASSES, STEPS = 100_000, 1_281_167, 1000, 2000
MEGABYTE = 1e6


def photographs(case: Case, effort: Any) -> dict[str, Any]:
    """Seconds in which 256 photographs become crops of 224 pixels, from nothing to the last batch.

    The bare loop reads, decodes and crops the same images with as many threads, and does nothing else.
    """
    cores, count = CORES.get(case.name, 1), BATCH if case is TINY else COUNT
    with tempfile.TemporaryDirectory() as folder, on_cores(cores):
        root = Path(folder)
        photos = root / "photos"
        write_files(photos, {f"train/{i % 2}/{i}.jpg": photograph(i % DIFFERENT) for i in range(count)})
        shrink_images(photos, root / "small.tar", 256, lambda *_: None)
        plain = _train_split(photos)
        steps = {
            "bare loop": _bare(plain, cores),
            "delivered": _delivered(plain, cores),
            "delivered, made smaller": _delivered(_train_split(root / "small.tar"), cores),
        }
        if importlib.util.find_spec("simplejpeg"):
            quick = _train_split(photos, decoder="simplejpeg")
            steps["delivered, simplejpeg"] = _delivered(quick, cores)
        if importlib.util.find_spec("torch"):
            steps["PyTorch"] = torch_loader(photos / "train", BATCH, SIZE, cores)
        found = compared(interleave(steps, effort.rounds, effort.seconds), "bare loop", "s")
    return found | {"images_per_second": count / found["medians"]["delivered"]}


def scale(case: Case, effort: Any) -> dict[str, Any]:
    """Seconds and MB, once each: a folder of 100,000 files, an index of ImageNet, 2,000 steps of a stream."""
    files, images, steps = (100, KEPT_FROM, 20) if case is TINY else (FILES, IMAGENET, STEPS)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        _write_folder(root, files)
        for name in (f"first start on {files:,} files, s", f"later start on {files:,} files, s"):
            with _timed(found, name):
                batches(_small_images(root), 1, 8)
        found[f"growth from step {steps // 10:,} to {steps:,}, MB"] = _in_new_process(_growth, root, steps)
        place = Path(folder) / "imagenet"
        listing = _synthetic_listing(place, images)
        kept_listings(place, "", lambda: {"": listing})
        seconds, megabytes = _in_new_process(_index, place)
        found[f"index of {images:,} images loaded, s"] = seconds
        found["memory of the index, MB"] = megabytes
        with _timed(found, "validation held out of them, s"):
            hold_out(StreamSplit(listing, np.arange(images), None, listing.labels, None), 0.01, 0, NAME)  # type: ignore[arg-type]
    first = next(iter(found))
    return {"unit": "", "rounds": 1, "reference": first, "medians": found, "ratios": {}}


def _small_images(root: Path) -> StreamSplit:
    return _train_split(root, image_size=32)


def _growth(root: Path, steps: int) -> float:
    """MB by which this process grows while a stream is read, after the first tenth of the steps."""
    with TrainingSteps(_small_images(root), 8, steps) as stream:
        stream.run(steps // 10)
        before = resident_bytes()
        stream.run(steps)
        return (resident_bytes() - before) / MEGABYTE


def _index(place: Path) -> tuple[float, float]:
    """Loads a kept index; returns the seconds and the MB of memory that this takes."""
    before, begun = resident_bytes(), time.perf_counter()
    listing = kept_listings(place, "", dict)[""]
    listing.hashes.sum()  # all of it is read
    return time.perf_counter() - begun, (resident_bytes() - before) / MEGABYTE


def _in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns where no memory was used and freed before: it would hide what is used."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class TrainingSteps:
    """A stream from which steps are taken and thrown away."""

    def __init__(self, split: StreamSplit, batch: int, total: int):
        self.stream, self.step = TrainingStream(split, (0,), batch, total, Pace()), 0

    def __enter__(self) -> "TrainingSteps":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def run(self, until: int) -> None:
        """Takes the batches of all steps before `until`."""
        for step in range(self.step, until):
            self.stream.take(range(step, step + 1))
        self.step = until


def batches(split: Any, count: int, batch: int, threads: int = 1) -> None:
    """Takes the first batches of a stream, beginning with its threads."""
    stream = TrainingStream(split, (0,), batch, count, Pace(threads))
    for step in range(count):
        stream.take(range(step, step + 1))
    stream.close()


def _delivered(split: StreamSplit, threads: int) -> Callable[[], Any]:
    return lambda: batches(split, len(split) // BATCH, BATCH, threads)


def _bare(split: StreamSplit, threads: int) -> Callable[[], Any]:
    """The same crops of the same images by a pool of threads."""
    jobs = []
    for step in range(len(split) // BATCH):
        draws = host_draws(0, CROP, step, BATCH * 40).reshape(BATCH, *DRAWS)
        jobs += zip(batch_indices(0, step, len(split), BATCH), draws, strict=True)

    def one(job: tuple[int, np.ndarray]) -> np.ndarray:
        entry = int(split.entries[job[0]])
        return decode_cut(split.listing.read(entry), "", split.sizes.for_training(job[1]), "pillow")

    def loop() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(one, jobs):
                pass

    return loop


def _config(root: Path, **fields: Any) -> DataConfig:
    settings = {"image_size": SIZE, "random_resized_crop": 0.08, "validation": 0.0, **GIVEN, **fields}
    return DataConfig(name="image_folder", dir=str(root), **settings)


def _train_split(path: Path, **fields: Any) -> StreamSplit:
    split = load_dataset(_config(path, **fields)).train
    assert isinstance(split, StreamSplit)
    return split


def photograph(seed: int) -> bytes:
    """A JPEG of the size, and about the bytes, of an ImageNet photograph: noise of several scales."""
    random = np.random.RandomState(seed)
    pixels = np.zeros((SIDES[1], SIDES[0], 3), np.float32)
    for cell, strength in ((125, 60), (25, 40), (5, 20), (1, 20)):
        shape = -(-SIDES[1] // cell), -(-SIDES[0] // cell), 3
        noise = random.uniform(-strength, strength, shape).astype(np.float32)
        pixels += noise.repeat(cell, 0).repeat(cell, 1)[: SIDES[1], : SIDES[0]]
    return _jpeg((128 + pixels).clip(0, 255).astype(np.uint8), quality=92)


def noise(side: int, seed: int) -> bytes:
    """A small JPEG."""
    return _jpeg(np.random.RandomState(seed).randint(0, 256, (side, side, 3)).astype(np.uint8), quality=75)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Files in a folder, by name."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _write_folder(root: Path, count: int) -> None:
    """A folder of small images in ten classes, which are links to few."""
    contents = [noise(40, label) for label in range(10)]
    for label, content in enumerate(contents):
        folder = root / "train" / str(label)
        folder.mkdir(parents=True)
        (folder / "0.jpg").write_bytes(content)
        for i in range(1, count // len(contents)):
            os.link(folder / f"{i - i % 30_000}.jpg" if i % 30_000 else folder / "0.jpg", folder / f"{i}.jpg")


def _synthetic_listing(place: Path, count: int) -> Any:
    """A listing as ImageNet's training tar has it."""
    names = [f"n{label:08d}" for label in range(CLASSES)]
    groups: dict[str, list[Entry]] = {name: [] for name in names}
    for i in range(count):
        name = names[i % CLASSES]
        groups[name].append(Entry(f"{name}/{name}_{i}.JPEG", 110_000, 110_000 * i))
    return make_listing(place, groups, in_tar=True)


def resident_bytes() -> int:
    """Bytes of memory that this process holds, where Linux tells (proc(5))."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _timed(found: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    found[name] = time.perf_counter() - begun


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Threads that begin meanwhile, and this one, run on so many processors, where the system has it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
