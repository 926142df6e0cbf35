"""Metrics and verdicts in plain words.

A sentence of a verdict is the same on every page, in the terminal and in a notebook.
"""

import math
from dataclasses import dataclass

from headtohead.analysis.settings import AcrossSettings
from headtohead.analysis.text import capitalised, decimal, in_percent, num_decimals, split_shared
from headtohead.analysis.verdicts import ALPHA, Comparison

# Words for the higher and the lower value of what is counted.
COUNTED = ("more", "fewer")
SIZED = ("the larger", "the smaller")


@dataclass(frozen=True)
class Words:
    """Words for a metric.

    Attributes:
        noun: What an arm has more or less of: `test accuracy`.
        meaning: What is measured, in a few words; empty where nobody has said it.
        unit: Unit of a difference that is no share; empty for a ratio.
        comparatives: Words for the higher and the lower value.
        verb: What an arm does with it.
    """

    noun: str
    meaning: str = ""
    unit: str = ""
    comparatives: tuple[str, str] = ("the higher", "the lower")
    verb: str = "has"


# docs/metrics.md defines these.
METRICS = {
    "test_accuracy": Words("test accuracy", "share of test examples that get their own class"),
    "test_balanced_accuracy": Words("balanced test accuracy", "mean over the classes of the share that is recognised"),
    "test_macro_f1": Words("test F1", "mean over the classes of F1"),
    "test_exact_match": Words("exact matches", "share of test examples whose only active class is their own"),
    "test_nll": Words(
        "test loss",
        "mean negative log-likelihood (NLL) of a test example's class, by probabilities that can be compared between "
        "heads; a guess among K classes has ln K",
        "nats",
    ),
    "test_brier": Words("Brier score", "mean squared error of the probabilities of a test example"),
    "test_ece": Words("calibration error", "how far the confidence is from the share of right answers"),
    "test_ece_calibrated": Words(
        "calibration error after temperature scaling", "the calibration error once validation has set a temperature"
    ),
    "test_nll_calibrated": Words(
        "test loss after temperature scaling", "test loss once validation has set a temperature", "nats"
    ),
    "test_binary_accuracy": Words(
        "binary accuracy", "share of pairs of a test example and a class for which 'active' is right, as Keras counts"
    ),
    "test_selective_accuracy": Words(
        "accuracy where it is confident", "accuracy of the 90 % of the test examples with the highest confidence"
    ),
    "test_decided_99": Words(
        "decided test examples",
        "share of test examples whose confidence suffices for 99 % precision on validation",
        "",
        COUNTED,
    ),
    "test_rare_accuracy": Words(
        "accuracy on rare classes", "mean share that is recognised of the third of the classes with the fewest examples"
    ),
    "test_ambiguity_none": Words(
        "test examples with no active class", "share of test examples for which no output exceeds 0.5", "", COUNTED
    ),
    "test_ambiguity_several": Words(
        "test examples with several active classes",
        "share of test examples for which two outputs or more exceed 0.5",
        "",
        COUNTED,
    ),
    "gap_accuracy": Words("drop of accuracy", "training accuracy less test accuracy", "", SIZED),
    "gap_nll": Words("rise of loss", "test loss less training loss", "nats", SIZED),
    "shift_accuracy": Words(
        "accuracy on changed inputs", "accuracy on test inputs with noise, and blurred or paler if they are images"
    ),
    "shift_nll": Words("loss on changed inputs", "test loss on inputs with noise, and blurred or paler images", "nats"),
    "ood_auroc": Words("outlier detection", "chance that a test input has a higher confidence than an outlier"),
    "unknown_auroc": Words(
        "detection of unknown classes by confidence",
        "chance that a test input has a higher confidence than one of a class that was kept out of training",
    ),
    "unknown_activation_auroc": Words(
        "detection of unknown classes",
        "chance that a test input has a higher largest activation than one of a class that was kept out of training",
    ),
    "unknown_energy_auroc": Words(
        "detection of unknown classes by energy",
        "chance that a test input has a higher energy than one of a class that was kept out of training",
    ),
    "grad_norm_logits_init": Words(
        "first gradient at the outputs", "norm of the gradient at the logits before the first step", "", SIZED
    ),
    "grad_norm_backbone_init": Words(
        "first gradient in the layers below", "norm of the gradient below the classifier at the start", "", SIZED
    ),
    "backbone_cv": Words(
        "variation of the gradient",
        "standard deviation over mean, over the steps of a run, of the norm of the gradient below the classifier",
        "",
        SIZED,
    ),
    "coupling": Words(
        "coupling of the classes",
        "by how much raising one output lowers the others: 1 for softmax, 0 for classes that ignore each other",
        "",
        ("the stronger", "the weaker"),
    ),
    "loss_spikes": Words("jumps of the loss", "steps of a run whose loss is far above those before", "", COUNTED),
    "diverged_share": Words("diverged runs", "share of runs whose loss was no number any more", "", COUNTED),
    "stalled": Words(
        "stalled runs", "share of runs that went less than a tenth of the way from a guess to certainty", "", COUNTED
    ),
    "lr_sensitivity": Words(
        "sensitivity to the learning rate", "what a badly chosen learning rate costs in validation loss", "nats"
    ),
    "near_best_share": Words(
        "trials near its best", "share of trials at most one point of validation accuracy below the best", "", COUNTED
    ),
    "capped_nll": Words(
        "loss over all trials", "validation loss at settings that nobody chose, at most that of a guess", "nats"
    ),
    "seed_spread": Words(
        "spread over seeds", "distance of a seed's validation accuracy from the median over seeds", "", SIZED
    ),
    "epochs_to_target": Words(
        "epochs to the target", "epochs to 95 % of the best arm's validation accuracy", "epochs", COUNTED, "needs"
    ),
    "steps_to_target": Words(
        "steps to the target", "steps to 95 % of the best arm's validation accuracy", "steps", COUNTED, "needs"
    ),
}
ABBREVIATIONS = {"val": "validation", "nll": "loss", "f1": "F1", "lr": "learning rate", "auroc": "AUROC"}


