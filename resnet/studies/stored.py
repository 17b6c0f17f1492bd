"""A study's definition in study.json: written when a study starts, checked against what ran, read back."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from resnet.config import as_tuples, config_from_dict, config_to_dict, idle_fields
from resnet.errors import InputError
from resnet.fields import present_name
from resnet.files import local_path, lock, make_folder, read_object
from resnet.runs.changes import decisive
from resnet.runs.metrics.records import write_json
from resnet.runs.provenance import this_session
from resnet.studies.folder import NOT_STARTED, StudyFolder, StudyRun, run_of_row
from resnet.studies.study import Origin, ResolvedArm, Study, check_changes, check_seeds, resolve

FILE, LOCK = "study.json", ".study.lock"
_ANEW = "delete it and start the study again, with all its seeds: it is written anew"


def open_folder(study: Study, workdir: Path, command: str) -> StudyFolder:
    """Joins a study with what its folder has of earlier starts; writes nothing.

    Seeds that an earlier start had are kept. InputError where an arm's config has changed since, or the
    command line changes something in vain.
    """
    arms = resolve(study)
    # Not where studies are read: those of earlier releases have such changes.
    changes = study.origin.changes if study.origin else {}
    grids = {name: arm.learning_rates for name, arm in arms.items() if arm.learning_rates}
    check_changes(changes, next(iter(grids.values())) if len(grids) == len(arms) else ())
    _check_own_fields(changes, study, grids)
    _warn_of_idle(changes, study, arms)
    earlier = load_folder(workdir) if (workdir / FILE).exists() else None
    folder = StudyFolder(
        workdir=workdir,
        **texts_of(study),
        seeds=tuple(dict.fromkeys((earlier.seeds if earlier else ()) + study.seeds)),
        grid_seeds=study.grid_seeds,
        arms=arms,
        origin=study.origin,
        sessions=(*(earlier.sessions if earlier else ()), this_session(command)),
        rows=earlier.rows if earlier else {},
        told=earlier.told if earlier else (),
    )
    for run in (run for name in arms for run in folder.all_runs(name)):
        _check_same(run, folder.arms[run.arm])
    return dataclasses.replace(folder, gone=_gone(earlier, arms)) if earlier else folder


def _check_own_fields(changes: Mapping[str, Any], study: Study, grids: Collection[str]) -> None:
    """InputError for a change of the base that all arms undo, as they set the field; a warning if some do.

    The arms in `grids` choose their learning rate.
    """
    own = {name: {present_name(field) for field in arm.changes} for name, arm in study.arms.items()}
    for name in grids:
        own[name].add("schedule.learning_rate")
    for field in map(present_name, changes):
        arms = [name for name in own if field in own[name]]
        if len(arms) == len(own):
            raise InputError(f"`{field}` would have no effect: every arm of the study sets it; leave it out")
        if arms:
            logging.warning(
                "`%s` has no effect on the arms that set it, or choose it: %s", field, ", ".join(arms)
            )


def _warn_of_idle(changes: Mapping[str, Any], study: Study, arms: Mapping[str, ResolvedArm]) -> None:
    """Warns of a field that an arm sets in vain, and of a change of the base that has no effect at all."""
    idle = {name: idle_fields(arm.config) for name, arm in arms.items()}
    for field in map(present_name, changes):
        purposes = [fields.get(field) for fields in idle.values()]
        if all(purposes):
            logging.warning("`%s` has no effect on any arm: it is for %s", field, purposes[0])
    for name, arm in study.arms.items():
        for field in map(present_name, arm.changes):
            if field in idle[name]:
                logging.warning("arm %s: `%s` has no effect: it is for %s", name, field, idle[name][field])


def _gone(earlier: StudyFolder, arms: dict[str, ResolvedArm]) -> tuple[str, ...]:
    """The arms that ran at earlier starts and are not among `arms`; the log names them."""
    began = (name for name in earlier.arms if any(r.state != NOT_STARTED for r in earlier.all_runs(name)))
    gone = tuple(name for name in dict.fromkeys((*earlier.gone, *began)) if name not in arms)
    if gone:
        logging.warning("%s", removed(gone))
    return gone


def removed(gone: tuple[str, ...]) -> str:
    """The sentence that names arms with runs that the study no longer has."""
    return (
        f"Of this study arms ran that it has no more: {', '.join(gone)}. They count nowhere here, nor among "
        "the comparisons that p-values are corrected for."
    )


def texts_of(study: Study) -> dict[str, Any]:
    """The texts of a study that its folder repeats: title, paper, table and note."""
    return {name: getattr(study, name) for name in ("title", "paper", "table", "note")}


def save_folder(folder: StudyFolder) -> None:
    """Writes study.json."""
    fields = {field.name: getattr(folder, field.name) for field in dataclasses.fields(folder)}
    arms = {
        name: dataclasses.asdict(arm) | {"config": config_to_dict(arm.config)}
        for name, arm in folder.arms.items()
    }
    make_folder(folder.workdir)
    origin = folder.origin and dataclasses.asdict(folder.origin)
    rows = {path.relative_to(folder.workdir).as_posix(): row for path, row in folder.rows.items()}
    own = {"workdir": str(folder.workdir), "arms": arms, "origin": origin, "rows": rows}
    write_json(folder.workdir / FILE, {name: fields[name] for name in fields if name != "again"} | own)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Keeps other starts of the study from writing study.json while entered; makes the folder."""
    make_folder(workdir)
    with (workdir / LOCK).open("ab") as file:  # for writing: on some file systems no other lock is exclusive
        lock(file, wait=True)
        yield


