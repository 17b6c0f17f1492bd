"""Kills a study at random times, and compares what it comes to with an undisturbed one:

python scripts/interrupt.py --workdir=runs/interrupted --kills=10 --output=results/studies/interrupted.md \\
    -- --study=configs/studies/shortcut_on_off.py --study.scale=small --only=identity-8,none-8

What follows the -- are options of scripts/study.py. Ends with exit code 1 if a single run differs.
"""

import sys
from pathlib import Path

import cli
from absl import flags


def main(overrides: list[str], arguments: list[str]) -> dict:
    """One call of resnet.studies.interruption.interrupt."""
    cli.require("workdir")
    from resnet.files import check_writable
    from resnet.studies.interruption import interrupt, write_interruption

    check_writable(cli.FLAGS.output)
    command = [sys.executable, str(Path(__file__).with_name("study.py")), *arguments, *overrides]
    f = cli.FLAGS
    found = interrupt(command, f.workdir, f.kills, latest=f.latest, seed=f.seed)
    if f.output:
        write_interruption(found, cli.command(), f.output)
    if found.different:
        raise SystemExit(f"error: these runs differ from the undisturbed: {', '.join(found.different)}")
    return {"kills": len(found.kills), "runs": len(found.runs), "different": found.different}


def define() -> None:
    """Defines the flags."""
    cli.define_path("workdir", None, "Folder for the two studies.")
    flags.DEFINE_integer("kills", 10, "How often the study is killed.")
    flags.DEFINE_float("latest", 0.3, "Latest moment of a kill, as a part of the undisturbed study's time.")
    flags.DEFINE_integer("seed", 0, "Seed of the moments.")
    cli.define_path("output", None, "Markdown file to write.")


if __name__ == "__main__":
    cli.run(main, define)
