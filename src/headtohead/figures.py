"""The figures of a report, as SVG.

An arm has the same colour, line and marker in every figure, so that it is told apart without colour too. A
band is the 95 % t interval of the mean over seeds; on a logarithmic axis both are taken of the logarithms.

S steps, R runs (one per seed).
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from scipy import stats

from headtohead.predictions import Picked, Predictions, same_examples
from headtohead.predictions import confusion as confusion_counts

# Okabe and Ito (2008) without its yellow, which is too pale for lines on white. The numbers of colours, lines and
# markers have no common divisor, so that 140 arms differ.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#767676",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's font
    "text.parse_math": False,  # a name may hold a dollar sign
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
MUTED = "#767676"
WIDTH, PANEL = 7.6, 2.2  # inches: of a figure, and the height of its panels
AMBIGUOUS = 2.75  # inches: height of an example with its activations
MOST_CLASSES = 30  # of a confusion matrix: more cannot be read
MOST_POINTS = 1000  # per panel: more cannot be seen


@dataclass(frozen=True)
class Evidence:
    """What a study's figures are drawn from.

    Attributes:
        arms: their labels, in the order of the study.
        searched: rows of results.csv over the grid of learning rates.
        best: the learning rate of each arm.
        final: rows of results.csv that the arms are compared by, one per arm and seed.
        history: a row per logged step of each final run, as in history.csv, and the column `run`.
        curves: of the final runs, by name: `run.json`'s reliability and ambiguity per split.
        num_classes: None where the study does not tell; losses are then not normalised.
        target: validation accuracy to be reached, for the time to target.
        predictions: of the final runs that were tested, by name.
        picked: test examples to show.
        classes: their names.
    """

    arms: Sequence[str]
    searched: pd.DataFrame
    best: Mapping[str, float]
    final: pd.DataFrame
    history: pd.DataFrame
    curves: Mapping[str, Mapping[str, Any]]
    num_classes: int | None
    target: float | None
    predictions: Mapping[str, Predictions] = field(default_factory=dict)
    picked: Picked | None = None
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure: its name (of the file and in the text), what to look at, the SVG element, and what it was made from."""

    name: str
    title: str
    caption: str
    svg: str
    figure: Figure

    @property
    def png(self) -> bytes:
        """The figure as an image of 1,000 pixels across."""
        with mpl.rc_context():
            _set_style()
            FigureCanvasAgg(self.figure)
            sink = io.BytesIO()
            self.figure.savefig(sink, format="png", dpi=1000 / WIDTH, metadata={"Software": None})
            return sink.getvalue()


def draw(evidence: Evidence) -> list[Drawing]:
    """Every figure that the study has the records for."""
    drawings = [drawing(make.__name__, partial(make, evidence)) for make in FIGURES]
    return [drawn for drawn in drawings if drawn is not None]


def drawing(name: str, make: Callable[[], tuple[Figure, str] | None]) -> Drawing | None:
    """What `make` draws, a figure and its caption, in the style of all."""
    with mpl.rc_context():
        _set_style()
        drawn = make()
        if drawn is None:
            return None
        figure, caption = drawn
        return Drawing(name, figure.get_suptitle(), caption, _svg(figure, name), figure)


def _set_style() -> None:
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