def load_folder(workdir: str | Path) -> StudyFolder:
    """Reads study.json; InputError if the folder holds no study."""
    path = local_path(workdir) / FILE
    if not path.is_file():
        raise InputError(f"{path} is missing: no study lies in {str(workdir)!r}; start one by resnet study")
    fields: dict[str, Any] = read_object(path, "arms", "seeds", "sessions", remedy=_ANEW)
    fields["workdir"] = path.parent
    try:
        arms = {name: ResolvedArm(**_arm_fields(name, arm)) for name, arm in fields["arms"].items()}
        fields |= {name: tuple(fields[name]) for name in ("seeds", "sessions")}
        check_seeds(fields["seeds"])
        # Folders that were written before origins were have none, and neither rows of kept runs.
        origin = fields.get("origin") and Origin(**fields["origin"])
        if origin:
            changes = {name: as_tuples(value) for name, value in origin.changes.items()}
            origin = dataclasses.replace(origin, changes=changes)
        rows = {path.parent / place: row for place, row in fields.get("rows", {}).items()}
        for place, row in rows.items():
            run_of_row(row, place, None)
        told = tuple((label, text) for label, text in fields.get("told", ()))
        fields |= {"gone": tuple(fields.get("gone", ()))}
        return StudyFolder(**(fields | {"arms": arms, "origin": origin, "rows": rows, "told": told}))
    except _OtherCode as error:
        raise InputError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is unreadable: {error}; {_ANEW}") from None


class _OtherCode(InputError):
    """A config that was written whole, and that this code does not know."""


def _arm_fields(name: str, arm: dict[str, Any]) -> dict[str, Any]:
    rates = tuple(arm["learning_rates"])
    try:
        config = config_from_dict(arm["config"])
    except InputError as error:
        raise _OtherCode(
            f"arm {name!r} is of other code: {error}; go back to the code that ran it, or choose another "
            "workdir"
        ) from None
    return arm | {"config": config, "learning_rates": rates}


def _check_same(run: StudyRun, arm: ResolvedArm) -> None:
    """InputError if a run's folder holds a run of another config."""
    if run.state == NOT_STARTED or run.kept:
        return
    config = arm.at(run.seed, run.learning_rate)
    differing = [name for name, *_ in decisive(run.workdir, config)]
    if differing:
        raise InputError(
            f"{run.workdir} holds a run that differs in {', '.join(differing)} from arm {run.arm!r}; "
            "choose another workdir, or another name for the arm"
        )
