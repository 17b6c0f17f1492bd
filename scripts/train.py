"""Trains a net: python scripts/train.py --config=configs/digits.py --workdir=runs/digits

Any field of the config is overridden by --config.section.field=value. Run again, it resumes; a
finished run prints its result and does nothing. Prints the result as one JSON object.
"""

import cli
from absl import flags

cli.define_config()
flags.DEFINE_string("workdir", None, "Folder of the run: config, checkpoints, metrics, plots and result.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.training.loop.train."""
    cli.require("config", "workdir")
    config = cli.load_config(overrides)
    # Imported after the checks, so that a mistyped field is answered at once.
    from resnet.training.loop import train

    return train(config, cli.FLAGS.workdir, command=cli.command())


if __name__ == "__main__":
    cli.run(main)
