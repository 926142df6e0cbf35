"""What a finished run is worth: on validation, on the test split, and on test inputs that have shifted.

Shape suffixes: R runs, N examples, V views of the data, n examples of a chunk, K classes; x the axes of one input.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.options import nearest, require
from headtohead.training import data, metrics
from headtohead.training.data import Dataset, Split
from headtohead.training.datasets import DATASETS
from headtohead.training.pack_data import Cohort

# At most so many examples are needed to tell inputs of the distribution from others.
OUTLIERS = 2000
# The record of a run keeps at most so many activations.
PREDICTED_VALUES = 100_000
PERMUTED = "permuted"
NOISE_PATTERNS = 256

Metrics = dict[str, Tensor]
Curves = list[dict[str, Any]]
# Inputs (V, n, x) and the place of the first of them in the split, to changed inputs.
Shift = Callable[[Tensor, int], Tensor]


def add_noise(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Gaussian noise of half a standard deviation of the training inputs."""
    # A number of patterns in turn: each example then has its own, however the split is cut into chunks.
    stream = data.generator(0, "noise on inputs")
    patterns_Nx = torch.randn(NOISE_PATTERNS, *inputs_Vnx.shape[2:], generator=stream, dtype=inputs_Vnx.dtype)
    turn_n = (torch.arange(inputs_Vnx.shape[1]) + start) % NOISE_PATTERNS
    return inputs_Vnx + 0.5 * patterns_Nx[turn_n].to(inputs_Vnx.device)


def blur(inputs_Vnx: Tensor, start: int) -> Tensor:
    """The mean over 3x3 pixels."""
    images_BCHW = inputs_Vnx.flatten(0, 1)
    return F.avg_pool2d(images_BCHW, 3, stride=1, padding=1, count_include_pad=False).view(inputs_Vnx.shape)


