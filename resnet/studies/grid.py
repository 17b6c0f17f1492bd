"""The learning rate that an arm chooses on validation; a grid goes on beyond an end that wins.

Where no rate of the grid trains, lower ones are tried: a rate that is too high is the ordinary reason.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from resnet.runs.checkpoints.checkpoint import score

FACTOR = 2.0
"""By which a grid goes on beyond an end that wins."""
MOST_FURTHER = 3
"""Rates beyond each end of the grid in the study's file."""
# Means over seeds of one accuracy differ in the last bits: no two counts of images lie so close together.
TIE = 1e-9

Score = tuple[float, float]
"""Accuracy (or minus the mean absolute error) and minus the loss: the second decides where the first ties."""
NO_SCORE: Score = (float("-inf"), float("-inf"))


def score_of(results: Sequence[Mapping[str, Any]]) -> Score:
    """Mean scores on validation of the runs at one rate; NO_SCORE where one has none, since it failed."""
    validations = [result.get("validation") or {} for result in results]
    if not all(v.get("top1") is not None or v.get("mae") is not None for v in validations):
        return NO_SCORE
    losses = [-v["loss"] if v.get("loss") is not None else NO_SCORE[1] for v in validations]
    return statistics.mean(map(score, validations)), statistics.mean(losses)


def best(scores: Mapping[float, Score]) -> float | None:
    """The rate of highest accuracy, where several tie that of lowest loss; None where none has a score."""
    highest = max(accuracy for accuracy, _ in scores.values())
    if highest == NO_SCORE[0]:
        return None
    tied = [rate for rate, (accuracy, _) in scores.items() if accuracy >= highest - TIE]
    return max(tied, key=lambda rate: scores[rate][1])


def further(scores: Mapping[float, Score], given: Sequence[float]) -> float | None:
    """The next rate to try: beyond the end that won, as long as one does; None where the choice is made.

    Below the lowest where none has a score. `given` are the rates of the study's file. A grid of one rate is
    a rate, and stays one.
    """
    if len(given) < 2:
        return None
    chosen = best(scores) or min(scores)
    if chosen == max(scores) and sum(rate > max(given) for rate in scores) < MOST_FURTHER:
        return chosen * FACTOR
    if chosen == min(scores) and sum(rate < min(given) for rate in scores) < MOST_FURTHER:
        return chosen / FACTOR
    return None
