"""Watches runs while they go: resnet watch runs/digits

Shows how far the run is, its curves and the time that is left. Of a study, or of another folder with runs
in it, all runs are shown. Ends when all are over, or by Ctrl-C, which disturbs none. With --html=FILE.html
the same is written as a page that loads itself again.
"""

import time

from absl import flags

from resnet.cli import options as cli
from resnet.errors import InputError, check_at_least
from resnet.files import check_writable, local_path


def define() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_float("every", 2.0, "Seconds from one look to the next.")
    flags.DEFINE_bool("once", False, "Look once, and end.")
    cli.define_path("html", None, "File to write the same to as a page.")


def main(overrides: list[str], folders: list[str]) -> None:
    """Looks at the folder until all its runs are over."""
    if len(folders) != 1 or overrides:
        raise InputError("name one folder, of a run or of a study: resnet watch runs/digits")
    check_at_least("--every", cli.FLAGS.every, 0.1)
    from rich.console import Console
    from rich.live import Live

    from resnet.studies.watch import Watch, is_over, write_page

    check_writable(cli.FLAGS.html)
    watch = Watch(local_path(folders[0]))
    with Live(console=Console(), auto_refresh=False) as live:
        try:
            while True:
                views = watch.look()
                table = watch.table(views)
                live.update(table, refresh=True)
                if cli.FLAGS.html:
                    write_page(table, cli.FLAGS.every, cli.FLAGS.html)
                if cli.FLAGS.once or all(map(is_over, views)):
                    return
                time.sleep(cli.FLAGS.every)
        except KeyboardInterrupt:
            return
