"""Takes weights of PyTorch in: the command `resnet import`, from a clone."""

import cli

from resnet.cli.commands import import_weights

if __name__ == "__main__":
    cli.run(import_weights.main, import_weights.define)
