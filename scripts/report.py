"""The report of a study, finished or not: python scripts/report.py --workdir=runs/study

Writes report.md, report.html (one file, pictures inside), runs.csv and the figures into the study's
folder, and prints how many runs are in which state as one JSON object.
"""

import cli
from absl import flags

flags.DEFINE_string("workdir", None, "Folder of a study.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.studies.report.write_report."""
    cli.require("workdir")
    from resnet.studies.report import write_report

    return write_report(cli.FLAGS.workdir)


if __name__ == "__main__":
    cli.run(main)
