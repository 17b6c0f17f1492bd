"""Writes a run as a program: the command `resnet export`, from a clone."""

import cli

from resnet.cli.commands import export

if __name__ == "__main__":
    cli.run(export.main, export.define)
