"""Figures of the predictions on test examples.

N examples, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from headtohead.analysis.predictions import Predictions, confusion_counts, same_examples
from headtohead.analysis.study import Study
from headtohead.report.figures.style import DOTTED, MUTED, PANEL, WIDTH, Drawn, arm_style, lay_out, short

EXAMPLE_HEIGHT = 2.75  # inches, of an example with its activations
EXAMPLES_ACROSS = 4
# Features of an example with a bar each, and those of a line.
MOST_BARS, MOST_POINTS = 100, 1000
MOST_CLASSES = 30  # of a confusion matrix: more cannot be read


def confusion(study: Study) -> Drawn:
    """Draw the predicted classes over the labels, a matrix per arm."""
    predictions = _predictions_by_arm(study)
    classes = next(iter(predictions.values()))[0].activations.shape[1] if predictions else 0
    if not predictions or classes > MOST_CLASSES:
        return None
    names = [short(_class_name(study, index), 9) for index in range(classes)]
    across = min(len(predictions), 2)
    side = (WIDTH - 0.3) / 2
    height = 0.5 + -(-len(predictions) // across) * side
    figure = Figure((WIDTH, height))
    FigureCanvasSVG(figure)
    figure.suptitle("Confusion of classes (test set)", x=0.12 / WIDTH, y=1 - 0.08 / height, ha="left")
    size = side - 1.0
    for place, (arm, runs) in enumerate(predictions.items()):
        left, top = (place % across) * side + 0.75, 0.5 + (place // across) * side
        frame = (left / WIDTH, 1 - (top + 0.2 + size) / height, size / WIDTH, size / height)
        axis = figure.add_axes(frame)
        _draw_confusion(axis, confusion_counts(runs), names)
        axis.set_title(short(arm, 36), color=arm_style(study.arms, arm)["color"], fontweight="bold")
    return figure, (
        "Look at the cells off the diagonal: the share of a label's examples, in percent, that went to another class, "
        "over all seeds. They show which classes are hard, and whether these are hard for every arm."
    )


def _draw_confusion(axis: Axes, count_KK: np.ndarray, names: Sequence[str]) -> None:
    classes = len(count_KK)
    share_KK = 100 * count_KK / count_KK.sum(1, keepdims=True).clip(1)
    # Errors are a few percent: a square root makes them visible beside the diagonal.
    axis.imshow(np.sqrt(share_KK), cmap="Greys", vmin=0, vmax=10)
    if classes <= 12:
        for label, predicted in np.argwhere(count_KK > 0):
            share = share_KK[label, predicted]
            shade = {"color": "white" if share > 30 else "#111111", "ha": "center", "va": "center", "fontsize": 6}
            axis.text(predicted, label, f"{share:.0f}" if share >= 1 else f"{share:.1f}"[1:], **shade)
    axis.set_xticks(range(classes), names, rotation=90, fontsize=6)
    axis.set_yticks(range(classes), names, fontsize=6)
    axis.grid(False)
    axis.set_xlabel("predicted", fontsize=7, labelpad=1)
    axis.set_ylabel("label", fontsize=7, labelpad=1)


def ambiguous_examples(study: Study) -> Drawn:
    """Draw the most ambiguous test examples, each with the activations of every arm."""
    predictions, examples = _predictions_by_arm(study), study.examples
    if not predictions or examples is None:
        return None
    activations = {arm: _activations(runs, examples.example) for arm, runs in predictions.items()}
    shown = [place for place, found in enumerate(zip(*activations.values(), strict=True)) if all(map(len, found))]
    if not shown:
        return None
    labels = {
        number: label
        for runs in predictions.values()
        for run in runs
        for number, label in zip(run.example.tolist(), run.label.tolist(), strict=True)
    }
    figure, axes = lay_out(1, "The most ambiguous test examples", study.arms, below=2 * EXAMPLE_HEIGHT - PANEL)
    axes[0].remove()
    height = figure.get_figheight()
    for order, place in enumerate(shown):
        down, across = divmod(order, EXAMPLES_ACROSS)
        left, bottom = 0.5 + across * (WIDTH - 0.4) / EXAMPLES_ACROSS, (1 - down) * EXAMPLE_HEIGHT
        label = labels[int(examples.example[place])]
        image = figure.add_axes((left / WIDTH, (bottom + 1.5) / height, 1.3 / WIDTH, 0.95 / height))
        _draw_input(image, examples.inputs[place])
        image.set_title(f"label {_class_name(study, label)}", loc="center", fontsize=8)
        axis = figure.add_axes((left / WIDTH, (bottom + 0.42) / height, 1.3 / WIDTH, 0.95 / height))
        means = {arm: of_arm[place].mean(axis=0) for arm, of_arm in activations.items()}
        _draw_activations(axis, study, means, label)
        axis.set_yticks([0, 0.5, 1], ["0", ".5", "1"] if across == 0 else [], fontsize=7)
    return figure, (
        "Look at how many classes an arm puts above the dotted line: none or several with sigmoid, at most one with "
        "softmax. The two largest activations of these examples are the closest, on average over arms and seeds."
    )


def _activations(runs: Sequence[Predictions], examples: np.ndarray) -> list[np.ndarray]:
    """Return for each example its activations by the runs that tested it, (R, K)."""
    return [np.concatenate([run.activations[run.example == number] for run in runs]) for number in examples.tolist()]


def _draw_activations(axis: Axes, study: Study, means: Mapping[str, np.ndarray], label: int) -> None:
    """Draw each arm's mean activations, (K,), of the likely classes and the label."""
    likely = np.max(list(means.values()), axis=0).argsort()[::-1][:4].tolist()
    classes = sorted({*likely, label})
    for position, (arm, mean_K) in enumerate(means.items()):
        aside = 0.5 * (position - (len(means) - 1) / 2) / max(len(means), 2)
        look = {**arm_style(study.arms, arm), "linestyle": "none"}
        axis.plot(np.arange(len(classes)) + aside, mean_K[classes], **look)
    axis.axhline(0.5, **DOTTED)
    axis.set(ylim=(-0.04, 1.04), xlim=(-0.5, len(classes) - 0.5))
    names = [_class_name(study, index) for index in classes]
    axis.set_xticks(range(len(classes)), [short(name, 9) for name in names], fontsize=7)
    axis.grid(False, axis="x")
    if max(map(len, names)) > 3:
        axis.tick_params(axis="x", rotation=30)


