"""Evaluates a run: the command `resnet evaluate`, from a clone."""

import cli

from resnet.cli.commands import evaluate

if __name__ == "__main__":
    cli.run(evaluate.main, evaluate.define)
