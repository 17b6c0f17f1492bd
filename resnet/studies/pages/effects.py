"""All rows of the ledger judged together: an effect counts once, and Holm's correction is over all effects.

Of runs at paper scale it is asked, too, whether they are those of the paper: its nets, data and recipe.
"""

import dataclasses
from collections.abc import Iterable

from resnet.errors import InputError
from resnet.runs.changes import may_differ_elsewhere
from resnet.studies.pages.ledger import Row
from resnet.studies.pages.statistics import holm
from resnet.studies.pages.verdict import NOT_RUN, UNDECIDED, Outcome, judge
from resnet.studies.study import Arm, Origin, Study, study_of

PAPERS_IMAGES: dict[str, str] = {}
"""Fingerprint of the test images that papers report, by data set, noted from a copy that was checked against
the checksums of its publisher. Runs on a set that is not here show the order of arms alone."""


def judged(rows: Iterable[Row]) -> list[Row]:
    """The rows with p-values corrected over all effects, and the verdicts that follow; others are left out.

    An effect that several rows measure counts once, at the largest of their p-values. A row whose study
    has no such arm any more keeps the verdict that it had.
    """
    rows, ps = list(rows), {}
    for row in rows:
        if row.p is not None:
            ps[row.effect] = max(ps.get(row.effect, 0.0), row.p)
    corrected = dict(zip(ps, holm(list(ps.values())), strict=True))
    studies: dict[tuple[str, str, str], Study | None] = {}
    found = []
    for row in rows:
        row = dataclasses.replace(row, p_holm=None if row.p is None else corrected[row.effect])
        place = (row.study, row.scale, row.changes)
        if place not in studies:
            studies[place] = _study(row.origin)
        study = studies[place]
        if row.verdict != NOT_RUN and study is not None and row.arm in study.arms:
            row = _judged(row, study)
        if row.verdict:
            found.append(row)
    return found


def what_sets_apart(study: Study, arm: Arm, test_images: str) -> str:
    """Why errors of these runs do not compare with the paper's; empty where they do."""
    origin = study.origin
    assert origin is not None
    if origin.scale != "paper":
        return "the scale is small"
    if arm.published and not arm.published.same_recipe:
        return "the paper's recipe is another"
    if arm.learning_rates or study.learning_rates:
        return "each arm chose its learning rate"
    if changed := [name for name in origin.changes if not may_differ_elsewhere(name)]:
        return f"{', '.join(changed)} is not the paper's"
    name = study.base.data.name
    if name not in PAPERS_IMAGES:
        return f"no fingerprint of the paper's {name} is noted to compare the images with"
    if test_images != PAPERS_IMAGES[name]:
        return f"the test images ({test_images or 'without a fingerprint'}) are not those of {name}"
    return ""


def _study(origin: Origin) -> Study | None:
    """The study as its file has it now; None where there is none any more."""
    try:
        return study_of(origin)
    except InputError:
        return None


def _judged(row: Row, study: Study) -> Row:
    """The row with its verdict; with none where the claim cannot be compared with such runs."""
    arm, reference = study.arms[row.arm], study.arms.get(row.reference)
    if arm.published is None:
        return dataclasses.replace(row, verdict="")
    ours = Outcome(
        error=row.error, n=row.n, failed=row.failed, runs=row.runs, reference_n=row.reference_n,
        difference=row.difference, pairs=row.pairs, low=row.low, high=row.high, detectable=row.detectable,
        p=row.p_holm,
    )  # fmt: skip
    apart = what_sets_apart(study, arm, row.test_images)
    verdict, reason = judge(arm.published, reference and reference.published, ours, exact=not apart)
    if row.scale == "paper" and apart:
        verdict, reason = verdict or UNDECIDED, "; ".join(filter(None, (reason, apart)))
    return dataclasses.replace(row, verdict=verdict, reason=reason)
