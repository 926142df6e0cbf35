"""The loop: trains a pack of runs and yields what happens. It writes nothing.

Shape suffixes: R runs, S steps, B batch, N examples, K classes, V views of the data (one per seed and
label noise); x the axes of one input.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from headtohead import data, diagnostics, metrics
from headtohead.config import PRECISIONS, Config, Training
from headtohead.data import Pool
from headtohead.heads import Head
from headtohead.models import initialise
from headtohead.optimizers import column
from headtohead.packing import Pack


@dataclass(frozen=True)
class Point:
    """What is logged of all runs after `step` updates.

    Attributes:
        step: updates made before it.
        epoch: the same in passes over the training split.
        progress: the share of all steps.
        values: (R,) for each tag; NaN for runs that have diverged.
    """

    step: int
    epoch: float
    progress: float
    values: dict[str, np.ndarray]

    def rows(self) -> list[dict[str, np.floating]]:
        """The values of each run, those that are NaN left out."""
        runs = len(next(iter(self.values.values())))
        return [
            {tag: values_R[run] for tag, values_R in self.values.items() if not np.isnan(values_R[run])}
            for run in range(runs)
        ]


@dataclass(frozen=True)
class Outcome:
    """The end of one run.

    Attributes:
        steps: updates made.
        diverged_at: the step whose loss or gradient was not finite, or None.
        metrics: final metrics; those of a uniform guess where the run diverged.
        pack_mode: how the pack computed its forward, `Pack.mode`.
    """

    steps: int
    diverged_at: int | None
    metrics: dict[str, float]
    pack_mode: str | None


def may_share_a_pack(config: Config) -> object:
    """A key: runs with equal keys can be trained in one pack.

    The head, the optimiser's numbers, the seed and the label noise may differ; shapes and the batch
    schedule may not.
    """
    dataset = {name: value for name, value in vars(config.dataset).items() if name != "label_noise"}
    settings = config.settings
    return (
        type(config.dataset),
        tuple(dataset.items()),
        repr(config.model),
        type(config.optimizer),
        config.training,
        (settings.name, settings.device, settings.precision, settings.pack_size),
    )


def schedule_factors(training: Training, steps: int) -> np.ndarray:
    """The learning rate of each step as a share of `optimizer.lr`, (S,)."""
    warmup = round(training.warmup * steps)
    step = np.arange(steps)
    progress = np.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
    shapes = {
        "constant": np.ones(steps),
        "linear": 1 - progress,
        "cosine": (1 + np.cos(math.pi * progress)) / 2,
    }
    return np.where(step < warmup, (step + 1) / max(warmup, 1), shapes[training.schedule])


def logged_steps(training: Training, steps: int) -> tuple[list[int], set[int]]:
    """The steps at which a run is logged, and those of them that evaluate; the last of both is `steps`."""
    points = np.unique(np.linspace(0, steps, training.points).round().astype(int)) if training.points > 1 else [steps]
    chosen = np.linspace(len(points) - 1, 0, training.evaluations, endpoint=training.evaluations > 1)
    return [int(step) for step in points], {int(points[round(index)]) for index in chosen}


def train(runs: Sequence[Config], pool: Pool, test: bool) -> Iterator[Point | list[Outcome]]:
    """Train a pack of runs: yields a Point at each logged step, and at last the Outcome of each run.

    Args:
        runs: configurations that differ only as `may_share_a_pack` allows.
        pool: the examples, on the device to train on.
        test: whether the test split is read, once, after the last step.
    """
    config, device = runs[0], pool.inputs.device
    dtype = PRECISIONS[config.settings.precision]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.settings.precision == "bfloat16")
    # Dropout alone draws from the global generator.
    torch.manual_seed(data.generator(config.settings.seed, "dropout").initial_seed())

    # Runs that share a seed and the label noise share a view of the data, and its batches.
    keys = [(run.settings.seed, run.dataset.label_noise) for run in runs]
    distinct = {key: run.dataset for key, run in zip(keys, runs, strict=True)}
    views = [data.view(pool, dataset, seed) for (seed, _), dataset in distinct.items()]
    view_of_run = [list(distinct).index(key) for key in keys]
    view_of_run_R = torch.tensor(view_of_run, device=device)

    def spread(tensor_Vx: Tensor) -> Tensor:
        """What a view holds, to each of its runs: (R, x)."""
        if len(views) == 1:
            return tensor_Vx.expand(len(runs), *tensor_Vx.shape[1:])
        return tensor_Vx.index_select(0, view_of_run_R)

    def evaluate(split: str) -> dict[str, Tensor]:
        pack.train(False)
        parts = []
        with torch.no_grad():
            for inputs_VNx, labels_VN in data.evaluation_chunks(pool, views, split, dtype, len(runs)):
                with autocast:
                    logits_RNK = pack(spread(inputs_VNx))
                parts.append(_by_head(metrics.per_example, heads, logits_RNK.to(dtype), spread(labels_VN)))
        pack.train(True)
        return metrics.summarise({name: torch.cat([part[name] for part in parts], 1) for name in parts[0]})

    heads = [run.head for run in runs]
    pack = _initial_pack(runs, pool, [views[index].prior for index in view_of_run], dtype)
    updater = config.optimizer.updater([run.optimizer for run in runs], pack.parameters_RP, pack.decayed)

    per_epoch = data.steps_per_epoch(views[0], config.training.batch_size)
    steps = config.training.epochs * per_epoch
    logged, evaluated = logged_steps(config.training, steps)
    logged = set(logged)
    factors_S = torch.as_tensor(schedule_factors(config.training, steps), dtype=dtype, device=device)
    lr_SR1 = factors_S.view(-1, 1, 1) * column([run.optimizer.lr for run in runs], pack.parameters_RP)
    clips = any(run.optimizer.clip_norm for run in runs)
    clip_R1 = column([run.optimizer.clip_norm or math.inf for run in runs], pack.parameters_RP)

    nan = torch.tensor(math.nan, dtype=dtype, device=device)
    trace = {name: nan.repeat(steps, len(runs)) for name in ("loss", "accuracy", "grad_norm")}
    alive_R = torch.ones(len(runs), dtype=torch.bool, device=device)
    since = 0

    def recent(name: str, step: int) -> Tensor:
        """Mean over the steps since the last point, (R,); at the first point, of the step itself."""
        return trace[name][since : max(step, 1)].mean(0)

    seeds = [seed for seed, _ in distinct]
    batches = data.batches(pool, views, config.dataset, seeds, config.training.batch_size, dtype)
    for step in range(steps):
        inputs_VBx, labels_VB = next(batches)
        labels_RB = spread(labels_VB)
        with autocast:
            logits_RBK = pack(spread(inputs_VBx))
        logits_RBK = logits_RBK.to(dtype)
        loss_R = _by_head(lambda head, *batch: head.loss(*batch), heads, logits_RBK, labels_RB).mean(1)
        *gradients, logit_gradient_RBK = torch.autograd.grad(
            loss_R.sum(), [*pack.leaves, logits_RBK], materialize_grads=True
        )
        gradients_RP = pack.store_gradients(gradients)
        norm_R = torch.linalg.vector_norm(gradients_RP, dim=1)

        alive_R &= (loss_R + norm_R).isfinite()
        trace["loss"][step] = loss_R.detach().where(alive_R, nan)
        trace["accuracy"][step] = (logits_RBK.argmax(-1) == labels_RB).to(dtype).mean(1).where(alive_R, nan)
        trace["grad_norm"][step] = norm_R.where(alive_R, nan)

        if step in logged:
            values = {f"train/{name}": recent(name, step) for name in ("loss", "accuracy")}
            values |= {"lr": lr_SR1[step, :, 0]}
            norms = diagnostics.gradient_norms(gradients_RP, pack.columns)
            norms |= {"logits": diagnostics.logit_gradient_norm(logit_gradient_RBK)}
            values |= {f"grad_norm/{name}": norm_R for name, norm_R in norms.items()}
            if step in evaluated:
                values |= _tagged("val", evaluate("val"))
            yield Point(step, step / per_epoch, step / steps, _to_host(values, alive_R))
            since = step
            if not alive_R.any():
                break

        lr_R1 = lr_SR1[step]
        if clips:
            gradients_RP.mul_((clip_R1 / (norm_R.unsqueeze(1) + 1e-6)).clamp(max=1))
        # To ask whether all are alive costs nothing on the CPU; a GPU would have to be waited for.
        if device.type != "cpu" or not alive_R.all():
            gradients_RP.masked_fill_(~alive_R.unsqueeze(1), 0)
            lr_R1 = lr_R1 * alive_R.unsqueeze(1)
        updater.step(gradients_RP, lr_R1)

    last = {f"train_{name}": recent(name, steps) for name in ("loss", "accuracy")}
    final = evaluate("val")
    # The last update can be the one too many.
    alive_R &= final["nll"].isfinite()
    values = _tagged("val", final) | {name.replace("_", "/"): value for name, value in last.items()}
    yield Point(steps, config.training.epochs, 1.0, _to_host(values, alive_R))

    last |= {f"val_{name}": value for name, value in final.items()}
    if test:
        last |= {f"test_{name}": value for name, value in evaluate("test").items()}
    last |= diagnostics.trace_statistics(trace["grad_norm"])
    yield _outcomes(last, trace["loss"], alive_R, pool.num_classes, pack.mode)


def _initial_pack(runs: Sequence[Config], pool: Pool, priors: Sequence[Tensor], dtype: torch.dtype) -> Pack:
    """The pack at step 0: weights from each run's seed, classifier bias from its head."""
    shape, num_classes = pool.input_shape, pool.num_classes
    modules = {
        seed: initialise(runs[0].model, shape, num_classes, seed) for seed in {run.settings.seed for run in runs}
    }
    pack = Pack([modules[run.settings.seed] for run in runs], pool.inputs.device, dtype)
    for bias_K, run, prior_K in zip(pack.view("classifier.bias"), runs, priors, strict=True):
        bias_K.copy_(run.head.initial_bias(prior_K))
    return pack


