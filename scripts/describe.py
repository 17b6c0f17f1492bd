"""Shows a net: the command `resnet describe`, from a clone."""

import cli

from resnet.cli.commands import describe

if __name__ == "__main__":
    cli.run(describe.main, describe.define)