def words_of(metric: str) -> Words:
    """Return the words for a metric; those of an unknown one follow from its name."""
    if metric in METRICS:
        return METRICS[metric]
    noun = " ".join(ABBREVIATIONS.get(part, part) for part in metric.split("_") if part)
    return Words(noun or metric, unit="nats" if metric.endswith("nll") else "")


def unit_of(metric: str) -> str:
    """Return the unit of a difference: `points` of a share, else that of the metric."""
    return "points" if in_percent(metric) else words_of(metric).unit


def comparative(metric: str, direction: str) -> str:
    """Return what the arm of the higher or lower value has: `the lower test loss`, `fewer diverged runs`."""
    words = words_of(metric)
    return f"{words.comparatives[direction == 'lower']} {words.noun}"


def short_name(metric: str, direction: str) -> str:
    """Name a claim by what the favoured arm is said to have: `lower test loss`."""
    return comparative(metric, direction).removeprefix("the ")


def chance(p: float) -> str:
    """Say how often equal arms would differ as much: `in 4 of 1,000 studies`."""
    if p < 0.001:
        return "in fewer than 1 of 1,000 studies"
    if p < 0.0995:
        return f"in {round(1000 * p)} of 1,000 studies"
    if p < 0.995:
        return f"in {round(100 * p)} of 100 studies"
    return "in every study"


def sentence(row: Comparison) -> str:
    """Say a verdict, or another comparison, in a sentence of plain words.

    How often chance gives such a difference is the p-value before any correction.
    """
    shared, (arm, other) = split_shared([row.arm, row.versus])
    if not row.seeds or math.isnan(row.difference):
        return f"{capitalised(row.note or 'not judged')}."
    if row.difference == 0 and row.error == 0:
        text = f"{arm} and {other} have exactly the same {words_of(row.metric).noun} in all {row.seeds} pairs"
    elif row.decision == "equivalent":
        text = _equivalent(row, arm, other)
    elif row.decision == "undecided":
        text = _undecided(row, arm, other)
    else:
        text = _decided(row, arm, other)
    where = f"over {row.settings} settings" if isinstance(row, AcrossSettings) else shared
    if where:
        return f"{capitalised(where) if where != shared else where}: {text}."
    # A name such as sigmoid_mean is no word: its first letter stays.
    names = [name for name in (arm, other) if not name.isalpha()]
    return f"{text if text.startswith(tuple(names)) else capitalised(text)}."