def _draw_input(axis: Axes, example: np.ndarray) -> None:
    """Draw an image, or the features of a table's row as bars."""
    if example.ndim == 3:
        pixels: Any = np.moveaxis(example, 0, -1).astype(float)
        # Some images have few grey levels.
        pixels = pixels / max(pixels.max(), 1)
        axis.imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_axis_off()
    else:
        # Thousands of bars would take minutes, and none could be seen.
        if len(example) <= MOST_BARS:
            axis.bar(range(len(example)), example, color=MUTED)
        else:
            kept = np.linspace(0, len(example) - 1, min(len(example), MOST_POINTS)).round().astype(int)
            axis.plot(kept, example[kept], color=MUTED, linewidth=0.6)
        axis.set_xticks([])
        axis.tick_params(labelsize=6)


def _class_name(study: Study, index: int) -> str:
    classes = study.record.classes
    return classes[index] if index < len(classes) else str(index)


def _predictions_by_arm(study: Study) -> dict[str, list[Predictions]]:
    """Return for each arm the predictions of its final runs; empty where they are not of the same examples."""
    predictions = {
        arm: [study.predictions[run] for run in runs.run if run in study.predictions]
        for arm, runs in study.by_arm(study.final)
    }
    predictions = {arm: runs for arm, runs in predictions.items() if runs}
    together = [run for runs in predictions.values() for run in runs]
    return predictions if together and same_examples(together) else {}
