"""Studies: what a file may say, paired arms, matched budgets, and work that is never repeated."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.config import Config, config_hash, replaced, save_config
from resnet.data.datasets import load_dataset
from resnet.data.order import batch_indices
from resnet.errors import InputError
from resnet.paths import parameter_path
from resnet.runtime.devices import make_mesh
from resnet.studies import estimate, grid, runner
from resnet.studies.folder import states
from resnet.studies.launch import launch
from resnet.studies.stored import load_folder, open_folder, save_folder
from resnet.studies.study import Arm, Origin, Published, load_study, resolve, with_base
from resnet.training.loop import train
from resnet.training.trainer import make_trainer
from tests.studies_cases import tiny_config, tiny_study


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reference": "identty"}, "the study names an arm 'identty'; did you mean `identity`?"),
        ({"arms": {"identity": Arm(reference="b")}}, "arm 'identity' names an arm 'b'"),
        ({"arms": {"identity": Arm({"model.dept": 8})}}, "arm 'identity': unknown field `model.dept`"),
        ({"arms": {"identity": Arm({"model.width": -1.0})}}, "arm 'identity': `model.width` must be above 0"),
        ({"arms": {"a b": Arm()}, "reference": "a b"}, "must be a folder's name"),
        ({"seeds": (1, 1)}, "`study.seeds` must be different numbers"),
        ({"learning_rates": (-1.0,)}, "arm 'identity': `schedule.learning_rate` must be at least 0"),
        (
            {"base": replaced(tiny_config(), {"data.validation": 0.0}), "learning_rates": (0.1,)},
            "learning rates are chosen on validation",
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_runs(fields, message):
    with pytest.raises(InputError) as error:
        resolve(tiny_study(**fields))
    assert message in str(error.value)


def test_a_study_file_is_read_at_a_scale(tmp_path):
    path = tmp_path / "s.py"
    path.write_text("def get_study(scale):\n    return scale\n")
    with pytest.raises(InputError, match="must return a resnet.studies.study.Study; got 'small'"):
        load_study(path, "small")
    with pytest.raises(InputError, match="`study.scale` must be one of paper, small; got 'big'"):
        load_study(path, "big")
    with pytest.raises(InputError, match="does not exist; those at hand by name are after_sum, "):
        load_study(tmp_path / "none.py", "small")


def test_a_config_hash_is_of_what_differs_from_the_defaults_but_the_seed():
    config = tiny_config()
    assert config_hash(config) == config_hash(dataclasses.replace(config, seed=5))
    assert config_hash(config) != config_hash(replaced(config, {"model.width": 0.5}))
    assert config_hash(Config()) == config_hash(replaced(Config(), {}))
    for field, whole, same in (
        ("schedule.learning_rate", 1, 1.0),
        ("data.mean", (1, 2, 3), (1.0, 2.0, 3.0)),
        ("optimizer.lr_multipliers", (("head", 1),), (("head", 1.0),)),
    ):
        assert config_hash(replaced(Config(), {field: whole})) == config_hash(
            replaced(Config(), {field: same})
        )
    assert config_hash(replaced(Config(), {"train.seeds": 2})) != config_hash(Config())


@pytest.mark.thorough
def test_arms_are_paired():
    """Seed i of both arms: one order, one augmentation, one start of whatever they share."""
    arms = {"identity": Arm(), "b": Arm({"model.transition": "projection", "model.blocks": (1, 2, 1)})}
    starts, images = [], []
    for arm in resolve(tiny_study(arms=arms)).values():
        config = arm.at(seed=3)
        dataset = load_dataset(config.data)
        step = make_trainer(config, dataset, make_mesh(1)).step
        state = step.init(3)
        starts.append({parameter_path(p): leaf for p, leaf in jax.tree.leaves_with_path(state.params)})
        batch = dataset.train.images[batch_indices(config.seed, 5, 64, 16)]
        state = dataclasses.replace(state, step=jnp.int32(5))
        images.append(step.augmented(state, jnp.asarray(batch))[0])
    np.testing.assert_array_equal(*images)
    shared = [path for path in starts[0] if starts[0][path].shape == getattr(starts[1].get(path), "shape", 0)]
    assert len(shared) == len(starts[0]) < len(starts[1])
    for path in shared:
        np.testing.assert_array_equal(starts[0][path], starts[1][path], err_msg=path)
    kernels = [path for path in shared if "conv" in path]
    assert len({starts[0][path].sum().item() for path in kernels}) == len(kernels)


@pytest.fixture
def trained(monkeypatch):
    """Which (folder of the seeds, seed) the runner trained, in order; nothing is really trained."""
    calls = []

    def train(config, workdirs, *_, **__):
        outcomes = {}
        for seed, workdir in workdirs.items():
            calls.append((workdir.parent.name, seed))
            workdir.mkdir(parents=True, exist_ok=True)
            save_config(dataclasses.replace(config, seed=seed), workdir)
            if config.model.shortcut == "none" and seed == 1:
                outcomes[seed] = {"failed": "loss is nan at step 3"}
                (workdir / "failed.json").write_text(json.dumps(outcomes[seed]))
                continue
            score = 1.0 - abs(config.schedule.learning_rate - 0.05)
            outcomes[seed] = {"top1": score, "validation": {"top1": score}, "step": 8}
            (workdir / "result.json").write_text(json.dumps(outcomes[seed]))
        return outcomes

    monkeypatch.setattr(runner, "train", train)
    return calls


def test_nothing_is_repeated_and_failures_are_kept(tmp_path, trained):
    counts = launch(tiny_study(), tmp_path)
    assert trained == [("identity", 0), ("identity", 1), ("none", 0), ("none", 1)]
    assert (counts["finished"], counts["failed"], counts["not started"]) == (3, 1, 0)
    failed = load_folder(tmp_path).runs("none")[1]
    assert failed.state == "failed" and failed.reason == "loss is nan at step 3"
    assert launch(tiny_study(), tmp_path) == counts and len(trained) == 4
    # An arm and a seed more; then the failed run again.
    more = tiny_study(arms={**tiny_study().arms, "b": Arm({"model.transition": "projection"})}, seeds=(2,))
    launch(more, tmp_path, only=("b", "identity"))
    assert trained[4:] == [("identity", 2), ("b", 0), ("b", 1), ("b", 2)]
    assert load_folder(tmp_path).seeds == (0, 1, 2)
    before = states(load_folder(tmp_path))
    planned = launch(tiny_study(), tmp_path, retry=True, dry_run=True, launcher="slurm")
    assert (
        planned["failed"] == 0
        and planned["unfinished"] == 1
        and planned["array"] == ["0: none: seeds 0, 1, 2"]
    )
    assert states(load_folder(tmp_path)) == before and before["failed"] == 1 and len(trained) == 8
    launch(tiny_study(), tmp_path, retry=True)
    assert trained[8:] == [("none", 1), ("none", 2)]
    assert launch(tiny_study(), tmp_path, retry=True)["failed"] == 1  # again


def test_a_learning_rate_is_chosen_on_validation(tmp_path, trained):
    study = tiny_study(learning_rates=(0.1, 0.05, 0.01), grid_seeds=1)
    launch(study, tmp_path, only=("identity",))
    assert trained == [("lr0.1", 0), ("lr0.05", 0), ("lr0.01", 0), ("lr0.05", 1)]
    folder = load_folder(tmp_path)
    assert folder.chosen_rate("identity") == 0.05 and folder.chosen_rate("none") is None
    assert [run.workdir.parent.name for run in folder.runs("identity")] == ["lr0.05", "lr0.05"]
    assert states(folder) == {"finished": 4, "failed": 0, "unfinished": 0, "not started": 4}


def test_a_grid_goes_on_beyond_the_end_that_wins(tmp_path, trained):
    study = tiny_study(learning_rates=(0.01, 0.02), seeds=(0, 1, 2, 3))
    launch(study, tmp_path, only=("identity",))
    rates = list(dict.fromkeys(rate for rate, _ in trained))
    assert rates == ["lr0.01", "lr0.02", "lr0.04", "lr0.08"] and study.grid_seeds == 3
    folder = load_folder(tmp_path)
    assert folder.chosen_rate("identity") == 0.04 and trained[-1] == ("lr0.04", 3)
    assert len(trained) == folder.expected("identity") == 13


@pytest.mark.parametrize(
    ("scores", "chosen", "beyond"),
    [
        ({0.1: (0.9, -1.0), 0.2: (0.9, -0.5), 0.4: (0.8, -0.1)}, 0.2, None),  # a tie, which the loss decides
        ({0.1: (0.9, -1.0), 0.2: (0.9 + 1e-15, -2.0), 0.4: (0.1, -3.0)}, 0.1, 0.05),  # equal but for rounding
        ({0.1: (0.8, -1.0), 0.2: (0.9, -1.0)}, 0.2, 0.4),
        ({0.1: (0.8, -1.0), 0.2: grid.NO_SCORE}, 0.1, 0.05),
        ({0.1: grid.NO_SCORE, 0.2: grid.NO_SCORE}, None, 0.05),
        ({0.1 / 2**i: grid.NO_SCORE for i in range(-1, 4)}, None, None),
        (
            {0.1: (0.1, -1.0), **{0.2 * 2**i: (0.2 + i / 10, -1.0) for i in range(4)}},
            1.6,
            None,
        ),  # three further
    ],
)
def test_what_a_grid_chooses_and_tries_next(scores, chosen, beyond):
    assert grid.best(scores) == chosen and grid.further(scores, (0.1, 0.2)) == beyond
    assert grid.further({0.1: (0.9, -1.0)}, (0.1,)) is None  # one rate is no grid


def test_a_rate_is_scored_by_all_seeds_and_not_where_one_failed():
    runs = [{"validation": {"top1": 0.5, "loss": 1.0}}, {"validation": {"top1": 0.7, "loss": 2.0}}]
    assert grid.score_of(runs) == (pytest.approx(0.6), -1.5)
    assert grid.score_of([*runs, {}]) == grid.NO_SCORE
    assert grid.score_of([{"validation": {"mae": 3.0}}])[0] == -3.0


def test_the_folder_of_another_study_is_refused(tmp_path, trained):
    launch(tiny_study(), tmp_path)
    study = tiny_study(base=replaced(tiny_config(), {"model.width": 0.5}))
    with pytest.raises(InputError, match="holds a run that differs in model.width from arm 'identity'"):
        launch(study, tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(InputError, match="--only: no arm is called 'x'; the arms are identity, none"):
        launch(tiny_study(seeds=(7, 8)), tmp_path, only=("x",))
    assert (tmp_path / "study.json").read_bytes() == before


@pytest.mark.thorough
def test_a_dry_run_writes_nothing_and_tells_time_and_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(estimate, "_measure", lambda *_: (60.0, 7e6))  # a minute and 7 MB a step
    with caplog.at_level("INFO", logger="absl"):
        counts = launch(tiny_study(), tmp_path / "s", dry_run=True)
    assert counts["not started"] == 4 and counts["estimated_minutes"] == 2 * 2 * 8
    assert re.search(r"identity +2 .* 8\.0 +7\n", caplog.text)
    assert not (tmp_path / "s").exists()


@pytest.mark.thorough
def test_runs_of_a_study_are_ordinary_runs(tmp_path):
    """Trained for real: the numbers are those of the run alone, and a diverged run is a failure."""
    arms = {"identity": Arm(), "wild": Arm({"schedule.learning_rate": 1e30})}
    counts = launch(tiny_study(arms=arms, seeds=(1,)), tmp_path)
    assert (counts["finished"], counts["failed"]) == (1, 1)
    folder = load_folder(tmp_path)
    assert "is nan at step" in folder.runs("wild")[0].reason
    alone = train(dataclasses.replace(tiny_config(), seed=1), tmp_path / "alone")
    assert folder.runs("identity")[0].result["loss"] == alone["loss"]


def test_a_study_remembers_where_it_comes_from(tmp_path):
    path = tmp_path / "s.py"
    path.write_text(
        "from tests.studies_cases import tiny_study\n\ndef get_study(scale):\n    return tiny_study()\n"
    )
    study = load_study(path, "small")
    study = with_base(study, replaced(study.base, {"model.width": 0.5}))
    assert study.origin == Origin(str(path), "small", {"model.width": 0.5})
    save_folder(open_folder(study, tmp_path / "work", ""))
    assert load_folder(tmp_path / "work").origin == study.origin


def test_what_a_paper_says_must_be_something_to_compare_with():
    for published, message in (
        (Published(words="see Fig. 6"), "arm 'none': `published` needs an `error`, `above` or `than_refere"),
        (Published(than_reference="lower"), "arm 'none': `published.than_reference` must be one of"),
    ):
        with pytest.raises(InputError) as error:
            resolve(tiny_study(arms={"identity": Arm(), "none": Arm(published=published)}))
        assert message in str(error.value)
