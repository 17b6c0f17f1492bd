"""Fetches published data sets, and makes images smaller: the command `resnet prepare`, from a clone."""

import cli

from resnet.cli.commands import prepare

if __name__ == "__main__":
    cli.run(prepare.main, prepare.define)
