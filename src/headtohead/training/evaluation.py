"""Evaluation of finished runs: on the validation and test splits, on shifted inputs, and on inputs from elsewhere.

Shape suffixes: R runs, N examples, V views of the data, n examples of a chunk, K classes, P features or pixels of a
channel; x the axes of one input.
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

# Largest number of examples, from the distribution and from outside, for the detection of OOD inputs.
OOD_EXAMPLES = 2000
# Largest number of activations in the record of a run.
PREDICTED_VALUES = 100_000
# Value of `dataset.ood` for permuted test inputs.
PERMUTED = "permuted"
NOISE_PATTERNS = 256

Metrics = dict[str, Tensor]
RunCurves = list[dict[str, Any]]
# A function of inputs (V, n, x) and the index of the first of them in the split, to shifted inputs.
Shift = Callable[[Tensor, int], Tensor]


def add_noise(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Add Gaussian noise of half a standard deviation of the training inputs."""
    # The patterns are used in turn, so that an example's noise does not depend on how the split is cut into chunks.
    stream = data.generator(0, "noise on inputs")
    patterns_Nx = torch.randn(NOISE_PATTERNS, *inputs_Vnx.shape[2:], generator=stream, dtype=inputs_Vnx.dtype)
    turn_n = (torch.arange(inputs_Vnx.shape[1]) + start) % NOISE_PATTERNS
    return inputs_Vnx + 0.5 * patterns_Nx[turn_n].to(inputs_Vnx.device)


