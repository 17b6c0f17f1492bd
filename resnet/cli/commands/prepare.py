"""Prepares data: resnet prepare cifar10 --dir=DATA

Published are cifar10, cifar100, mnist, fashion_mnist and svhn_cropped. The archive is fetched from its
authors, or a mirror (mnist), into DATA/NAME, checked by size and SHA-256, and read once. A fetch that
broke off goes on when the same command is given again; --archive=FILE takes an archive that is there
already. Training then needs --config.data.name=NAME --config.data.dir=DATA. Prints folder and numbers of
images as one JSON object.

Images of your own, in folders or tars, become one tar of smaller JPEGs, which is read and decoded faster:
resnet prepare images --from=FOLDER --to=FILE.tar --short_side=256
Those that are small enough keep their bytes. What was interrupted goes on when the same command is given
again. Training then needs --config.data.dir=FILE.tar.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from absl import flags, logging

from resnet.cli import options as cli
from resnet.errors import InputError

LOG_SECONDS = 10.0  # between two lines where there is no terminal


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("dir", None, "Folder of data sets, in which NAME/ is made; by default ~/datasets.")
    cli.define_path("archive", None, "Archive to take instead of fetching it, or a folder of several.")
    cli.define_path("from", None, "Folder or tar of the images that are made smaller.")
    cli.define_path("to", None, "Tar that is written.")
    flags.DEFINE_integer("short_side", 256, "Pixels of the shorter side of the images in it.")


def main(overrides: list[str], names: list[str]) -> dict:
    """One call of prepare_published or of shrink_images."""
    if overrides or len(names) != 1:
        raise InputError("give the name of one data set, e.g. cifar10, or images; --help lists them")
    options = cli.FLAGS
    with reporting(in_bytes=names != ["images"]) as report:
        if names == ["images"]:
            cli.require("from", "to")
            cli.refuse("images", "dir", "archive")
            from resnet.data.files.shrink import shrink_images

            source, target = options["from"].value, options.to
            assert source is not None
            return {"to": str(target), **shrink_images(source, target, options.short_side, report)}
        cli.refuse(names[0], "from", "to", "short_side")
        from resnet.data.published.prepare import prepare_published

        folder, source = prepare_published(names[0], str(options.dir or ""), options.archive, report)
    return {"name": names[0], "dir": str(folder), "train": len(source.train), "test": len(source.test)}


@contextlib.contextmanager
def reporting(in_bytes: bool) -> Iterator[Callable[[str, int, int], None]]:
    """While entered, a function that shows (name, how much is done, of how much), as a bar or in the log.

    They are bytes, or images.
    """
    if not sys.stderr.isatty():
        shown = [time.monotonic()]

        def log(name: str, here: int, total: int) -> None:
            if time.monotonic() - shown[0] >= LOG_SECONDS or here == total:
                logging.info("%s: %d of %d", name, here, total)
                shown[0] = time.monotonic()

        yield log
        return
    from rich import console, progress

    of_bytes = progress.DownloadColumn(), progress.TransferSpeedColumn()
    columns = *(of_bytes if in_bytes else [progress.MofNCompleteColumn()]), progress.TimeRemainingColumn()
    terminal = console.Console(stderr=True)
    with progress.Progress("{task.description}", progress.BarColumn(), *columns, console=terminal) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def show(name: str, here: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=here)

        yield show