def _by_head(function, heads: Sequence[Head], logits_RBK: Tensor, labels_RB: Tensor):
    """`function(head, logits, labels)` for each stretch of runs with equal heads, put together again."""
    parts, start = [], 0
    for head, group in groupby(heads):
        end = start + len(list(group))
        parts.append(function(head, logits_RBK[start:end], labels_RB[start:end]))
        start = end
    if isinstance(parts[0], dict):
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return torch.cat(parts)


def _tagged(split: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tags of metrics: ambiguity has a tag of its own on validation, which no test metric shares."""
    return {name if "/" in name else f"{split}/{name}": value for name, value in values.items()}


def _to_host(values: dict[str, Tensor], alive_R: Tensor) -> dict[str, np.ndarray]:
    """All values in one transfer, NaN where a run has diverged."""
    stacked = torch.stack(list(values.values())).masked_fill(~alive_R, math.nan)
    return dict(zip(values, stacked.cpu().numpy(), strict=True))


def _outcomes(
    metrics_R: dict[str, Tensor], loss_SR: Tensor, alive_R: Tensor, num_classes: int, mode: str
) -> list[Outcome]:
    table = torch.stack([value.double() for value in metrics_R.values()], 1).tolist()
    known_R = loss_SR.isfinite().sum(0).tolist()
    guess = {
        f"{split}_{name}": value
        for split in ("val", "test")
        if f"{split}_nll" in metrics_R
        for name, value in metrics.of_a_guess(num_classes).items()
    }
    outcomes = []
    for row, alive, known in zip(table, alive_R.tolist(), known_R, strict=True):
        values = {name.replace("/", "_"): value for name, value in zip(metrics_R, row, strict=True)}
        if not alive:
            measured = {name: value for name, value in values.items() if name.startswith("grad_norm")}
            values = dict.fromkeys(values, math.nan) | guess | measured
        outcomes.append(Outcome(known, None if alive else known, values, mode))
    return outcomes
