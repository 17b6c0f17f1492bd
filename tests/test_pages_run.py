"""The commands on the pages are run, one page after the other, on tiny nets and data in an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_pages import PAGES, ROOT, commands

TINY = {
    "digits": ("data.train_limit=64",),
    "digits_small": ("data.train_limit=64",),
    "digits_rotation": ("data.train_limit=64",),
    "cifar10_resnet": ("model.depth=8", "data.name=synthetic"),
    "cifar10_fast": (
        "model.depth=10", "model.width=0.25", "data.name=synthetic", "train.batch_size=8",
        "train.ema_every=1",
    ),
    "image_folder": ("model.depth=8", "train.batch_size=4"),
    "imagenet_resnet50": ("model.width=0.125", "data.image_size=32", "train.batch_size=4"),
}  # fmt: skip
"""Changes of the recipes that the pages name, with which they run in seconds."""
QUESTIONS = {
    "signal": ("--depths=10,20", "--images=8", "--config.model.width=0.25"),
    "lesion": ("--images=16", "--counts=1"),
}
STUDY = ("study", "--study=shortcut_on_off", "--study.scale=small", "--workdir=runs/study", "--study.seeds=0",
         "--only=identity-8,none-8", "--config.data.train_limit=64",
         "--config.train.duration=2 steps")  # fmt: skip
"""What `make study` leaves, of one seed and depth."""
NOT_RUN = {
    "cifar10 --dir": "fetches from the network; tests/test_published_fetch.py has a server of its own",
    "--ledger": "writes into results/",
    "plan ": "needs an accelerator's compiler; tests/test_planning_command.py has a stored program",
    "tfds:": "needs a set that is prepared; tests/test_published_any_tfds.py prepares some",
    "--data=imagenet": "needs a net of 1000 classes; tests/test_imagenet_sets.py makes such sets",
    "--kept=": "trains for hours; tests/test_studies_kept.py goes on with a small study",
    "weights/model.safetensors": "takes a fetched file; tests/test_training_finetune.py has files of its own",
    "--workdir=/shared": "needs two hosts; the page on reliability has the same with one",
}


def tiny(words: list[str]) -> list[str]:
    """Adds to the command of a page what makes it tiny. Fields that the page sets keep their values.

    Random images replace the folder of data of a published set.
    """
    options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    added = [*QUESTIONS.get(options.get("--question", ""), ())]
    if words[0] == "train":
        added = [f"--config.{each}" for each in TINY[options["--config"]]] + [
            "--config.train.duration=2 steps"
        ]
    if "--config.data.name=synthetic" in added:
        words = [word for word in words if not word.startswith("--config.data.dir=")]
    return [*words, *(each for each in added if each.split("=")[0] not in options or "depths" in each)]


def start(words: list[str], folder: Path) -> subprocess.Popen:
    code = "from resnet.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(words: list[str], folder: Path, beside: list[subprocess.Popen] | None = None) -> None:
    for process in [start(words, folder), *(beside or [])]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, f"resnet {' '.join(words)}\n{out[-2000:]}\n{err[-4000:]}"


def pictures(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with what the pages take as there: a run on digits, images in folders."""
    root = tmp_path_factory.mktemp("reader")
    run(tiny(["train", "--config=digits", "--workdir=runs/digits"]), root)
    shutil.copytree(root / "runs/digits", root / "runs/identity_0")
    plain, repvgg = (
        "--config.model.shortcut=none",
        "--config.model.shortcut=repvgg --config.model.branch=single",
    )
    for name, fields in (("plain_0", plain), ("plain_1", f"{plain} --config.seed=1"), ("repvgg", repvgg)):
        run(tiny(["train", "--config=digits", f"--workdir=runs/{name}", *fields.split()]), root)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("cat", "dog"):
            pictures(root / "FOLDER" / split / name, count)
    pictures(root / "pictures", 3)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, trained, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(trained, folder)
    waiting = []
    try:
        for words in commands(page):
            if any(each in " ".join(words) for each in NOT_RUN):
                continue
            if "--workdir=runs/study" in words and words[0] == "report":
                run([*STUDY], folder)
            if words[-1] == "&":
                waiting.append(start(tiny(words[:-1]), folder))
            else:
                run(tiny(words), folder, waiting)
                waiting = []
    finally:
        for process in waiting:
            process.kill()
