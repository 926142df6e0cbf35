"""Figures of the predictions on test examples.

N examples, K classes.
"""

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from headtohead.analysis.predictions import Predictions, confusion_counts, same_examples
from headtohead.analysis.study import Study
from headtohead.report.figures.layers import arm_look, at, axis, digits, line_at, named_axis, near, panel, told
from headtohead.report.figures.style import INK, PAPER, SOFT, Drawn, Figure, Row, View, keys, short

EXAMPLE, IMAGE = 230, 84  # pixels: the heights of an example with its activations, and of its image
# Features of an example with a bar each, and those of a line.
MOST_BARS, MOST_POINTS = 100, 400
MOST_CLASSES = 30  # of a confusion matrix: more cannot be read
CELLS_WITH_TEXT = 12  # classes of a confusion matrix whose cells have room for numbers


def confusion(study: Study) -> Drawn:
    """Draw the predicted classes over the labels, a matrix per arm."""
    predictions = _predictions_by_arm(study)
    classes = next(iter(predictions.values()))[0].activations.shape[1] if predictions else 0
    if not predictions or classes > MOST_CLASSES:
        return None
    names = [short(_class_name(study, index), 9) for index in range(classes)]
    panels = [
        panel(short(arm, 36), _confusion(confusion_counts(runs), names), 270) for arm, runs in predictions.items()
    ]
    return Figure(
        "Confusion of classes (test set)",
        "Look at the cells off the diagonal: the share of a label's examples, in percent, that went to another class, "
        "over all seeds. They show which classes are hard, and whether these are hard for every arm.",
        panels,
        across=2,
        names=study.arms,
        left=88,
    )


def _confusion(count_KK: np.ndarray, names: Sequence[str]) -> list[View]:
    share_KK = 100 * count_KK / count_KK.sum(1, keepdims=True).clip(1)
    cells = [
        {
            "label": label,
            "predicted": predicted,
            "share": digits(share_KK[label, predicted]),
            # Errors are a few percent: a square root makes them visible beside the diagonal.
            "shade": digits(math.sqrt(share_KK[label, predicted])),
            "text": _percent(share_KK[label, predicted]),
            "class": f"{names[label]} taken for {names[predicted]}",
        }
        for label, predicted in np.argwhere(count_KK > 0).tolist()
    ]
    look = {"labelFontSize": 10}
    encoding = {
        "x": at(named_axis("predicted", names, **look | {"labelAngle": -90}), "predicted"),
        "y": at(named_axis("label", names, **look), "label"),
    }
    shade = {
        "field": "shade",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 10], "range": [PAPER, INK]},
    }
    of = {"label taken for class": "class", "share of the label, %": "share"}
    layers: list[View] = [
        {"mark": {"type": "rect"}, "encoding": {**encoding, "color": shade, "tooltip": told(of, arm=False)}}
    ]
    if len(names) <= CELLS_WITH_TEXT:
        ink = {"condition": {"test": "datum.share > 30", "value": PAPER}, "value": INK}
        layers.append({
            "mark": {"type": "text", "fontSize": 9.5, "baseline": "middle"},
            "encoding": {**encoding, "text": {"field": "text"}, "color": ink},
        })  # fmt: skip
    return [{"data": {"values": cells}, "layer": layers}]


def _percent(share: float) -> str:
    return f"{share:.0f}" if share >= 1 else f"{share:.1f}"[1:]


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
    panels = [
        _example(study, examples.inputs[place], labels[int(examples.example[place])],
                 {arm: of_arm[place].mean(axis=0) for arm, of_arm in activations.items()})
        for place in shown
    ]  # fmt: skip
    return Figure(
        "The most ambiguous test examples",
        "Look at how many classes an arm puts above the dotted line: none or several with sigmoid, at most one with "
        "softmax. The two largest activations of these examples are the closest, on average over arms and seeds.",
        panels,
        keys(study.arms),
        across=4,
        names=study.arms,
        left=40,
        least=165,
    )


def _activations(runs: Sequence[Predictions], examples: np.ndarray) -> list[np.ndarray]:
    """Return for each example its activations by the runs that tested it, (R, K)."""
    return [np.concatenate([run.activations[run.example == number] for run in runs]) for number in examples.tolist()]


