"""The training loop: it trains a pack of runs and yields what it measures. It writes nothing to disk.

Shape suffixes: R runs, S steps, B batch, K classes, V views of the data (one per seed, fold and label
noise), P parameters of one run; x the axes of one input.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from headtohead.training import data, diagnostics, metrics, splits
from headtohead.training.config import Config, Training
from headtohead.training.data import Pool
from headtohead.training.evaluation import Evaluation, evaluate, predictions
from headtohead.training.optimizers import column
from headtohead.training.pack_data import Cohort

# The Hessian is measured at these shares of the evaluations, on the first examples of the batch. Each power iteration
# starts from the result of the one before.
SHARPNESS_AT = (0.25, 0.5, 1.0)
SHARPNESS_EXAMPLES = 32
SHARPNESS_ITERATIONS = 5


@dataclass(frozen=True)
class Point:
    """Values that are logged for all runs at one step.

    Attributes:
        step: number of updates before this point.
        epoch: number of passes over the training split before this point.
        progress: share of all steps, in [0, 1].
        values: values of the runs, (R,), by name of the metric; NaN for runs that have diverged.
        state: function that returns all that `train` needs to continue after this point, as nested tensors and numbers
            in the host's memory. It must be called before the next item is requested. None at the end of training.
    """

    step: int
    epoch: float
    progress: float
    values: dict[str, np.ndarray]
    state: Callable[[], dict[str, Any]] | None = field(default=None, repr=False, compare=False)

    def rows(self) -> list[dict[str, np.floating]]:
        """Return the values of each run, without those that are NaN."""
        runs = len(next(iter(self.values.values())))
        return [
            {name: values_R[run] for name, values_R in self.values.items() if not np.isnan(values_R[run])}
            for run in range(runs)
        ]


@dataclass(frozen=True)
class Outcome:
    """Result of one run.

    Attributes:
        steps: number of updates.
        diverged_at: step at which the loss or the gradient was not finite, or None.
        metrics: final metrics by name; those of a uniform guess if the run diverged.
        blocks: test metrics by name for each block of test examples, and the `size` of each block. Empty if the test
            split was not read.
        curves: data of figures, by split, and `histograms`; None if the run diverged.
        predictions: `evaluation.predictions` of the test split; None if it was not read or the run diverged.
        pack_mode: `Pack.mode`.
    """

    steps: int
    diverged_at: int | None
    metrics: dict[str, float]
    blocks: dict[str, list[float]]
    curves: dict[str, Any] | None
    predictions: dict[str, np.ndarray] | None
    pack_mode: str | None


def may_share_a_pack(config: Config) -> object:
    """Return a key: runs with equal keys can be trained in one pack.

    The head, the temperature of cosine logits, the optimiser's numbers, the schedule of the learning rate, the rate of
    dropout, the seed, the fold and the label noise may differ. Shapes, layers and the order of batches may not, and
    folds must be of one size (`split_sizes`).
    """
    dataset = {name: value for name, value in vars(config.dataset).items() if name != "label_noise"}
    settings = config.settings
    return (
        type(config.dataset),
        repr(dataset),
        config.model.pack_key,
        config.head.classifier.pack_key,
        type(config.optimizer),
        replace(config.training, schedule="constant", warmup=0.0),
        (settings.name, settings.device, settings.precision, settings.pack_size),
    )


def schedule_factors(training: Training, steps: int) -> np.ndarray:
    """Return the learning rate of each step as a share of `optimizer.lr`, (S,)."""
    warmup = round(training.warmup * steps)
    step = np.arange(steps)
    progress = np.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
    shapes = {
        "constant": np.ones(steps),
        "linear": 1 - progress,
        "cosine": (1 + np.cos(math.pi * progress)) / 2,
    }
    return np.where(step < warmup, (step + 1) / max(warmup, 1), shapes[training.schedule])


def logged_steps(training: Training, steps: int) -> tuple[list[int], set[int], set[int]]:
    """Return the steps that are logged, those that evaluate as well, and those that measure the Hessian as well.

    The last step of the first two is `steps`, after the last update, when there is no gradient to measure.
    """
    points = np.unique(np.linspace(0, steps, training.points).round().astype(int)) if training.points > 1 else [steps]
    chosen = np.linspace(len(points) - 1, 0, training.evaluations, endpoint=training.evaluations > 1)
    evaluated = {int(points[round(index)]) for index in chosen}
    measured = sorted(evaluated - {steps})
    sharpness = {measured[round(share * (len(measured) - 1))] for share in SHARPNESS_AT} if measured else set()
    return [int(step) for step in points], evaluated, sharpness


def train(
    runs: Sequence[Config], pool: Pool, test: bool, state: dict[str, Any] | None = None
) -> Iterator[Point | list[Outcome]]:
    """Train a pack of runs. Yields a Point at each logged step, and at last the Outcome of each run.

    Args:
        runs: configurations that differ only as `may_share_a_pack` allows.
        pool: examples, on the device to train on.
        test: whether to read the test split, after the last step.
        state: result of `Point.state` in an interrupted training of the same runs, which continues from there. The
            points before it are yielded again. On the CPU, all that follows is bitwise equal to an uninterrupted
            training.
    """
    training = _Training(runs, pool, test)
    if state:
        training.restore(state)
        yield from training.points
    yield from training.run()
    yield from training.finish()


class _Step(NamedTuple):
    """A step of all runs before its update: the batch, the gradients and their norm."""

    number: int
    inputs_VBx: Tensor
    labels_VB: Tensor
    labels_RB: Tensor
    logits_RBK: Tensor
    logit_gradient_RBK: Tensor
    gradients_RP: Tensor
    norm_R: Tensor


class _Training:
    """A training in progress: the cohort, its optimiser and all measurements so far.

    Attributes:
        start: first step to make.
        points: logged points.
        trace: loss, accuracy, gradient norm and backbone's gradient norm of every step, (S, R) each; NaN for steps that
            are not yet made and for runs that have diverged.
        alive_R: whether each run has not diverged.
        all_alive: whether the host knows that no run has. It does not wait for a GPU to know.
        direction_RP: start of the next power iteration of the Hessian.
        histograms: edges and counts of distributions, by `name@step`.
    """

    def __init__(self, runs: Sequence[Config], pool: Pool, test: bool):
        config, device = runs[0], pool.device
        self.runs, self.test = runs, test
        self.cohort = Cohort(runs, pool)
        pack, dtype = self.cohort.pack, self.cohort.dtype
        self.updater = config.optimizer.updater([run.optimizer for run in runs], pack.parameters_RP, pack.decayed)

        self.per_epoch = data.steps_per_epoch(self.cohort.views[0], config.training.batch_size)
        self.steps = config.training.epochs * self.per_epoch
        self.logged, self.evaluated, self.sharpness = logged_steps(config.training, self.steps)
        factors = np.stack([schedule_factors(run.training, self.steps) for run in runs], 1)
        factors_SR1 = torch.as_tensor(factors, dtype=dtype, device=device).unsqueeze(2)
        self.lr_SR1 = factors_SR1 * column([run.optimizer.lr for run in runs], pack.parameters_RP)
        self.clips = any(run.optimizer.clip_norm for run in runs)
        self.clip_R1 = column([run.optimizer.clip_norm or math.inf for run in runs], pack.parameters_RP)

        self.start = 0
        self.points: list[Point] = []
        self.trace_S4R = torch.full((self.steps, 4, len(runs)), math.nan, dtype=dtype, device=device)
        # Each step writes its values to one place, from which they are copied at once.
        self.measured_4R = torch.empty_like(self.trace_S4R[0])
        self.measured = self.measured_4R.unbind()
        self.trace: dict[str, Tensor] = dict(
            zip(("loss", "accuracy", "grad_norm", "backbone"), self.trace_S4R.unbind(1), strict=True)
        )
        self.alive_R = torch.ones(len(runs), dtype=torch.bool, device=device)
        self.all_alive = device.type == "cpu"
        self.backbone_gradients_RP = pack.gradients_RP[:, pack.backbone]
        self.classifier_gradients_RP = pack.gradients_RP[:, pack.backbone.stop :]
        # Random, since softmax's Hessian is zero in directions that all classes share.
        direction_P = torch.randn(pack.parameters_RP.shape[1], generator=splits.generator(0, "direction"), dtype=dtype)
        self.direction_RP = direction_P.to(device).expand(len(runs), -1)
        self.histograms: dict[str, tuple[Tensor, Tensor]] = {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of an interrupted training of the same runs.

        Raises:
            Exception: of any type, for a state of something else.
        """
        device = self.cohort.device
        # Copying would broadcast tensors of other shapes.
        for part, now in self.state(state["step"]).items():
            if part not in ("histograms", "points") and _layout(state[part]) != _layout(now):
                raise ValueError(f"{part}: of another training")
        self.start = state["step"]
        self.cohort.restore(state["models"])
        for name, saved in state["optimizer"].items():
            self.updater.state[name].copy_(saved)
        self.trace_S4R[: self.start] = state["trace"].to(device)
        self.alive_R.copy_(state["alive"])
        self.all_alive = self.all_alive and bool(self.alive_R.all())
        self.direction_RP = state["direction"].to(device)
        self.histograms = {
            name: (edges.to(device), counts.to(device)) for name, (edges, counts) in state["histograms"].items()
        }
        for step, values in state["points"]:
            self._add_point(step, {name: value_R.numpy() for name, value_R in values.items()})

    def state(self, step: int) -> dict[str, Any]:
        """Return the state that `restore` needs to continue with `step`."""
        points = [(p.step, {name: torch.from_numpy(v_R) for name, v_R in p.values.items()}) for p in self.points]
        return _to_cpu(
            {
                "step": step,
                "models": self.cohort.state(),
                "optimizer": self.updater.state,
                "trace": self.trace_S4R[:step],
                "alive": self.alive_R,
                "direction": self.direction_RP,
                "histograms": self.histograms,
                "points": points,
            }
        )

    def run(self) -> Iterator[Point]:
        """Make all steps, and yield the logged points. Stop early if all runs have diverged."""
        batches = self.cohort.batches(self.start)
        for number in range(self.start, self.steps):
            step = self._differentiate(number, *next(batches))
            if number in self.logged:
                self._log(step)
            self._update(step)
            if number in self.logged:
                yield replace(self.points[-1], state=partial(self.state, number + 1))
                if not self.alive_R.any():
                    break

    def finish(self) -> Iterator[Point | list[Outcome]]:
        """Evaluate the trained runs, and yield the last point and the outcomes."""
        cohort = self.cohort
        evaluation = evaluate(cohort, self.test)
        final = evaluation.metrics
        if self.test:
            evaluation.curves["histograms"] = _drawn(self.histograms, len(self.runs))
        # A run may diverge at its last update.
        self.alive_R &= final["val_nll"].isfinite()
        values = {f"val_{name}": final[f"val_{name}"] for name in metrics.FOLLOWED}
        yield self._add_point(self.steps, _to_host(self._recent(self.steps) | values, self.alive_R))
        final |= _training_metrics(self.points, self.trace, len(self.runs))
        predicted = predictions(cohort) if self.test else None
        steps = self.trace["loss"].isfinite().sum(0).tolist()
        yield _outcomes(evaluation, predicted, steps, self.alive_R, cohort.pool.num_classes, cohort.pack.mode)

    def _differentiate(self, number: int, inputs_VBx: Tensor, labels_VB: Tensor) -> _Step:
        """Compute the gradients of a batch, and add the step to the trace."""
        labels_RB = self.cohort.spread(labels_VB)
        self.cohort.pack.step = number
        loss_RB, logits_RBK, logit_gradient_RBK, gradients_RP = self.cohort.differentiate(inputs_VBx, labels_RB)
        loss_R, accuracy_R, norm_R, backbone_R = self.measured
        torch.mean(loss_RB, 1, out=loss_R)
        torch.mean(self.cohort.predict(logits_RBK) == labels_RB, 1, dtype=accuracy_R.dtype, out=accuracy_R)
        torch.linalg.vector_norm(self.backbone_gradients_RP, dim=1, out=backbone_R)
        torch.hypot(backbone_R, torch.linalg.vector_norm(self.classifier_gradients_RP, dim=1), out=norm_R)

        # At most steps one number tells that all runs go on.
        if not (self.all_alive and math.isfinite(self.measured_4R.sum())):
            self.alive_R &= (loss_R + norm_R).isfinite()
            self.all_alive = self.all_alive and bool(self.alive_R.all())
            self.measured_4R.masked_fill_(~self.alive_R, math.nan)
        self.trace_S4R[number] = self.measured_4R
        return _Step(number, inputs_VBx, labels_VB, labels_RB, logits_RBK, logit_gradient_RBK, gradients_RP, norm_R)

    def _log(self, step: _Step) -> None:
        """Measure the values of a logged step, before its update."""
        number, cohort, lr_R = step.number, self.cohort, self.lr_SR1[step.number, :, 0]
        values = self._recent(number) | {"lr": lr_R}
        values |= diagnostics.gradient_norms(step.gradients_RP, cohort.pack.columns)
        values["grad_norm_logits"] = diagnostics.logit_gradient_norm(step.logit_gradient_RBK)
        if number in self.evaluated:
            validation = metrics.summarise(cohort.examples(cohort.chunks("val")))
            values |= {f"val_{name}": value_R for name, value_R in validation.items()}
            loss = partial(cohort.loss, labels_RB=step.labels_RB)
            values |= diagnostics.coupling(loss, step.logits_RBK, step.labels_RB)
        if number in self.sharpness:
            eigenvalue_R, self.direction_RP = _sharpness(cohort, step.inputs_VBx, step.labels_VB, self.direction_RP)
            values |= {"hessian_eigenvalue": eigenvalue_R, "edge_of_stability": lr_R * eigenvalue_R / 2}
        if self.test and number in self.sharpness | {0}:
            at_logits = {"logits": step.logits_RBK, "logit_gradient": step.logit_gradient_RBK}
            drawn = {name: value_RBK.flatten(1) for name, value_RBK in at_logits.items()}
            drawn["gradient"] = step.gradients_RP
            self.histograms |= {f"{name}@{number}": diagnostics.histogram(value) for name, value in drawn.items()}
        self._add_point(number, _to_host(values, self.alive_R))

    def _update(self, step: _Step) -> None:
        """Clip the gradients and update the parameters."""
        gradients_RP = step.gradients_RP
        if self.clips:
            gradients_RP.mul_((self.clip_R1 / (step.norm_R.unsqueeze(1) + 1e-6)).clamp(max=1))
        lr_R1 = self.lr_SR1[step.number]
        if not self.all_alive:
            lr_R1 = lr_R1 * self.alive_R.unsqueeze(1)
            # The parameters of diverged runs no longer change. On the CPU a mask would take longer than the whole
            # update; on a GPU a loop would have to wait for the device.
            if self.cohort.device.type == "cpu":
                for run in (~self.alive_R).nonzero().flatten().tolist():
                    gradients_RP[run].zero_()
            else:
                gradients_RP.masked_fill_(~self.alive_R.unsqueeze(1), 0)
        with self.cohort.pack.untouched_parameters():
            self.updater.step(gradients_RP, lr_R1)

    def _recent(self, step: int) -> dict[str, Tensor]:
        """Return mean training loss and accuracy, (R,), since the last point, or of the first step."""
        since = self.points[-1].step if self.points else 0
        return {f"train_{name}": self.trace[name][since : max(step, 1)].mean(0) for name in ("loss", "accuracy")}

    def _add_point(self, step: int, values: dict[str, np.ndarray]) -> Point:
        self.points.append(Point(step, step / self.per_epoch, step / self.steps, values))
        return self.points[-1]


