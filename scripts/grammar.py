"""Trains every shortcut in every order: python scripts/grammar.py --config=configs/digits_grammar.py

A few epochs each, in memory; a net that diverges or that the grammar refuses is a row too. Writes the
table to --output, a Markdown file, and prints how many nets had which outcome as one JSON object.
"""

from pathlib import Path

import cli
from absl import flags

cli.define_config()
flags.DEFINE_string("output", "results/grammar.md", "File for the table.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.studies.grammar.run."""
    config = cli.load_config(overrides)
    output = Path(cli.FLAGS.output)
    if not output.parent.is_dir():
        raise cli.InputError(f"--output: folder {str(output.parent)!r} does not exist; create it first")
    from resnet.data.datasets import load_dataset
    from resnet.studies.grammar import run

    return run(config, load_dataset(config.data), output, cli.command())


if __name__ == "__main__":
    cli.run(main)