def blur(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Replace each pixel by the mean over 3x3 pixels."""
    images_BCHW = inputs_Vnx.flatten(0, 1)
    return F.avg_pool2d(images_BCHW, 3, stride=1, padding=1, count_include_pad=False).view(inputs_Vnx.shape)


def lower_contrast(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Halve the distance of every pixel to the channel's mean over the training split."""
    return inputs_Vnx / 2


def permute(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Permute features, or pixels within a channel: OOD inputs with the marginal distributions of the data."""
    flat_VnxP = inputs_Vnx.flatten(3) if inputs_Vnx.ndim == 5 else inputs_Vnx
    order_P = torch.randperm(flat_VnxP.shape[-1], generator=data.generator(0, PERMUTED)).to(inputs_Vnx.device)
    return flat_VnxP.index_select(-1, order_P).view(inputs_Vnx.shape)


# Shifts of standardised inputs, with fixed strengths. They are the same for all runs.
SHIFTS: dict[str, Shift] = {
    "noise": add_noise,
    "blur": blur,
    "contrast": lower_contrast,
}


def ood_dataset(dataset: Dataset) -> Dataset | None:
    """Return the dataset of OOD inputs that `dataset.ood` names, with the options of `dataset`.

    This is `dataset` itself if its inputs are to be permuted, and None without OOD inputs.

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


def final_metrics(cohort: Cohort, test: bool) -> tuple[Metrics, dict[str, RunCurves]]:
    """Compute all metrics, (R,) each, and for each split the curves of each run.

    Args:
        test: whether to read the test split.
    """
    num_classes = cohort.pool.num_classes
    temperature_R = _temperature(cohort)
    validation = cohort.examples(cohort.chunks("val"))
    threshold_R = metrics.best_threshold(validation)
    result: Metrics = {}
    curves: dict[str, RunCurves] = {}

    def add(split: Split, examples: metrics.PerExample) -> None:
        values = metrics.summarise_fully(examples, num_classes, threshold_R)
        values["nll_calibrated"] = _calibrated_nll(cohort, split, temperature_R)
        result.update({f"{split}_{name}": value for name, value in values.items()})
        curves[split] = metrics.curves(examples)

    add("val", validation)
    if test:
        tested = cohort.examples(cohort.chunks("test"))
        add("test", tested)
        fitted = metrics.summarise(cohort.examples(cohort.chunks("train", limit=len(cohort.pool.test))))
        result["gap_accuracy"] = fitted["accuracy"] - result["test_accuracy"]
        result["gap_nll"] = result["test_nll"] - fitted["nll"]
        result |= _shift_metrics(cohort) | _ood_metrics(cohort)
    return result, curves


def predictions(cohort: Cohort) -> dict[str, np.ndarray]:
    """Predict the first examples of the test split.

    Returns:
        `label` and `prediction`, (R, N) each, and `activations`, (R, N, K) float32.
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
    """Fit the temperature of each run, (R,), on the first chunk of the validation split, which limits the memory.

    In most cases this is the whole split.
    """
    inputs_Vnx, labels_Vn = next(cohort.chunks("val"))
    return metrics.fit_temperature(_log_probabilities(cohort, inputs_Vnx), cohort.spread(labels_Vn))


def _calibrated_nll(cohort: Cohort, split: Split, temperature_R: Tensor) -> Tensor:
    """Return the NLL of a split after division of the log-probabilities by a temperature, (R,)."""
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
        log_q_RnK = cohort.by_head(lambda head, logits: head.log_probabilities(logits), logits_RnK)
    cohort.pack.train(True)
    return log_q_RnK


def _shift_metrics(cohort: Cohort) -> Metrics:
    """Compute the accuracy for each shift of the test inputs, and the mean accuracy and NLL over the shifts."""
    kinds = SHIFTS if cohort.pool.is_image else {"noise": add_noise}
    result: Metrics = {}
    losses_R = []
    for kind, shift in kinds.items():
        summary = metrics.summarise(cohort.examples(_mapped(cohort.chunks("test"), shift)))
        result[f"shift_{kind}_accuracy"] = summary["accuracy"]
        losses_R.append(summary["nll"])
    result["shift_accuracy"] = torch.stack(list(result.values())).mean(0)
    return result | {"shift_nll": torch.stack(losses_R).mean(0)}


def _ood_metrics(cohort: Cohort) -> Metrics:
    """Compute the AUROC of the confidence (Hendrycks and Gimpel 2017) between test inputs and OOD inputs."""
    dataset = ood_dataset(cohort.runs[0].dataset)
    if dataset is None:
        return {}
    pool = cohort.pool if cohort.runs[0].dataset.ood == PERMUTED else data.load(dataset, cohort.device)
    ood_chunks = data.evaluation_chunks(pool, cohort.views, "test", cohort.dtype, cohort.at_once, OOD_EXAMPLES)
    if pool is cohort.pool:
        ood_chunks = _mapped(ood_chunks, permute)
    outside_RN = _confidence(cohort, ood_chunks)
    inside_RN = _confidence(cohort, cohort.chunks("test", OOD_EXAMPLES))
    # Scores that differ only by rounding, as those of a dead network, count as ties.
    score_RN = torch.cat([inside_RN, outside_RN], 1).round(decimals=5 if cohort.dtype == torch.float32 else 12)
    is_inside_RN = torch.arange(score_RN.shape[1], device=score_RN.device).expand(score_RN.shape) < inside_RN.shape[1]
    return {"ood_auroc": metrics.auroc(score_RN, is_inside_RN)}


def _confidence(cohort: Cohort, chunks: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Return -log(1 - confidence) of each example, (R, N), which orders examples whose confidence rounds to one."""
    parts = []
    for inputs_Vnx, _ in chunks:
        log_q_RnK = _log_probabilities(cohort, inputs_Vnx)
        others_RnK = log_q_RnK.scatter(-1, metrics.top_class(log_q_RnK).unsqueeze(-1), -torch.inf)
        parts.append(-others_RnK.logsumexp(-1))
    return torch.cat(parts, 1)


def _mapped(chunks: Iterator[tuple[Tensor, Tensor]], shift: Shift) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks with shifted inputs."""
    start = 0
    for inputs_Vnx, labels_Vn in chunks:
        yield shift(inputs_Vnx, start), labels_Vn
        start += labels_Vn.shape[1]
