"""What our numbers say of a published claim, decided by rule and not by hand."""

import dataclasses

from resnet.studies.study import Published

POINTS = 0.5
REPRODUCED = f"reproduced within {POINTS:g} points"
BEYOND = "reproduced: beyond the bound"
ORDERING = "ordering reproduced"
NOT = "not reproduced"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, BEYOND, ORDERING, NOT, NOT_RUN)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An arm over its seeds; test errors in percent."""

    error: float | None
    """Mean of the runs that finished; None if none did."""
    n: int
    failed: int
    difference: float | None
    """Mean of arm minus reference over common seeds; None for a reference arm."""
    low: float | None
    """Ends of its 95 % interval; None for one seed."""
    high: float | None


def judge(claim: Published, reference: Published | None, ours: Outcome, *, exact: bool) -> tuple[str, str]:
    """(verdict, reason); ("", "") if the claim cannot be compared with these runs.

    `reference` is the claim of the reference arm. Runs of the paper's net on its data for its number of
    steps at its learning rate are `exact`: their errors compare with its own. Of others, only the order of
    two arms does, and it counts as reproduced if the interval of the paired difference leaves out zero; the
    reason then says how large both differences are.
    """
    if exact and claim.above is not None:
        beyond = ours.error is None or ours.error > claim.above
        reason = f"{ours.failed} of {ours.n + ours.failed} runs failed" if ours.failed else ""
        return (BEYOND, reason) if beyond else (NOT, f"the error stays below {claim.above:g} %")
    if exact and claim.error is not None and ours.error is not None:
        off = ours.error - claim.error
        if abs(off) <= POINTS:
            return REPRODUCED, f"{off:+.2f} points"
        # What misses the number may still have the order.
        verdict, reason = _order(claim, reference, ours)
        missed = f"{off:+.2f} points off"
        return (ORDERING, f"{missed}; {reason}") if verdict == ORDERING else (NOT, missed)
    return _order(claim, reference, ours)


def expected_sign(claim: Published, reference: Published | None) -> int:
    """+1 if the paper has a higher error for the arm than for its reference, -1 for a lower, else 0."""
    if claim.than_reference:
        return 1 if claim.than_reference == "worse" else -1
    if reference is None or reference.error is None:
        return 0
    if claim.error is not None:
        return (claim.error > reference.error) - (claim.error < reference.error)
    return int(claim.above is not None and claim.above > reference.error)


def _order(claim: Published, reference: Published | None, ours: Outcome) -> tuple[str, str]:
    sign = expected_sign(claim, reference)
    if not sign:
        return "", ""
    wanted = "higher" if sign > 0 else "lower"
    if ours.error is None:
        failed = f"all {ours.failed} runs failed"
        return (ORDERING, failed) if sign > 0 else (NOT, failed)
    if ours.difference is None:
        return NOT, "the reference has no finished run"
    if ours.low is None or ours.high is None or ours.low <= 0 <= ours.high:
        return NOT, f"{wanted} error expected; the difference is not told from zero"
    if (ours.difference > 0) == (sign > 0):
        sizes = [f"{ours.difference:+.2f} points", _published_difference(claim, reference)]
        return ORDERING, f"{wanted} error, as published: {', '.join(filter(None, sizes))}"
    return NOT, f"{wanted} error expected; it is the other way round"


def _published_difference(claim: Published, reference: Published | None) -> str:
    """ "the paper +2.12"; empty where the paper has no numbers of both."""
    number = claim.above if claim.error is None else claim.error
    if number is None or reference is None or reference.error is None:
        return ""
    return f"the paper {'more than ' * (claim.error is None)}{number - reference.error:+.2f}"


def as_text(ours: Outcome) -> str:
    """ "+1.20 (+0.40 to +2.10)"."""
    if ours.difference is None:
        return ""
    held = ours.low is not None and ours.high is not None
    return f"{ours.difference:+.2f}" + (f" ({ours.low:+.2f} to {ours.high:+.2f})" if held else "")