def _to_cpu(value: Any) -> Any:
    """Copy nested tensors to the host's memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    return type(value)(map(_to_cpu, value)) if isinstance(value, list | tuple) else value


def _layout(value: Any) -> Any:
    """Return nested tensors with shapes and types in their places."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return {key: _layout(item) for key, item in value.items()}
    return [*map(_layout, value)] if isinstance(value, list | tuple) else type(value)


def _sharpness(cohort: Cohort, inputs_VBx: Tensor, labels_VB: Tensor, direction_RP: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalue of the Hessian on a few examples, (R,), and its eigenvector, (R, P)."""
    few = slice(0, SHARPNESS_EXAMPLES)
    cohort.pack.train(False)  # training mode would change the statistics of batch norm
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        loss_R = cohort.loss(cohort.logits(inputs_VBx[:, few]), cohort.spread(labels_VB[:, few])).mean(1)
    eigenpair = diagnostics.hessian_eigenvalue(loss_R, cohort.pack.leaves, direction_RP, SHARPNESS_ITERATIONS)
    cohort.pack.train(True)
    return eigenpair


def _to_host(values: dict[str, Tensor], alive_R: Tensor) -> dict[str, np.ndarray]:
    """Copy values, (R,) each, to the host's memory in one transfer; NaN for runs that have diverged."""
    stacked = torch.stack([value.detach() for value in values.values()]).masked_fill(~alive_R, math.nan)
    return dict(zip(values, stacked.cpu().numpy(), strict=True))


def _training_metrics(points: Sequence[Point], trace: dict[str, Tensor], runs: int) -> dict[str, Tensor]:
    """Return the metrics of the course of training, each (R,)."""

    def over_points(name: str, reduce: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        values = [point.values[name] for point in points if name in point.values]
        return torch.as_tensor(reduce(np.stack(values)) if values else np.full(runs, np.nan))

    result = {f"train_{name}": over_points(f"train_{name}", lambda values: values[-1]) for name in ("loss", "accuracy")}
    result |= {f"grad_norm_{name}": value for name, value in diagnostics.trace_statistics(trace["grad_norm"]).items()}
    for part in ("logits", "backbone"):
        result[f"grad_norm_{part}_init"] = over_points(f"grad_norm_{part}", lambda values: values[0])
    result["backbone_cv"] = diagnostics.trace_statistics(trace["backbone"])["cv"]
    result["loss_spikes"] = diagnostics.loss_spikes(trace["loss"])
    result["coupling"] = over_points("coupling", lambda values: values.mean(0))
    result["row_sum"] = over_points("row_sum", lambda values: values.mean(0))
    result["hessian_eigenvalue"] = over_points("hessian_eigenvalue", lambda values: values[-1])
    result["edge_of_stability"] = over_points("edge_of_stability", lambda values: values.max(0))
    return result


def _drawn(histograms: dict[str, tuple[Tensor, Tensor]], runs: int) -> list[dict[str, Any]]:
    """Return the distributions of each run by `name@step`."""
    named = {name: (edges_Rb.tolist(), counts_Rb.tolist()) for name, (edges_Rb, counts_Rb) in histograms.items()}
    return [
        {name: {"edges": edges[run], "counts": counts[run]} for name, (edges, counts) in named.items()}
        for run in range(runs)
    ]


def _outcomes(
    evaluation: Evaluation,
    predicted: dict[str, np.ndarray] | None,
    steps: list[int],
    alive_R: Tensor,
    num_classes: int,
    mode: str,
) -> list[Outcome]:
    """Split the results of the pack into the outcome of each run."""
    table = torch.stack([value.double().cpu() for value in evaluation.metrics.values()], 1).tolist()
    by_block = {name: value_RG.cpu().tolist() for name, value_RG in evaluation.blocks.items()}
    chance = metrics.chance_level(num_classes).items()
    guess = {f"{split}_{name}": value for split in evaluation.curves for name, value in chance}
    outcomes = []
    for run, alive in enumerate(alive_R.tolist()):
        values = dict(zip(evaluation.metrics, table[run], strict=True))
        own_blocks = {name: values_R[run] for name, values_R in by_block.items()}
        if alive:
            curves = {split: curves_R[run] for split, curves_R in evaluation.curves.items()}
            own_predictions = predicted and {name: values_Rx[run] for name, values_Rx in predicted.items()}
            outcomes.append(Outcome(steps[run], None, values, own_blocks, curves, own_predictions, mode))
        else:
            measured = {name: value for name, value in values.items() if name.startswith("grad_norm")}
            values = dict.fromkeys(values, math.nan) | guess | measured
            guessed = {name: [guess.get(name, math.nan)] * len(block) for name, block in own_blocks.items()}
            guessed |= {"size": own_blocks["size"]} if own_blocks else {}
            outcomes.append(Outcome(steps[run], steps[run], values, guessed, None, None, mode))
    return outcomes