def style(arms: Sequence[str], arm: str) -> dict[str, Any]:
    """Colour, line and marker of an arm."""
    index = list(arms).index(arm)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def band(values_SR: np.ndarray, log: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % t interval over runs, each (S,); NaN bounds for fewer than two. NaN is not measured."""
    values_SR = np.asarray(values_SR, dtype=float)
    if log:
        values_SR = np.log(np.where(values_SR > 0, values_SR, np.nan))
    frame = pd.DataFrame(values_SR)
    mean, count = frame.mean(axis=1).to_numpy(), frame.count(axis=1).to_numpy()
    half = np.full(len(mean), np.nan)
    many = count > 1
    deviation = frame.std(axis=1).to_numpy()[many]
    half[many] = stats.t.ppf(0.975, count[many] - 1) * deviation / np.sqrt(count[many])
    bounds = mean, mean - half, mean + half
    return tuple(np.exp(bound) for bound in bounds) if log else bounds


def learning_rates(evidence: Evidence) -> tuple[Figure, str] | None:
    """Validation accuracy and loss over the grid."""
    rows = evidence.searched
    rows = rows[rows.status != "failed"] if len(rows) else rows
    if len(rows) == 0 or rows.lr.nunique() < 2 or rows.lr.min() <= 0:
        return None
    figure, axes = _panels(2, "Validation accuracy and loss over the learning rate", evidence.arms)
    scale, loss = _loss(evidence)
    for place, (arm, runs) in enumerate(_by_arm(evidence, rows)):
        look = style(evidence.arms, arm)
        # Beside each other, lest an arm hide another.
        aside = 10 ** (0.025 * (place - (len(evidence.arms) - 1) / 2))
        for axis, column, factor, log in ((axes[0], "val_accuracy", 100, False), (axes[1], "val_nll", scale, True)):
            values_SR = factor * runs.pivot_table(index="lr", columns="seed", values=column, dropna=False)
            lrs = values_SR.index * aside
            mean = _line(axis, lrs, values_SR, look, log)
            chosen = values_SR.index == evidence.best.get(arm)
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": look["color"]}
            axis.plot(lrs[chosen], mean[chosen], linestyle="none", markeredgewidth=1.4, **ring)
    for axis in axes:
        _log(axis.xaxis, rows.lr)
        axis.set_xlabel("learning rate")
    axes[0].set(title="Accuracy", ylabel="validation accuracy, %")
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 104))
    axes[1].set(title="Negative log-likelihood", ylabel=f"validation {loss}")
    # What is far worse than a guess would hide the differences among what has learned.
    _log(axes[1].yaxis, most=2 if evidence.num_classes else math.inf)
    _guess(axes[1], evidence)
    return figure, (
        "Look at how wide each arm's plateau is, and whether its ring, the rate chosen on validation, "
        "lies inside the grid: on the edge a better rate may lie outside."
    )


def training(evidence: Evidence) -> tuple[Figure, str] | None:
    """Training and validation curves at each arm's best rate."""
    scale, loss = _loss(evidence)
    classes = evidence.num_classes
    panels = [
        ("train/accuracy", "Training accuracy", "accuracy, %", 100, 1 / classes if classes else None, False),
        ("val/accuracy", "Validation accuracy", "accuracy, %", 100, 1 / classes if classes else None, False),
        ("val/nll", "Validation loss", loss, scale, np.log(classes) if classes else None, True),
    ]
    title = "Training and validation at each arm's own learning rate"
    figure = _over_steps(evidence, title, panels)
    if figure is None:
        return None
    return figure, (
        "Look at how early the curves rise and where they end, a diverged run counting as a guess from there on: "
        "a training accuracy that keeps rising while the validation loss does too is overfitting."
    )


def gradients(evidence: Evidence) -> tuple[Figure, str] | None:
    """Gradient norms at the logits and of the backbone."""
    panels = [
        ("grad_norm/logits", "At the logits", "gradient norm", 1, None, True),
        ("grad_norm/backbone", "Backbone", "gradient norm", 1, None, True),
    ]
    figure = _over_steps(evidence, "Gradient norms during training", panels)
    if figure is None:
        return None
    return figure, (
        "Look at the ratio between arms at the first step, which the loss's scale and the initial bias set, "
        "and whether an arm's gradient dies away while its accuracy has yet to rise."
    )


def seeds(evidence: Evidence) -> tuple[Figure, str] | None:
    """Final test accuracy and loss, one line per seed between the arms."""
    final = evidence.final
    scale, loss = _loss(evidence)
    panels = [("test_accuracy", "Accuracy", "test accuracy, %", 100), ("test_nll", "Loss", f"test {loss}", scale)]
    panels = [panel for panel in panels if panel[0] in final and final[panel[0]].notna().any()]
    if not panels:
        return None
    figure, axes = _panels(len(panels), "Each seed under every arm, on the test set", evidence.arms, below=0.75)
    for axis, (column, title, label, factor) in zip(axes, panels, strict=True):
        table = final.pivot_table(index="seed", columns="arm", values=column)
        table = factor * table.reindex(columns=[arm for arm in evidence.arms if arm in table])
        places = np.arange(len(table.columns))
        axis.plot(places, table.T, color="#b5b5b5", linewidth=0.7, zorder=1)
        for place, arm in zip(places, table, strict=True):
            look = {**style(evidence.arms, arm), "linestyle": "none"}
            axis.plot(np.full(len(table), place), table[arm], alpha=0.75, markeredgewidth=0, **look)
            axis.hlines(table[arm].mean(), place - 0.25, place + 0.25, color="#111111", linewidth=1.8, zorder=3)
            lost = int(((final.arm == arm) & (final.status == "diverged")).sum())
            if lost:
                at = {"xycoords": ("data", "axes fraction"), "ha": "center", "color": "#111111"}
                axis.annotate(f"{lost} diverged", (place, 0.03), **at)
        # Runs that learned set the scale: a guess among them would flatten every other difference.
        learned = factor * final.loc[final.status == "finished", column].dropna()
        if len(learned):
            room = 0.15 * (np.ptp(learned) or abs(learned.iloc[0]) or 1)
            axis.set_ylim(learned.min() - room, learned.max() + room)
        # Of many arms the legend tells which is which.
        names = [short(arm, 24) if len(places) <= 6 else "" for arm in table]
        narrow = max(map(len, names)) * len(places) > 34
        angle = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if narrow else {}
        axis.set_xticks(places, names, **angle)
        axis.grid(False, axis="x")
        axis.set(title=title, ylabel=label, xlim=(-0.5, len(places) - 0.5))
    return figure, (
        "Look at the slopes: lines that nearly all rise or fall show a difference that every seed shares, lines "
        "that cross show luck, and the bars are means over seeds, in which a diverged run counts as a guess."
    )


def reliability(evidence: Evidence) -> tuple[Figure, str] | None:
    """Accuracy over confidence, and its gap per bin."""
    split, found = _curves(evidence, "reliability", "confidence", "accuracy")
    if not found:
        return None
    figure, axes = _panels(2, f"Reliability of the probabilities ({split} set)", evidence.arms)
    axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    axes[1].axhline(0, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    for arm, (confidence, accuracy) in found.items():
        look = style(evidence.arms, arm)
        axes[0].plot(band(confidence)[0], band(accuracy)[0], **look)
        _line(axes[1], np.arange(1, len(confidence) + 1), 100 * (accuracy - confidence), look)
    axes[0].set(title="Accuracy over confidence", xlabel="confidence", ylabel="accuracy")
    axes[1].set(title="Gap per bin", xlabel="bin, least to most confident", ylabel="accuracy - confidence, points")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (
        "Look at the distance from the dotted line, below which an arm is overconfident and above which it is "
        "underconfident: every bin holds the same number of examples, and probabilities sum to one."
    )


def ambiguity(evidence: Evidence) -> tuple[Figure, str] | None:
    """Shares of examples with no active class, and with several, over the threshold."""
    split, found = _curves(evidence, "ambiguity", "threshold", "none", "several")
    if not found:
        return None
    figure, axes = _panels(2, f"Ambiguous outputs over the threshold ({split} set)", evidence.arms)
    for arm, (threshold, *shares) in found.items():
        for axis, share in zip(axes, shares, strict=True):
            _line(axis, band(threshold)[0], 100 * share, style(evidence.arms, arm))
    axes[0].set(title="No class active", ylabel="share of examples, %")
    axes[1].set(title="Several classes active", ylabel="share of examples, %")
    for axis in axes:
        axis.set(xlabel="threshold of an active class", xlim=(0, 1))
        axis.set_ylim(bottom=0)
        axis.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    return figure, (
        "Look at the height at the dotted line, the usual threshold of 0.5, and at whether any "
        "threshold keeps both shares low; softmax cannot have several classes above 0.5."
    )


def time_to_target(evidence: Evidence) -> tuple[Figure, str] | None:
    """Share of seeds that have reached the target accuracy, over steps."""
    target = evidence.target
    tables = histories(evidence, "val/accuracy")
    if target is None or not tables:
        return None
    last = max(table.index.max() for table in tables.values())
    if last <= 0:
        return None
    title = f"Steps to a validation accuracy of {100 * target:.1f} %"
    figure, (axis,) = _panels(1, title, evidence.arms, right=2.3)
    for place, (arm, table) in enumerate(tables.items()):
        reached = (table >= target).to_numpy()
        # A run that never reaches the target stays in the denominator: censored, not dropped.
        first = np.sort(table.index.to_numpy()[reached.argmax(axis=0)][reached.any(axis=0)])
        share = 100 * np.arange(1, len(first) + 1) / table.shape[1]
        look = style(evidence.arms, arm)
        shares = np.r_[0, share, share[-1:] if len(share) else 0]
        axis.step(np.r_[0, first, last], shares, where="post", markevery=[len(shares) - 1], clip_on=False, **look)
        text = f"{short(arm, 20)}: {len(first)} of {table.shape[1]}"
        axis.annotate(text, (1.04, 0.95 - place * min(0.1, 1 / len(tables))), xycoords="axes fraction")
    axis.set(xlabel="step", ylabel="seeds that have reached it, %", ylim=(-3, 103), xlim=(0, last))
    _counts(axis)
    return figure, (
        "Look at which curve rises first and which stay below 100 %: those seeds never reached the "
        "target and are censored, not dropped."
    )


def confusion(evidence: Evidence) -> tuple[Figure, str] | None:
    """Predicted classes over labels."""
    runs = _predicted(evidence)
    shape = next(iter(runs.values()))[0].activations.shape if runs else (0, 0)
    if not runs or shape[1] > MOST_CLASSES:
        return None
    names = [short(_class(evidence, index), 9) for index in range(shape[1])]
    columns = min(len(runs), 2)
    rows = -(-len(runs) // columns)
    side = (WIDTH - 0.3) / 2
    figure = Figure((WIDTH, 0.5 + rows * side))
    FigureCanvasSVG(figure)
    figure.suptitle("Confusion of classes (test set)", x=0.12 / WIDTH, y=1 - 0.08 / figure.get_figheight(), ha="left")
    for place, (arm, said) in enumerate(runs.items()):
        count_KK = confusion_counts(said)
        share_KK = 100 * count_KK / count_KK.sum(1, keepdims=True).clip(1)
        left, top = (place % columns) * side + 0.75, 0.5 + (place // columns) * side
        size = side - 1.0
        axis = figure.add_axes(
            (
                left / WIDTH,
                1 - (top + 0.2 + size) / figure.get_figheight(),
                size / WIDTH,
                size / figure.get_figheight(),
            )
        )
        # Errors are a few percent: a square root lets them be seen beside the diagonal.
        axis.imshow(np.sqrt(share_KK), cmap="Greys", vmin=0, vmax=10)
        if shape[1] <= 12:
            for row, column in np.argwhere(count_KK > 0):
                share = share_KK[row, column]
                shade = {"color": "white" if share > 30 else "#111111", "ha": "center", "va": "center", "fontsize": 6}
                axis.text(column, row, f"{share:.0f}" if share >= 1 else f"{share:.1f}"[1:], **shade)
        axis.set_xticks(range(shape[1]), names, rotation=90, fontsize=6)
        axis.set_yticks(range(shape[1]), names, fontsize=6)
        axis.grid(False)
        axis.set_title(short(arm, 36), color=style(evidence.arms, arm)["color"], fontweight="bold")
        axis.set_xlabel("predicted", fontsize=7, labelpad=1)
        axis.set_ylabel("label", fontsize=7, labelpad=1)
    return figure, (
        "Look at the cells off the diagonal, the share in percent of a label's examples that went to another class, "
        "over all seeds: which classes are hard, and whether the same ones are hard for every arm."
    )


def ambiguous_examples(evidence: Evidence) -> tuple[Figure, str] | None:
    """The most ambiguous test examples and each arm's activations."""
    runs = _predicted(evidence)
    if not runs or evidence.picked is None:
        return None
    seen = min(len(run.label) for said in runs.values() for run in said)
    shown = [place for place, index in enumerate(evidence.picked.index) if index < seen]
    if not shown:
        return None
    labels = next(iter(runs.values()))[0].label
    figure, axes = _panels(1, "The most ambiguous test examples", evidence.arms, below=2 * AMBIGUOUS - PANEL)
    axes[0].remove()
    height = figure.get_figheight()
    for order, place in enumerate(shown):
        index = evidence.picked.index[place]
        left, bottom = 0.5 + (order % 4) * (WIDTH - 0.4) / 4, (1 - order // 4) * AMBIGUOUS
        means = {arm: np.mean([run.activations[index] for run in said], axis=0) for arm, said in runs.items()}
        # The classes that any arm finds most likely, and the label.
        likely = np.max(list(means.values()), axis=0).argsort()[::-1][:4].tolist()
        classes = sorted({*likely, int(labels[index])})
        image = figure.add_axes((left / WIDTH, (bottom + 1.5) / height, 1.3 / WIDTH, 0.95 / height))
        _show(image, evidence.picked.inputs[place])
        image.set_title(f"label {_class(evidence, labels[index])}", loc="center", fontsize=8)
        axis = figure.add_axes((left / WIDTH, (bottom + 0.42) / height, 1.3 / WIDTH, 0.95 / height))
        for position, (arm, mean_K) in enumerate(means.items()):
            aside = 0.5 * (position - (len(means) - 1) / 2) / max(len(means), 2)
            look = {**style(evidence.arms, arm), "linestyle": "none"}
            axis.plot(np.arange(len(classes)) + aside, mean_K[classes], **look)
        axis.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.set(ylim=(-0.04, 1.04), xlim=(-0.5, len(classes) - 0.5))
        axis.set_xticks(range(len(classes)), [short(_class(evidence, index), 9) for index in classes], fontsize=7)
        axis.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if order % 4 == 0 else [], fontsize=7)
        axis.grid(False, axis="x")
        if max(len(_class(evidence, index)) for index in classes) > 3:
            axis.tick_params(axis="x", rotation=30)
    return figure, (
        "Look at how many classes an arm puts above the dotted line, none or several with sigmoid, at most one with "
        "softmax: these are the examples whose two largest activations are closest, on average over arms and seeds."
    )


def _class(evidence: Evidence, index: int) -> str:
    return evidence.classes[index] if index < len(evidence.classes) else str(index)


def _show(axis: Axes, example: np.ndarray) -> None:
    """An image, or the features of a table's row as bars."""
    if example.ndim == 3:
        pixels = np.moveaxis(example, 0, -1).astype(float)
        # Some images have few grey levels.
        pixels = pixels / max(pixels.max(), 1)
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_axis_off()
    else:
        axis.bar(range(len(example)), example, color=MUTED)
        axis.set_xticks([])
        axis.tick_params(labelsize=6)


def _predicted(evidence: Evidence) -> dict[str, list[Predictions]]:
    """For each arm the predictions of its final runs, all of the same examples."""
    found = {
        arm: [evidence.predictions[run] for run in runs.run if run in evidence.predictions]
        for arm, runs in _by_arm(evidence, evidence.final)
    }
    found = {arm: runs for arm, runs in found.items() if runs}
    return found if found and same_examples(run for runs in found.values() for run in runs) else {}


FIGURES = (
    learning_rates,
    training,
    gradients,
    seeds,
    reliability,
    ambiguity,
    ambiguous_examples,
    confusion,
    time_to_target,
)


def _over_steps(evidence: Evidence, title: str, panels: Sequence[tuple]) -> Figure | None:
    """Panels (tag, title, label, factor, value after divergence, logarithmic) over the steps of the final runs."""
    tables = [histories(evidence, tag, lost) for tag, _, _, _, lost, _ in panels]
    panels = [(panel, table) for panel, table in zip(panels, tables, strict=True) if table]
    if not panels:
        return None
    figure, axes = _panels(len(panels), title, evidence.arms)
    for axis, ((_, heading, label, factor, _, log), table) in zip(axes, panels, strict=True):
        for arm, values_SR in table.items():
            points = min(len(values_SR), max(MOST_POINTS // len(table), 20))
            keep = np.linspace(0, len(values_SR) - 1, points).round().astype(int)
            values_SR = values_SR.iloc[keep]
            # Markers begin at other places, lest an arm hide another.
            start = 0.12 * evidence.arms.index(arm) / len(evidence.arms)
            look = {**style(evidence.arms, arm), "markevery": (start, 0.12)}
            _line(axis, values_SR.index, factor * values_SR, look, log)
        axis.set(title=heading, xlabel="step", ylabel=label)
        _counts(axis)
        if log:
            _log(axis.yaxis)
        elif factor == 100:
            axis.set_ylim(top=min(axis.get_ylim()[1], 101))
    return figure


def histories(evidence: Evidence, tag: str, lost: float | None = None) -> dict[str, pd.DataFrame]:
    """For each arm a tag of its final runs, (S, R); `lost` stands for it after a run has diverged."""
    if tag not in evidence.history:
        return {}
    measured = evidence.history[["run", "step", tag]].dropna().drop_duplicates(["run", "step"])
    values_SR = measured.pivot(index="step", columns="run", values=tag)
    tables = {}
    for arm, runs in _by_arm(evidence, evidence.final):
        table = values_SR[[run for run in runs.run if run in values_SR]]
        if lost is not None:
            ended = table.bfill().isna() & table.columns.isin(runs.run[runs.status == "diverged"])
            table = table.mask(ended, lost)
        table = table.dropna(how="all")
        if len(table):
            tables[arm] = table
    return tables


def _curves(evidence: Evidence, kind: str, *names: str) -> tuple[str, dict[str, list[np.ndarray]]]:
    """The split and, for each arm, the named curves of its final runs, (S, R) each; empty where there are none."""
    for split in ("test", "val"):
        found = {}
        for arm, runs in _by_arm(evidence, evidence.final):
            curves = [((evidence.curves.get(run) or {}).get(split) or {}).get(kind) for run in runs.run]
            curves = [curve for curve in curves if curve and all(curve.get(name) for name in names)]
            if curves:
                found[arm] = [pd.DataFrame([curve[name] for curve in curves]).T.to_numpy(float) for name in names]
        if found:
            return {"val": "validation"}.get(split, split), found
    return "", {}


def _by_arm(evidence: Evidence, rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(arm, rows[rows.arm == arm]) for arm in evidence.arms if len(rows) and (rows.arm == arm).any()]


def _loss(evidence: Evidence) -> tuple[float, str]:
    """Factor and name of a loss: an NLL of 1 is that of a guess."""
    if evidence.num_classes:
        return 1 / np.log(evidence.num_classes), "NLL / ln K"
    return 1.0, "NLL, nats"


def _panels(
    count: int, title: str, arms: Sequence[str], right: float = 0.1, below: float = 0.46
) -> tuple[Figure, list[Axes]]:
    """Panels side by side under their title and the legend of the arms; `right` and `below` stay free, in inches."""
    labels = [short(arm, 36) for arm in arms]
    columns = max(1, min(len(arms), 110 // (9 + max(map(len, labels), default=0))))
    rows = -(-len(arms) // columns)
    above = 0.64 + 0.19 * rows
    height = below + PANEL + above
    figure = Figure((WIDTH, height))
    FigureCanvasSVG(figure)
    figure.suptitle(title, x=0.12 / WIDTH, y=1 - 0.08 / height, ha="left", va="top")
    handles = [Line2D([], [], **style(arms, arm)) for arm in arms]
    place = {"loc": "upper left", "bbox_to_anchor": (0.04 / WIDTH, 1 - 0.24 / height)}
    figure.legend(handles, labels, **place, ncols=columns, frameon=False, handlelength=3.2)
    left, gap = 0.68, 0.76
    width = (WIDTH - left - right - (count - 1) * gap) / count
    frames = [(left + i * (width + gap), width) for i in range(count)]
    return figure, [figure.add_axes((x / WIDTH, below / height, w / WIDTH, PANEL / height)) for x, w in frames]


def _line(axis: Axes, x: Sequence[float], values_SR: Any, look: Mapping[str, Any], log: bool = False) -> np.ndarray:
    """A mean with its band; returns the mean."""
    x, (mean, lower, upper) = np.asarray(x, dtype=float), band(values_SR, log)
    shown = ~np.isnan(mean)
    axis.plot(x[shown], mean[shown], **look)
    axis.fill_between(x[shown], lower[shown], upper[shown], color=look["color"], alpha=0.18, linewidth=0)
    return mean


def _guess(axis: Axes, evidence: Evidence) -> None:
    if evidence.num_classes:
        axis.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.annotate("a guess", (0.01, 1), xycoords=("axes fraction", "data"), color=MUTED, va="bottom")


def _log(axis: Any, ticks: Sequence[float] | None = None, most: float = math.inf) -> None:
    """A logarithmic axis up to `most`, with plain numbers at 1, 2 and 5 of each of few decades, or at `ticks`."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_minor_locator(NullLocator())
    low, high = axis.get_view_interval()
    axis.set_view_interval(low, min(high, most), ignore=True)
    if ticks is not None:
        values = np.unique(np.asarray(ticks, dtype=float))
        axis.set_ticks(values[:: -(-len(values) // 8)])
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if min(high, most) < 300 * low else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _counts(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - most // 3 - 1]}…{text[-(most // 3) :]}"


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element that may stand beside others in one page."""
    mpl.rcParams["svg.hashsalt"] = name
    sink = io.StringIO()
    # No metadata: the same study gives the same bytes.
    figure.savefig(sink, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = sink.getvalue()
    svg = svg[svg.index("<svg") :]
    # A hundredth of a point is finer than any eye and any printer.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    # Names of elements are unique in a page, which holds every figure.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(r"^<svg ", f'<svg role="img" aria-label="{_attribute(figure.get_suptitle())}" ', svg)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
