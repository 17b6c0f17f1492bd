"""Mean over seeds: python scripts/summarize.py --runs=runs/digits_0,runs/digits_1 --output=page.md

The runs must be finished and differ in their seeds alone. Writes a page with a row for each, and prints
the summary as one JSON object.
"""

from pathlib import Path

import cli
from absl import flags

flags.DEFINE_list("runs", None, "Workdirs of finished runs, with commas between.")
flags.DEFINE_string("output", None, "Markdown file to write.")
flags.DEFINE_string("title", "Runs", "Title of the page.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.studies.summary.summarize."""
    cli.require("runs", "output")
    from resnet.studies.summary import load_finished, summarize, write_page

    runs = [load_finished(Path(workdir)) for workdir in cli.FLAGS.runs]
    summary = summarize(runs)
    write_page(runs, summary, cli.FLAGS.title, Path(cli.FLAGS.output))
    return summary


if __name__ == "__main__":
    cli.run(main)
