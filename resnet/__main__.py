"""python -m resnet: the command `resnet`, where it is not on the path."""

from resnet.cli.main import main

main()