def _example(study: Study, inputs: np.ndarray, label: int, means: Mapping[str, np.ndarray]) -> View:
    """Return the panel of an example: its input, and below it each arm's mean activations, (K,), of likely classes."""
    likely = np.max(list(means.values()), axis=0).argsort()[::-1][:4].tolist()
    classes = sorted({*likely, label})
    names = [short(_class_name(study, index), 9) for index in classes]
    rows: list[Row] = []
    for position, (arm, mean_K) in enumerate(means.items()):
        aside = 0.5 * (position - (len(means) - 1) / 2) / max(len(means), 2)
        rows += [
            {
                "arm": study.arms.index(arm),
                "x": place + aside,
                "place": place,
                "y": digits(mean_K[index]),
                "class": names[place],
            }
            for place, index in enumerate(classes)
            if math.isfinite(mean_K[index])
        ]
    # The input has the room above 1.
    top = 1.04 + 1.08 * (IMAGE + 8) / (EXAMPLE - IMAGE - 8)
    y = axis("activation", (-0.04, top), (0, 0.5, 1), titleAnchor="start", gridOpacity=0.6)
    x = axis(None, (-0.5, len(classes) - 0.5), range(len(classes)), grid=False, labelFontSize=10.5)
    x["axis"] |= {"labelExpr": named_axis(None, names)["axis"]["labelExpr"]}
    if max(map(len, names)) > 3:
        x["axis"] |= {"labelAngle": -30}
    encoding = {"x": at(x, "x"), "y": at(y, "y")}
    layers: list[View] = [
        line_at("y", 0.5, y),
        {"data": {"values": rows}, "mark": {"type": "point", "filled": True, "size": 30, "opacity": 1},
         "encoding": {**encoding, **arm_look(len(study.arms), shapes=True)}},
        {"data": {"values": rows}, **near(encoding, {"class": "class", "mean activation": "y"})},
    ]  # fmt: skip
    given = _picture(inputs) if inputs.ndim == 3 else _features(inputs)
    return panel(
        f"label {short(_class_name(study, label), 18)}", [{"layer": layers}, given], EXAMPLE,
        resolve={"scale": {"x": "independent", "y": "independent"}},
    )  # fmt: skip


def _picture(pixels_CHW: np.ndarray) -> View:
    """Return the layer of an image."""
    pixels = np.moveaxis(pixels_CHW, 0, -1).astype(float)
    # Some images have few grey levels.
    shades = (255 * (pixels / max(pixels.max(), 1)).clip(0, 1)).astype(np.uint8)
    shades = shades if shades.shape[-1] == 3 else 255 - shades[..., :1]
    # Each pixel is shown as a square.
    times = max(1, IMAGE // max(shades.shape[:2]))
    shades = shades.repeat(times, axis=0).repeat(times, axis=1)
    width = IMAGE * shades.shape[1] / shades.shape[0]
    return {
        "data": {"values": [{"url": f"data:image/png;base64,{base64.b64encode(_png(shades)).decode()}"}]},
        "mark": {
            "type": "image",
            "width": min(width, 1.4 * IMAGE),
            "height": IMAGE,
            "align": "left",
            "baseline": "top",
        },
        "encoding": {"url": {"field": "url"}, "x": {"value": 8}, "y": {"value": 2}},
    }


def _png(shades_HWC: np.ndarray) -> bytes:
    """Return an image of bytes, grey or coloured, as a PNG file."""
    height, width, channels = shades_HWC.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), shades_HWC.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _features(example_D: np.ndarray) -> View:
    """Return the layer of the features of a table's row: bars, or a line where they are many."""
    # Thousands of bars would take minutes, and none could be seen.
    kept = np.linspace(0, len(example_D) - 1, min(len(example_D), MOST_POINTS)).round().astype(int)
    rows = [
        {"x": int(place), "y": digits(float(example_D[place])), "zero": 0}
        for place in kept
        if math.isfinite(example_D[place])
    ]
    values = [row["y"] for row in rows] + [0.0]
    span = (max(values) - min(values)) or 1.0
    # They fill the upper part of the panel.
    low = min(values) - span * (EXAMPLE - IMAGE) / IMAGE
    scales = {"axis": None, "type": "quantitative"}
    x = {**scales, "scale": {"domain": [-0.5, len(example_D) - 0.5], "nice": False}}
    y = {**scales, "scale": {"domain": [low, max(values)], "nice": False}}
    encoding = {"x": at(x, "x"), "y": at(y, "y")}
    if len(example_D) <= MOST_BARS:
        wide = {"type": "rule", "color": SOFT, "strokeWidth": max(100 / len(example_D), 1)}
        return {"data": {"values": rows}, "mark": wide, "encoding": {**encoding, "y2": {"field": "zero"}}}
    return {"data": {"values": rows}, "mark": {"type": "line", "color": SOFT, "strokeWidth": 0.7}, "encoding": encoding}


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
