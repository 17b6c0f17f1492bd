"""A tiny net to plan for, and a step of it as its compiler would leave it: a stored program."""

from pathlib import Path

from resnet.config import Config
from resnet.planning.compiling import Compiled, imagined
from resnet.planning.program import read_program
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer

DATA = Path(__file__).parent / "data"
IMAGES = 50_000 * 32 * 32 * 3


def tiny(dtype="bfloat16"):
    config = Config()
    config.model.blocks, config.model.dtype = (1, 1, 1), dtype
    config.data.random_crop, config.data.flip = 4, True
    config.train.batch_size = 128
    return config


def stored_step():
    config = tiny()
    trainer = make_trainer(config, imagined(config.data, (32, 32, 3), 10, 1000), make_mesh(1))
    memory = {"arguments": 1000, "results": 500, "shared": 400, "temporaries": 2000, "program": 10}
    program = read_program((DATA / "plan_tpu.txt").read_text())
    return Compiled(trainer, program, memory, state=500_400, images=IMAGES, counted={})
