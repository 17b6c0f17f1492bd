"""Puts a question to a net: the command `resnet analyze`, from a clone."""

import cli

from resnet.cli.commands import analyze

if __name__ == "__main__":
    cli.run(analyze.main, analyze.define)