def lower_contrast(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Half the distance of every pixel to the channel's mean over the training split."""
    return inputs_Vnx / 2


def permute(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Features, or pixels within a channel, in another order: outliers with the marginals of the data."""
    flat_VnxP = inputs_Vnx.flatten(3) if inputs_Vnx.ndim == 5 else inputs_Vnx
    order_P = torch.randperm(flat_VnxP.shape[-1], generator=data.generator(0, PERMUTED)).to(inputs_Vnx.device)
    return flat_VnxP.index_select(-1, order_P).view(inputs_Vnx.shape)


# Of standardised inputs, at fixed strengths. They belong to the test set: all runs meet the same ones.
SHIFTS: dict[str, Shift] = {
    "noise": add_noise,
    "blur": blur,
    "contrast": lower_contrast,
}


def outliers(dataset: Dataset) -> Dataset | None:
    """The dataset that `dataset.ood` names, with the options of `dataset`; itself where it is to be permuted.

    Raises:
        ConfigError: there is no such dataset, or it needs options that `dataset` lacks.
    """
    if dataset.ood is None or dataset.ood == PERMUTED:
        return dataset if dataset.ood else None
    options = {**vars(dataset), "ood": None}
    known = [PERMUTED] + [name for name, cls in DATASETS.items() if {f.name for f in fields(cls)} <= options.keys()]
    require(dataset.ood in known, "dataset.ood", dataset.ood, nearest(dataset.ood, known))
    cls = DATASETS[dataset.ood]
    values: dict[str, Any] = {field.name: options[field.name] for field in fields(cls)}
    return cls(**values)


def final_metrics(cohort: Cohort, test: bool) -> tuple[Metrics, dict[str, Curves]]:
    """All metrics of each run, (R,) each, and for each split the curves of each run.

    Args:
        test: whether the test split is read.
    """
    num_classes = cohort.pool.num_classes
    temperature_R = _temperature(cohort)
    validation = cohort.examples(cohort.chunks("val"))
    threshold_R = metrics.best_threshold(validation)
    found: Metrics = {}
    curves: dict[str, Curves] = {}

    def add(split: Split, examples: metrics.Examples) -> None:
        values = metrics.summarise_fully(examples, num_classes, threshold_R)
        values["nll_calibrated"] = _calibrated_nll(cohort, split, temperature_R)
        found.update({f"{split}_{name}": value for name, value in values.items()})
        curves[split] = metrics.curves(examples)

    add("val", validation)
    if test:
        tested = cohort.examples(cohort.chunks("test"))
        add("test", tested)
        fitted = metrics.summarise(cohort.examples(cohort.chunks("train", limit=len(cohort.pool.test))))
        found["gap_accuracy"] = fitted["accuracy"] - found["test_accuracy"]
        found["gap_nll"] = found["test_nll"] - fitted["nll"]
        found |= _shifted(cohort) | _detected(cohort)
    return found, curves


def predictions(cohort: Cohort) -> dict[str, np.ndarray]:
    """What each run says of the first examples of the test split: `label` and `prediction`, (R, N) each, and
    `activations`, (R, N, K) float32.
    """
    limit = max(1, min(len(cohort.pool.test), PREDICTED_VALUES // cohort.pool.num_classes))
    parts = []
    cohort.pack.train(False)
    for inputs_Vnx, labels_Vn in cohort.chunks("test", limit):
        with torch.no_grad():
            logits_RnK = cohort.logits(inputs_Vnx)
            labels_Rn = cohort.spread(labels_Vn)
            activations_RnK = cohort.by_head(lambda head, logits: head.activations(logits), logits_RnK)
        parts.append((labels_Rn, metrics.top_class(logits_RnK), activations_RnK.float()))
    cohort.pack.train(True)
    names = ("label", "prediction", "activations")
    return {name: torch.cat(part, 1).cpu().numpy() for name, part in zip(names, zip(*parts, strict=True), strict=True)}


def _temperature(cohort: Cohort) -> Tensor:
    """Fitted on the first chunk of the validation split, which bounds the memory; mostly that is all of it."""
    inputs_Vnx, labels_Vn = next(cohort.chunks("val"))
    return metrics.fit_temperature(_log_probabilities(cohort, inputs_Vnx), cohort.spread(labels_Vn))


def _calibrated_nll(cohort: Cohort, split: Split, temperature_R: Tensor) -> Tensor:
    total_R, count = torch.zeros_like(temperature_R), 0
    for inputs_Vnx, labels_Vn in cohort.chunks(split):
        log_q_RnK = (_log_probabilities(cohort, inputs_Vnx) / temperature_R[:, None, None]).log_softmax(-1)
        total_R -= log_q_RnK.gather(-1, cohort.spread(labels_Vn).unsqueeze(-1)).sum((1, 2))
        count += labels_Vn.shape[1]
    return total_R / count


def _log_probabilities(cohort: Cohort, inputs_Vnx: Tensor) -> Tensor:
    cohort.pack.train(False)
    with torch.no_grad():
        logits_RnK = cohort.logits(inputs_Vnx)
        found_RnK = cohort.by_head(lambda head, logits: head.log_probabilities(logits), logits_RnK)
    cohort.pack.train(True)
    return found_RnK


def _shifted(cohort: Cohort) -> Metrics:
    """Accuracy under each shift of the test inputs; the mean over shifts of accuracy and NLL."""
    kinds = SHIFTS if cohort.pool.is_image else {"noise": add_noise}
    found: Metrics = {}
    losses_R = []
    for kind, shift in kinds.items():
        summary = metrics.summarise(cohort.examples(_mapped(cohort.chunks("test"), shift)))
        found[f"shift_{kind}_accuracy"] = summary["accuracy"]
        losses_R.append(summary["nll"])
    found["shift_accuracy"] = torch.stack(list(found.values())).mean(0)
    return found | {"shift_nll": torch.stack(losses_R).mean(0)}


def _detected(cohort: Cohort) -> Metrics:
    """AUROC of the confidence (Hendrycks and Gimpel 2017) between test inputs and those of `dataset.ood`."""
    dataset = outliers(cohort.runs[0].dataset)
    if dataset is None:
        return {}
    pool = cohort.pool if cohort.runs[0].dataset.ood == PERMUTED else data.load(dataset, cohort.device)
    strange = data.evaluation_chunks(pool, cohort.views, "test", cohort.dtype, len(cohort), OUTLIERS)
    if pool is cohort.pool:
        strange = _mapped(strange, permute)
    outside_RN = _certainty(cohort, strange)
    inside_RN = _certainty(cohort, cohort.chunks("test", OUTLIERS))
    # Where rounding alone tells examples apart, as those of a dead network, they are ties.
    score_RN = torch.cat([inside_RN, outside_RN], 1).round(decimals=5 if cohort.dtype == torch.float32 else 12)
    is_inside_RN = torch.arange(score_RN.shape[1], device=score_RN.device).expand(score_RN.shape) < inside_RN.shape[1]
    return {"ood_auroc": metrics.auroc(score_RN, is_inside_RN)}


def _certainty(cohort: Cohort, chunks: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """-log(1 - confidence) of each example, (R, N): ordered as confidences are, and apart where they round to 1."""
    parts = []
    for inputs_Vnx, _ in chunks:
        log_q_RnK = _log_probabilities(cohort, inputs_Vnx)
        others_RnK = log_q_RnK.scatter(-1, metrics.top_class(log_q_RnK).unsqueeze(-1), -torch.inf)
        parts.append(-others_RnK.logsumexp(-1))
    return torch.cat(parts, 1)


def _mapped(chunks: Iterator[tuple[Tensor, Tensor]], shift: Shift) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for inputs_Vnx, labels_Vn in chunks:
        yield shift(inputs_Vnx, start), labels_Vn
        start += labels_Vn.shape[1]
