"""Trains a net: the command `resnet train`, from a clone."""

import cli

from resnet.cli.commands import train

if __name__ == "__main__":
    cli.run(train.main, train.define)
