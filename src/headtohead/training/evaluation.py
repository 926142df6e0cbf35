"""Evaluation of finished runs: on the validation and test splits, on shifted inputs, and on inputs from elsewhere.

Shape suffixes: R runs, N examples, V views of the data, n examples of a chunk, K classes, P features or pixels of a
channel, G blocks of test examples; x the axes of one input.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.training import blocks, data, metrics, splits
from headtohead.training.data import Split
from headtohead.training.datasets import PERMUTED, ood_dataset
from headtohead.training.features import Shift
from headtohead.training.pack_data import Cohort

# Largest number of examples, from the distribution and from outside, for the detection of OOD inputs.
OOD_EXAMPLES = 2000
# Largest number of activations in the record of a run.
PREDICTED_VALUES = 100_000
NOISE_PATTERNS = 256

Metrics = dict[str, Tensor]
RunCurves = list[dict[str, Any]]


def add_noise(inputs_Vnx: Tensor, start: int) -> Tensor:
    """Add Gaussian noise of half a standard deviation of the training inputs."""
    # The patterns are used in turn, so that an example's noise does not depend on how the split is cut into chunks.
    stream = splits.generator(0, "noise on inputs")
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
    order_P = torch.randperm(flat_VnxP.shape[-1], generator=splits.generator(0, PERMUTED)).to(inputs_Vnx.device)
    return flat_VnxP.index_select(-1, order_P).view(inputs_Vnx.shape)


# Shifts of standardised inputs, with fixed strengths. They are the same for all runs.
SHIFTS: dict[str, Shift] = {
    "noise": add_noise,
    "blur": blur,
    "contrast": lower_contrast,
}


@dataclass(frozen=True)
class Evaluation:
    """All that is measured of finished runs.

    Attributes:
        metrics: metrics by name, (R,) each.
        curves: for each split the curves of each run.
        blocks: metrics by name for each block, (R, G) each, and `size`, the number of examples of each block: those of
            the test split, or of the validation split where that is another fold's test split and the own one was not
            read. Empty if there are no such blocks, or not two.
    """

    metrics: Metrics
    curves: dict[str, RunCurves]
    blocks: Metrics


def evaluate(cohort: Cohort, test: bool) -> Evaluation:
    """Evaluate finished runs on the validation split and, if `test`, on the test split."""
    temperature_R = _temperature(cohort)
    validation = _examples(cohort, "val", temperature_R)
    reference = metrics.Reference(
        metrics.best_threshold(validation), metrics.decisive_confidence(validation), cohort.class_counts_RK
    )
    result = _summary("val", validation, reference)
    curves = {"val": metrics.curves(validation)}
    if not test:

        def validated(runs_r: Tensor) -> Callable[[Tensor], Metrics]:
            examples = _of_runs(validation, runs_r)
            return lambda kept_N: _summary("val", _kept(examples, kept_N), reference.part(runs_r))

        is_tested_elsewhere = cohort.pool.folds is not None and cohort.pool.val is None
        return Evaluation(result, curves, _by_block(cohort, "val", validated) if is_tested_elsewhere else {})
    tested = _Tested.of(cohort, temperature_R, reference)
    curves["test"] = metrics.curves(tested.examples)
    by_block = _by_block(cohort, "test", lambda runs_r: tested.part(runs_r).metrics)
    return Evaluation(result | tested.metrics() | {"noise_fitted": tested.fitted["noise_fitted"]}, curves, by_block)


def predictions(cohort: Cohort) -> dict[str, np.ndarray]:
    """Predict the first examples of the test split.

    Returns:
        `example`, its number in the dataset, `label` and `prediction`, (R, N) each, and `activations`, (R, N, K)
        float32.
    """
    limit = max(1, min(len(cohort.views[0].test), PREDICTED_VALUES // cohort.pool.num_classes))
    parts = []
    cohort.pack.train(False)
    for inputs_Vnx, labels_Vn in cohort.chunks("test", limit):
        with torch.no_grad():
            logits_RnK = cohort.logits(inputs_Vnx)
            labels_Rn = cohort.spread(labels_Vn)
            activations_RnK = cohort.by_head(lambda head, logits: head.activations(logits), logits_RnK)
        parts.append((labels_Rn, cohort.predict(logits_RnK), activations_RnK.float()))
    cohort.pack.train(True)
    names = ("label", "prediction", "activations")
    result = {name: torch.cat(part, 1) for name, part in zip(names, zip(*parts, strict=True), strict=True)}
    result["example"] = cohort.spread(torch.stack([view.test[:limit] for view in cohort.views]))
    return {name: values_RN.cpu().numpy() for name, values_RN in result.items()}


def _temperature(cohort: Cohort) -> Tensor:
    """Fit the temperature of each run, (R,), on the first chunk of the validation split, which limits the memory.

    In most cases this is the whole split.
    """
    inputs_Vnx, labels_Vn = next(cohort.chunks("val"))
    return metrics.fit_temperature(cohort.log_probabilities(inputs_Vnx), cohort.spread(labels_Vn))


def _examples(cohort: Cohort, split: Split, temperature_R: Tensor) -> metrics.PerExample:
    """Return `metrics.per_example` of a split, with the NLL and the confidence after division by a temperature."""
    examples = cohort.examples(cohort.chunks(split))
    nll, confidence = [], []
    for inputs_Vnx, labels_Vn in cohort.chunks(split):
        log_q_RnK = (cohort.log_probabilities(inputs_Vnx) / temperature_R[:, None, None]).log_softmax(-1)
        nll.append(-log_q_RnK.gather(-1, cohort.spread(labels_Vn).unsqueeze(-1)).squeeze(-1))
        confidence.append(log_q_RnK.amax(-1).exp())
    return examples | {"nll_calibrated": torch.cat(nll, 1), "confidence_calibrated": torch.cat(confidence, 1)}


def _by_block(
    cohort: Cohort, split: Literal["val", "test"], part: Callable[[Tensor], Callable[[Tensor], Metrics]]
) -> Metrics:
    """Compute the pseudo-values of all metrics of a split for each block, (R, G) each, and the `size` of each block.

    Args:
        part: from the numbers of some runs to a function from the examples to use, (N,), to the metrics of these runs.
    """
    pool, count = cohort.pool, len(cohort.pool.block_sizes)
    views = [(runs_r, pool.block_N[getattr(view, split).cpu()]) for runs_r, view in cohort.runs_and_views]
    if pool.folds is None:
        views = [(torch.arange(len(cohort)), views[0][1])]  # all have the same split
    result: Metrics = {}
    for runs_r, block_n in views:
        values = blocks.pseudo_values(part(runs_r.to(cohort.device)), block_n, count)
        if values:
            values["size"] = block_n.bincount(minlength=count).double().expand(len(runs_r), -1)
        for name, value_rG in values.items():
            result.setdefault(name, torch.empty(len(cohort), count, dtype=torch.float64))[runs_r] = value_rG.cpu()
    return result


@dataclass(frozen=True)
class _Tested:
    """The test examples as finished runs see them: as they are, shifted, and beside inputs from elsewhere.

    Attributes:
        reference: what metrics take from other splits.
        examples: `metrics.per_example` of the test split.
        fitted: `metrics.summarise` of as many training examples, and the share of their wrong labels that the run
            predicts.
        shifted: `metrics.per_example` of the shifted test split, by the kind of the shift.
        outliers: scores of test inputs and of inputs from elsewhere, (R, N) each, by the name of their AUROC.
    """

    reference: metrics.Reference
    examples: metrics.PerExample
    fitted: Metrics
    shifted: dict[str, metrics.PerExample]
    outliers: dict[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, cohort: Cohort, temperature_R: Tensor, reference: metrics.Reference) -> "_Tested":
        """Let finished runs predict the test examples."""
        kinds = SHIFTS if cohort.pool.is_image else {"noise": add_noise}
        return cls(
            reference=reference,
            examples=_examples(cohort, "test", temperature_R),
            fitted=_fitted(cohort),
            shifted={kind: cohort.examples(cohort.test_chunks(shift)) for kind, shift in kinds.items()},
            outliers=_outlier_scores(cohort),
        )

    def part(self, runs_r: Tensor) -> "_Tested":
        """Return what some of the runs see, given by their numbers."""
        return replace(
            self,
            reference=self.reference.part(runs_r),
            examples=_of_runs(self.examples, runs_r),
            fitted=_of_runs(self.fitted, runs_r),
            shifted={kind: _of_runs(examples, runs_r) for kind, examples in self.shifted.items()},
            outliers={name: (pair[0][runs_r], pair[1][runs_r]) for name, pair in self.outliers.items()},
        )

    def metrics(self, kept_N: Tensor | None = None) -> Metrics:
        """Compute all metrics of the test split, (R,) each.

        Args:
            kept_N: which examples to use, (N,); None for all.
        """
        examples = _kept(self.examples, kept_N)
        result = _summary("test", examples, self.reference)
        result["gap_accuracy"] = self.fitted["accuracy"] - result["test_accuracy"]
        result["gap_nll"] = result["test_nll"] - self.fitted["nll"]
        return result | self._shift_metrics(kept_N) | self._outlier_metrics(kept_N)

    def _shift_metrics(self, kept_N: Tensor | None) -> Metrics:
        """Compute the accuracy for each shift of the test inputs, and the mean accuracy and NLL over the shifts."""
        kept = {kind: _kept(examples, kept_N) for kind, examples in self.shifted.items()}
        result = {f"shift_{kind}_accuracy": examples["accuracy"].mean(-1) for kind, examples in kept.items()}
        result["shift_accuracy"] = torch.stack(list(result.values())).mean(0)
        result["shift_nll"] = torch.stack([examples["nll"].mean(-1) for examples in kept.values()]).mean(0)
        return result

    def _outlier_metrics(self, kept_N: Tensor | None) -> Metrics:
        """Compute the AUROC of each score between test inputs and inputs from elsewhere.

        Without a test example an OOD input of the same position is left out: it may be that example, permuted.
        """
        result = {}
        for name, (inside_RN, outside_RN) in self.outliers.items():
            if kept_N is not None:
                inside_RN = inside_RN[:, kept_N[: inside_RN.shape[1]].to(inside_RN.device)]
            if kept_N is not None and name.startswith("ood_"):
                position_N = torch.arange(outside_RN.shape[1]) % len(kept_N)
                outside_RN = outside_RN[:, kept_N[position_N].to(outside_RN.device)]
            score_RN = torch.cat([inside_RN, outside_RN], 1)
            is_inside_N = torch.arange(score_RN.shape[1], device=score_RN.device) < inside_RN.shape[1]
            result[name] = metrics.auroc(score_RN, is_inside_N.expand(score_RN.shape))
        return result


def _summary(split: Split, examples: metrics.PerExample, reference: metrics.Reference) -> Metrics:
    """Compute the metrics of a split that need its examples alone, (R,) each."""
    values = metrics.summarise_fully(examples, reference)
    values["nll_calibrated"] = examples["nll_calibrated"].mean(-1)
    values["ece_calibrated"] = metrics.calibration_error(examples["confidence_calibrated"], examples["accuracy"])
    return {f"{split}_{name}": value for name, value in values.items()}


def _fitted(cohort: Cohort) -> Metrics:
    """Return the metrics of as many training examples as there are test examples, and `noise_fitted`, (R,) each.

    `noise_fitted` is the share of the wrong labels among them that the run predicts; NaN without any.
    """
    limit = len(cohort.views[0].test)
    examples = cohort.examples(cohort.chunks("train", limit=limit))
    wrong = [view.train_labels[:limit] != cohort.pool.labels[view.train[:limit]] for view in cohort.views]
    is_wrong_RN = cohort.spread(torch.stack(wrong))
    share_R = (examples["accuracy"] * is_wrong_RN).sum(-1) / is_wrong_RN.sum(-1)
    return metrics.summarise(examples) | {"noise_fitted": share_R}


def _of_runs(values: Metrics, runs_r: Tensor) -> Metrics:
    return {name: value_Rx[runs_r] for name, value_Rx in values.items()}


def _kept(examples: metrics.PerExample, kept_N: Tensor | None) -> metrics.PerExample:
    """Return the values of the examples that `kept_N` marks, in float64; all as they are where it is None."""
    if kept_N is None:
        return examples
    index_N = kept_N.nonzero().flatten().to(examples["label"].device)
    chosen = {name: values_RN.index_select(-1, index_N) for name, values_RN in examples.items()}
    return {name: value.double() if value.is_floating_point() else value for name, value in chosen.items()}


def _outlier_scores(cohort: Cohort) -> dict[str, tuple[Tensor, Tensor]]:
    """Return scores of test inputs and of inputs from elsewhere, (R, N) each, by the name of their AUROC."""
    pool, dataset = cohort.pool, ood_dataset(cohort.runs[0].dataset)
    outside = {}
    if dataset is not None:
        other = None if cohort.runs[0].dataset.ood == PERMUTED else data.load(dataset, cohort.device)
        outside["ood"] = cohort.test_chunks(permute if other is None else None, OOD_EXAMPLES, other)
    if pool.unknown is not None and len(pool.unknown):
        outside["unknown"] = cohort.test_chunks(None, OOD_EXAMPLES, replace(pool, test=pool.unknown))
    if not outside:
        return {}
    inside = _scores(cohort, cohort.chunks("test", OOD_EXAMPLES))
    result = {}
    for kind, chunks in outside.items():
        for name, score_RN in _scores(cohort, chunks).items():
            result[f"{kind}_{name}"] = inside[name], score_RN
    return result


def _scores(cohort: Cohort, chunks: Iterator[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return `metrics.scores` of all chunks, (R, N) each."""
    parts = [cohort.scores(inputs_Vnx) for inputs_Vnx, _ in chunks]
    # Scores that differ only by rounding, as those of a dead network, count as ties.
    decimals = 5 if cohort.dtype == torch.float32 else 12
    return {name: torch.cat([part[name] for part in parts], 1).round(decimals=decimals) for name in parts[0]}
