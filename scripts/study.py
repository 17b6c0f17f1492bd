"""Runs a study: the command `resnet study`, from a clone."""

import cli

from resnet.cli.commands import study

if __name__ == "__main__":
    cli.run(study.main, study.define)
