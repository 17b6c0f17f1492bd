"""Plans a training for an accelerator that is not here: the command `resnet plan`, from a clone."""

import cli

from resnet.cli.commands import plan

if __name__ == "__main__":
    cli.run(plan.main, plan.define)
