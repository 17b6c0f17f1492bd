"""What our numbers say of a published claim, decided by rule and not by hand."""

import dataclasses

from resnet.studies.study import Published

REPRODUCED, REVERSED, UNDECIDED, NOT_RUN = "reproduced", "reversed", "undecided", "not run"
VERDICTS = (REPRODUCED, REVERSED, UNDECIDED, NOT_RUN)
POINTS = 0.5
"""How close an error must come to the published one, where runs are those of the paper."""
LEVEL = 0.05
"""Of the t test of a difference, corrected by Holm over the effects in the ledger."""
TIMES = 3.0
"""A difference is of the published size if its interval holds a value within this factor of it."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An arm over its seeds; test errors in percent."""

    error: float | None
    """Mean of the runs that finished; None if none did."""
    n: int
    failed: int
    runs: int
    """Runs that ended: `n` and `failed`, or all runs of the grid if it gave no learning rate."""
    reference_n: int | None
    """Runs of the reference that finished; None for a reference arm."""
    difference: float | None
    """Mean of arm minus reference over common seeds; None for a reference arm."""
    pairs: int | None
    """Seeds that both finished."""
    low: float | None
    """Ends of its 95 % interval; None without a spread to estimate it from."""
    high: float | None
    detectable: float | None
    """The true difference that these runs would show in 80 of 100 studies, as the only comparison."""
    p: float | None
    """Of the difference, corrected over the ledger."""


def judge(claim: Published, reference: Published | None, ours: Outcome, *, exact: bool) -> tuple[str, str]:
    """(verdict, reason); ("", "") if the claim cannot be compared with these runs.

    `reference` is the claim of the reference arm. Runs of the paper's net on its data for its number of
    steps at its learning rate are `exact`: their errors compare with its own, and no run may have failed.
    Of others only the order of two arms does, and the size of their difference.
    """
    if exact and claim.above is not None:
        return _bound(claim.above, ours)
    order = _order(claim, reference, ours)
    if exact and claim.error is not None and ours.error is not None:
        return _number(claim.error, order, ours, expected_sign(claim, reference))
    return order


def expected_sign(claim: Published, reference: Published | None) -> int:
    """+1 if the paper has a higher error for the arm than for its reference, -1 for a lower, else 0."""
    if claim.than_reference:
        return 1 if claim.than_reference == "worse" else -1
    if reference is None or reference.error is None:
        return 0
    if claim.error is not None:
        return (claim.error > reference.error) - (claim.error < reference.error)
    return int(claim.above is not None and claim.above > reference.error)


def published_difference(claim: Published, reference: Published | None) -> tuple[float | None, bool]:
    """(arm minus reference in the paper, whether that is a lower bound); None without numbers of both."""
    number = claim.above if claim.error is None else claim.error
    if number is None or reference is None or reference.error is None:
        return None, False
    return number - reference.error, claim.error is None


def _bound(above: float, ours: Outcome) -> tuple[str, str]:
    """The verdict on an error that is at least so high; a failed run is one beyond every bound."""
    failed = f"{ours.failed} of {ours.n + ours.failed} runs failed" if ours.failed else ""
    if ours.error is None or ours.error > above:
        return REPRODUCED, failed or f"the error is {ours.error:.2f} %"
    if failed:
        return UNDECIDED, f"the error of the others stays below {above:g} %; {failed}"
    return REVERSED, f"the error stays below {above:g} %"


def _number(published: float, order: tuple[str, str], ours: Outcome, sign: int) -> tuple[str, str]:
    """The verdict on an error, which must be the paper's, in its order, and without failed runs."""
    assert ours.error is not None
    off, (verdict, reason) = ours.error - published, order
    text = f"{off:+z.2f} points off the published error"
    if ours.failed:
        return UNDECIDED, f"{text}; {ours.failed} of {ours.n + ours.failed} runs failed"
    if verdict == REVERSED:
        return REVERSED, f"{text}; {reason}"
    if sign and (ours.difference is None or ours.difference * sign <= 0):
        return UNDECIDED, f"{text}; the order of the two arms is not the published one"
    if abs(off) <= POINTS:
        return REPRODUCED, text
    return UNDECIDED, f"{text}; {reason}" if verdict == REPRODUCED else text


def _order(claim: Published, reference: Published | None, ours: Outcome) -> tuple[str, str]:
    """The verdict on which of two arms has the lower error, and on how far they lie apart."""
    sign = expected_sign(claim, reference)
    if not sign:
        return "", ""
    wanted = "higher" if sign > 0 else "lower"
    text = f"{ours.failed} of {ours.runs} runs failed, and a {wanted} error is expected"
    if ours.failed and ours.error is None:
        if ours.failed < ours.runs:
            return UNDECIDED, f"{text}; no learning rate could be chosen"
        if not ours.reference_n:
            return UNDECIDED, f"{text}; no run of its reference finished"
        return (REPRODUCED if sign > 0 else REVERSED), text
    if ours.failed and sign < 0:
        return UNDECIDED, text
    if ours.difference is None:
        return UNDECIDED, "no seed of it has a finished run beside its reference's"
    if ours.p is None or ours.p >= LEVEL:
        return UNDECIDED, f"{wanted} error expected; {_what_would_show(ours)}"
    if left_out := _failures_left_out(ours):
        return UNDECIDED, f"{wanted} error expected; the difference leaves out {left_out}"
    if ours.difference * sign < 0:
        return REVERSED, f"{wanted} error expected; the difference is {ours.difference:+z.2f} points"
    return _size(claim, reference, ours, wanted)


def _failures_left_out(ours: Outcome) -> str:
    """Names the failed runs that a difference leaves out and that speak against it; "" if there are none.

    A failed run counts as an error larger than all others.
    """
    assert ours.difference is not None and ours.pairs is not None
    if ours.difference > 0 and ours.n > ours.pairs:
        return f"{ours.n - ours.pairs} runs of the reference, which failed"
    if ours.difference < 0 and ours.failed:
        return f"{ours.failed} runs of the arm, which failed"
    return ""


def _what_would_show(ours: Outcome) -> str:
    if ours.p is None or ours.detectable is None:
        return f"{ours.pairs} runs without a spread do not tell a difference from zero"
    return (
        f"p = {ours.p:.2g} over the ledger; as the only comparison, {ours.pairs} runs of this spread would "
        f"show a difference of {ours.detectable:.2f} points"
    )


def _size(claim: Published, reference: Published | None, ours: Outcome, wanted: str) -> tuple[str, str]:
    """Whether a difference that has the published order has the published size as well."""
    assert ours.difference is not None and ours.low is not None and ours.high is not None
    published, bound = published_difference(claim, reference)
    text = f"{wanted} error, as published: {ours.difference:+z.2f} points"
    if published is None:
        return REPRODUCED, f"{text}; the paper gives no size"
    sign = 1 if published > 0 else -1
    nearest, farthest = sorted((ours.low * sign, ours.high * sign))
    size = abs(published)
    fits = farthest >= size / TIMES and (bound or nearest <= size * TIMES)
    text += f", the paper {'more than ' * bound}{published:+z.2f}"
    return (REPRODUCED, text) if fits else (UNDECIDED, f"{text}: the order is the paper's, the size is not")


def as_text(difference: float | None, low: float | None, high: float | None) -> str:
    """ "+1.20 (+0.40 to +2.10)"."""
    if difference is None:
        return ""
    return f"{difference:+z.2f}" + (f" ({low:+z.2f} to {high:+z.2f})" if low is not None else "")
