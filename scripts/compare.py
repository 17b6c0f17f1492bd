"""Curves side by side: python scripts/compare.py --runs=runs/a,runs/b --output=curves.png

One line for each config, labelled by the fields in which they differ, with a band over its seeds.
Prints how many runs each line stands for as one JSON object.
"""

from pathlib import Path

import cli
from absl import flags

flags.DEFINE_list("runs", None, "Workdirs of runs, with commas between.")
flags.DEFINE_string("output", None, "PNG file to write.")
flags.DEFINE_string("title", "", "Title of the plot.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.studies.comparison.plot_comparison."""
    cli.require("runs", "output")
    from resnet.studies.comparison import plot_comparison

    return plot_comparison([Path(run) for run in cli.FLAGS.runs], cli.FLAGS.title, Path(cli.FLAGS.output))


if __name__ == "__main__":
    cli.run(main)