def remark(row: Comparison) -> str:
    """Say why the interval and the verdict seem to disagree; empty where they do not."""
    if not row.seeds or math.isnan(row.lower) or row.lower == row.upper:
        return ""
    excludes, decided = row.lower > 0 or row.upper < 0, row.p_corrected < ALPHA
    inside = row.margin is not None and -row.margin < row.lower and row.upper < row.margin
    alone = "it is one for this comparison alone, while the verdict allows for all that are tested together"
    if decided and not excludes:
        return "The interval contains 0 and the test finds a difference: the bounds are those of each share, and wide."
    if row.decision == "equivalent":
        return "" if inside else "The interval has two sides, and so reaches further than the tests against the margin."
    if row.decision != "undecided":
        return ""
    if excludes:
        return f"The interval leaves out 0: {alone}."
    return f"The interval lies within the margin: {alone}." if inside else ""


def _decided(row: Comparison, arm: str, other: str) -> str:
    ahead = arm if row.decision == "better" else f"{other}, not {arm},"
    text = f"{ahead} {words_of(row.metric).verb} {comparative(row.metric, row.direction)} by {_size(row)}"
    if row.weight == 0:
        return f"{text}; this follows from how the two are made"
    if math.isnan(row.p):
        return text
    return f"{text}; a difference this large would show up by chance {chance(row.p)}"


def _equivalent(row: Comparison, arm: str, other: str) -> str:
    margin = _margin(row)
    if row.p_corrected < ALPHA:
        return f"{_ahead(row, arm, other)}, which is real but too little to matter: less than {margin}"
    difference = f"the difference of {_size(row)} is shown to be less than {margin}"
    return f"{arm} and {other} are equivalent in {words_of(row.metric).noun}: {difference}"


def _undecided(row: Comparison, arm: str, other: str) -> str:
    words = words_of(row.metric)
    text = f"no difference in {words.noun} was shown between {arm} and {other}"
    if row.difference == 0:
        return f"{text}: they have the same mean"
    has = comparative(row.metric, row.direction)
    one = has.removesuffix(words.noun) + ("one" if has.startswith("the ") else "")
    text += f": {_ahead(row, arm, other, one.strip())}"
    if math.isnan(row.p):
        return f"{text}, without an interval that would tell how sure this is"
    if row.p < ALPHA:
        return (
            f"{text}, and such a difference would show up by chance {chance(row.p)}, but this is not rare enough where "
            f"so much is tested at once (p = {decimal(row.p_corrected, 3)} after the correction)"
        )
    return f"{text}, but a difference this large would show up by chance {chance(row.p)}"


def _ahead(row: Comparison, arm: str, other: str, what: str = "") -> str:
    """Say which arm has the value that the metric's direction asks for, and by how much."""
    first = (row.difference > 0) == (row.direction == "higher")
    what = what or comparative(row.metric, row.direction)
    return f"{arm if first else other} {words_of(row.metric).verb} {what} by {_size(row)}"


def _size(row: Comparison) -> str:
    """Format the size of a difference with its unit, with the decimals of the table: `0.03 nats`."""
    scale = 100 if in_percent(row.metric) else 1
    digits = num_decimals(scale * (row.upper - row.lower) / 2, scale * abs(row.difference))
    size = decimal(scale * abs(row.difference), digits)
    if row.difference and not size.strip("0."):
        size = f"less than {10**-digits:.{digits}f}"
    return with_unit(size, row.metric)


def _margin(row: Comparison) -> str:
    scale = 100 if in_percent(row.metric) else 1
    return with_unit(f"{scale * (row.margin or math.nan):g}", row.metric)


def with_unit(number: str, metric: str) -> str:
    """Return a formatted number of a metric with its unit: `0.03 nats`, `1 point`."""
    unit = unit_of(metric)
    return f"{number} {unit.removesuffix('s') if number.split()[-1] == '1' else unit}".rstrip()
