"""Predicts classes of pictures: the command `resnet predict`, from a clone."""

import cli

from resnet.cli.commands import predict

if __name__ == "__main__":
    cli.run(predict.main, predict.define)
