"""The figures of a report that show what runs said of test examples."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from headtohead.analysis.predictions import Predictions, same_examples
from headtohead.analysis.predictions import confusion as confusion_counts
from headtohead.report.figures.evidence import Evidence, by_arm
from headtohead.report.figures.style import MUTED, PANEL, WIDTH, lay_out, short, style

AMBIGUOUS = 2.75  # inches: height of an example with its activations
MOST_CLASSES = 30  # of a confusion matrix: more cannot be read


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
    figure, axes = lay_out(1, "The most ambiguous test examples", evidence.arms, below=2 * AMBIGUOUS - PANEL)
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
        for arm, runs in by_arm(evidence, evidence.final)
    }
    found = {arm: runs for arm, runs in found.items() if runs}
    return found if found and same_examples(run for runs in found.values() for run in runs) else {}
