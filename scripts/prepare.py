"""Fetches a published data set: python scripts/prepare.py cifar10 --dir=DATA

Known are cifar10, cifar100, mnist, fashion_mnist and svhn_cropped. The archive is fetched from its authors
into DATA/NAME, checked by size and SHA-256, and read once. A fetch that broke off goes on when the same
command is given again; --archive=FILE takes an archive that is there already. Training then needs
--config.data.name=NAME --config.data.dir=DATA. Prints folder and numbers of images as one JSON object.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import cli
from absl import flags, logging

from resnet.errors import InputError

flags.DEFINE_string("dir", "", "Folder of data sets, in which NAME/ is made; by default ~/datasets.")
cli.define_path("archive", None, "Archive to take instead of fetching it, or a folder of several.")

LOG_SECONDS = 10.0  # between two lines where there is no terminal


def main(overrides: list[str], names: list[str]) -> dict:
    """One call of resnet.data.published.prepare.prepare_published."""
    if overrides or len(names) != 1:
        raise InputError("give the name of one data set, e.g. cifar10; --help lists them")
    from resnet.data.published.prepare import prepare_published

    with reporting() as report:
        folder, source = prepare_published(names[0], cli.FLAGS.dir, cli.FLAGS.archive, report)
    return {"name": names[0], "dir": str(folder), "train": len(source.train), "test": len(source.test)}


@contextlib.contextmanager
def reporting() -> Iterator[Callable[[str, int, int], None]]:
    """While entered, a function that shows (file, bytes here, bytes in all): a bar, or lines in the log."""
    if not sys.stderr.isatty():
        shown = [time.monotonic()]

        def log(name: str, here: int, total: int) -> None:
            if time.monotonic() - shown[0] >= LOG_SECONDS or here == total:
                logging.info("%s: %.1f of %.1f MB", name, here / 1e6, total / 1e6)
                shown[0] = time.monotonic()

        yield log
        return
    from rich import console, progress

    columns = progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeRemainingColumn()
    terminal = console.Console(stderr=True)
    with progress.Progress("{task.description}", progress.BarColumn(), *columns, console=terminal) as bar:
        tasks: dict[str, progress.TaskID] = {}

        def show(name: str, here: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=here)

        yield show


if __name__ == "__main__":
    cli.run(main, takes_files=True)
