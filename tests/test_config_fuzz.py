"""Random overrides, sensible and not: each is refused by a clear error, or makes a net that trains a step."""

import collections
import os

import jax
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from resnet.cli import options
from resnet.config import Config, field_help
from resnet.data.augment import RandomCrop
from resnet.data.augmentation.mixing import EACH
from resnet.data.datasets import DATASETS, load_dataset
from resnet.data.statistics import NORMALIZATIONS
from resnet.errors import InputError
from resnet.models.grammar import CHOICES
from resnet.runtime.devices import make_mesh
from resnet.training.optimizers import CHOSEN, PRECONDITIONERS
from resnet.training.schedules import SCHEDULES
from resnet.training.trainer import make_trainer
from tests.tally import record, tries

TINY = (
    "--config.data.train_limit=64",
    "--config.model.blocks=1,1,1",
    "--config.model.width=0.25",
    "--config.train.batch_size=8",
    "--config.train.duration=4 steps",
)


def words(text: str) -> list[str]:
    return text.split(" ")


# Sizes are bounded, because memory is: what is asked for is made.
WORDS = {
    "int": words("0 1 2 3 4 8 9 16 -1 40 7.5 1e3 x 4294967296 True 0x10"),
    "float": words("0 0.25 0.5 0.9 1 2 -0.1 nan inf 1e-30 1e400 -inf x 1_0 0,5"),
    "bool": words("true false 1 0 yes maybe"),
    "str": words("nope ^stage1/ ( * é ../x None identity stem|head {} \0"),
    "tuple": words("1 1,1,1 1,2 (1,1,1) (( 0,0,0 -1,1,1 {} None [1,1,1] () ('^head/',0.1) (('^head/',0.1),)"),
}
DURATIONS = ["1 steps", "2 epochs", "10 %", "64 examples", "0 steps", "1e400 steps", "1e30 epochs", "5"]
REALLY = "TRIES" in os.environ  # train, beyond tracing
ANY = [word for words_of_type in WORDS.values() for word in words_of_type]
ANY += ["", " ", "a\nb", "((('a', 1),),)", "50 %", "'50 %', '75 %'", "__import__('os')"]
OTHER_CHOICES = {
    "data.name": DATASETS,
    "data.normalization": NORMALIZATIONS,
    "data.random_crop_fill": tuple(RandomCrop.modes),
    "optimizer.name": PRECONDITIONERS,
    "optimizer.decay": CHOSEN,
    "optimizer.adapt": CHOSEN,
    "train.mix_each": EACH,
    "schedule.name": SCHEDULES,
}
LIKE_DURATIONS = ("duration", "every", "warmup", "milestones")


def values(name: str, kind: str, default: str) -> st.SearchStrategy[str]:
    """Mostly what a field may be, else something from the words of its type or of any."""
    choices = OTHER_CHOICES.get(name) or CHOICES.get(name.removeprefix("model."), ())
    fitting = list(choices) or WORDS.get(kind.split("[")[0], WORDS["str"])
    fitting = DURATIONS if name.rpartition(".")[2].endswith(LIKE_DURATIONS) else fitting
    return st.one_of(*3 * [st.sampled_from(fitting)], st.sampled_from([*ANY, default]))


FIELDS = [(name, kind, default) for name, kind, default, _ in field_help(Config())]
OVERRIDE = st.sampled_from(FIELDS).flatmap(
    lambda field: values(*field).map(lambda value: f"--config.{field[0]}={value}")
)


@pytest.fixture(scope="module")
def counts():
    found = collections.Counter()
    yield found
    happens = "refused by an error that names the field, or a net that trains"
    record("overrides", "random overrides of the config", happens, sum(found.values()), found)


@pytest.mark.thorough
@settings(
    max_examples=tries(30),
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(overrides=st.lists(OVERRIDE, min_size=1, max_size=3))
def test_each_is_a_clear_error_or_trains(overrides, counts):
    stage = "refused by its check"
    try:
        config = options.override(options.override(Config(), list(TINY)), overrides)
        stage = "refused with its data and net"
        dataset = load_dataset(config.data)
        trainer = make_trainer(config, dataset, make_mesh(1))
        state = start(trainer)
    except InputError as error:
        assert len(str(error)) > 20
        counts[stage] += 1
        return
    state, metrics = step(trainer, state, trainer.batch(range(1)))
    assert state.step.shape == () and metrics["loss"].shape == ()
    counts["trained a step" if REALLY else "traced a step"] += 1


def start(trainer):
    """The first state, or in the suite, which has no time for it, its shapes."""
    return trainer.start() if REALLY else trainer.shapes


def step(trainer, *arguments):
    """The next state and metrics, or their shapes."""
    if not REALLY:
        return jax.eval_shape(trainer.step.train, *arguments)
    # Compiled fast, for it runs once.
    done = trainer.train().lower(*arguments).compile({"xla_backend_optimization_level": 0})(*arguments)
    assert int(done[0].step) == 1
    jax.clear_caches()
    return done
