"""What the page of a study says in words, before its tables."""

import statistics

from resnet.studies.folder import StudyFolder, no_rate
from resnet.studies.pages.rows import VALIDATION, ArmRow, Metric, images_of_arms
from resnet.studies.pages.statistics import smallest_p
from resnet.studies.stored import removed
from resnet.studies.study import value_at


def paragraphs(folder: StudyFolder, rows: list[ArmRow], metric: Metric) -> list[str]:
    """The paragraphs before the tables: source, recipe, what is missing or differs, how to read them."""
    source = f"Source: {', '.join(filter(None, (folder.paper, folder.table)))}." if folder.paper else ""
    gone = removed(folder.gone) if folder.gone else ""
    differing = *_without_rate(folder), gone, _other_images(folder, metric)
    texts = source, folder.note, _recipe(folder), *differing, _reading(rows, metric)
    return [text for text in texts if text]


def _recipe(folder: StudyFolder) -> str:
    """What every run has in common, and what that keeps the study from showing."""
    fields = ("data.name", "train.duration", "train.batch_size", "schedule.learning_rate")
    configs = [arm.config for arm in folder.arms.values()]
    data, duration, batch, rate = (
        " or ".join(dict.fromkeys(str(value_at(config, field)) for config in configs)) for field in fields
    )
    rates = f"at learning rate {rate}, tuned for no arm: one that needs another is at a disadvantage"
    if any(arm.learning_rates for arm in folder.arms.values()):
        by = min(folder.grid_seeds, len(folder.seeds))
        rates = (
            f"each arm at the best of its learning rates on the validation split, as {by} "
            f"seed{'s' * (by > 1)} had it"
        )
    text = f"Data: {data}; {duration} in batches of {batch}, {rates}."
    if folder.origin and folder.origin.scale == "small":
        text += (
            " This is the small scale: data, nets and training are smaller than the paper's, so it can show "
            "the direction of an effect and reproduces no number."
        )
    return text


def _other_images(folder: StudyFolder, metric: Metric) -> str:
    """Sentences about arms that were scored on several sets of images, or on others than their reference."""
    images, found = images_of_arms(folder, metric.split), []
    if mixed := [name for name, seen in images.items() if len(seen) > 1]:
        found.append(
            f"**Runs of one arm were scored on different {metric.split} images: {', '.join(mixed)}.** Their "
            "means are of neither."
        )
    pairs = [
        f"{name} and {other}"
        for name, other in ((name, arm.reference) for name, arm in folder.arms.items() if arm.reference)
        if images[name] and images[other] and images[name] != images[other]
    ]
    if pairs:
        found.append(
            f"**Scored on different {metric.split} images: {', '.join(pairs)}.** Their data differ as well."
        )
    return " ".join(found)


def _without_rate(folder: StudyFolder) -> list[str]:
    """A sentence for each arm whose grid leaves nothing to choose."""
    return [no_rate(name) for name in folder.arms if folder.has_no_rate(name)]


def _reading(rows: list[ArmRow], metric: Metric) -> str:
    """The paragraph on reading the tables: the meaning of their columns, and the limits of so few seeds."""
    compared = [row.comparison for row in rows if row.comparison]
    chosen = "nothing is selected on the test split"
    if metric.split == VALIDATION:
        chosen = "the data have no test images, and what was chosen on validation was chosen on these"
    text = (
        f"{metric.split.capitalize()} {metric.label.removesuffix(' (%)')} of the last epoch's weights, mean "
        f"± standard deviation over n seeds; {chosen}. Failed runs have no score: they are counted, and "
        "listed with their reasons."
    )
    if all(each.p is None for each in compared):
        return text
    tests, pairs = sum(each.p is not None for each in compared), max(each.n for each in compared)
    correlations = [each.correlation for each in compared if each.correlation is not None]
    bought = f" (their median correlation is {statistics.median(correlations):+z.2f})" if correlations else ""
    return text + (
        " Seed i of every arm sees the same batches and augmentation and starts from the same values of "
        f"the parameters it shares with the others, so that differences can be paired by seed{bought}: "
        "their mean, its 95 % interval by Student's t, and the interval as if no seed were common (Welch). "
        f"p (t) belongs to the first interval, p (Holm) is corrected for the {tests} comparisons here, and "
        f"p (signs) is the exact two-sided sign-flip test, which needs no normality: {pairs} pairs cannot "
        f'give it a p-value below {smallest_p(pairs):.4g}. "n shows" is the true difference that so many '
        "pairs of this spread tell from zero in 80 of 100 studies."
    )
