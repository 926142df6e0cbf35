"""Cohorts: the runs of a pack with their networks, heads and data.

Shape suffixes: R runs, B batch, N examples of a split, n examples of a chunk, K classes, V views of the data (one per
seed, fold and label noise); x the axes of one input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headtohead.training import data, metrics, splits
from headtohead.training.balance import Balance
from headtohead.training.config import PRECISIONS, Config
from headtohead.training.data import Pool, Split, View
from headtohead.training.features import Features, Shift, once
from headtohead.training.heads import call_key, joined
from headtohead.training.models import initialise
from headtohead.training.packing import Pack

# One tensor or several by name, with the runs as their first axis.
T = TypeVar("T", Tensor, dict[str, Tensor])


class Cohort:
    """Runs that are trained at once, with initial weights from each run's seed and a classifier bias from its head.

    Args:
        runs: configurations that differ only as `loop.may_share_a_pack` allows.
        pool: examples, on the device to train on.

    Attributes:
        views: examples of each split. Runs that share a seed, a fold and the label noise share a view.
        class_counts_RK: number of training examples of each class.
        pack: networks of the runs; their classifiers alone where features are computed once (`features`).
        dtype: type of the weights.
    """

    def __init__(self, runs: Sequence[Config], pool: Pool):
        self.runs, self.pool, self.device = runs, pool, pool.device
        precision = runs[0].settings.precision
        self.dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
        # Autocast is for the model, never for the loss. Entering it costs time at every step, even if it is disabled.
        half = precision == "bfloat16"
        self._model_precision = torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()
        self._loss_precision = torch.autocast(self.device.type, enabled=False) if half else nullcontext()

        keys = [(run.settings.seed, run.settings.fold, run.dataset.label_noise) for run in runs]
        distinct = {key: run.dataset for key, run in zip(keys, runs, strict=True)}
        weights = runs[0].model.pretrained
        scaling = weights and weights.preprocessing.scaling_of(runs[0].dataset.white)
        self.views = [
            replace(data.view(pool, dataset, seed, fold), scaling=scaling)
            for (seed, fold, _), dataset in distinct.items()
        ]
        self._seed_of_view = [splits.stream_seed(seed, fold) for seed, fold, _ in distinct]
        view_of_run = [list(distinct).index(key) for key in keys]
        self._view_of_run_R = torch.tensor(view_of_run, device=self.device)

        self._features, model = None, runs[0].model
        if once(model, runs[0].dataset):
            self._features = Features(pool, self.views, self._seed_of_view, model, self.dtype, self._model_precision)
        seed_of_run = [splits.stream_seed(run.settings.seed, run.settings.fold) for run in runs]
        self.pack = Pack(self._networks(seed_of_run), self.device, self.dtype, seed_of_run)
        numbers_of_run = [run.head.classifier.numbers for run in runs]
        for name in numbers_of_run[0]:
            number_R = self.pack.parameters_RP.new_tensor([numbers[name] for numbers in numbers_of_run])
            self.pack.restore_buffers({f"classifier.{name}": number_R})
        if "classifier.bias" in self.pack.columns:  # not if it is frozen
            for bias_K, run, view in zip(self.pack.view("classifier.bias"), runs, view_of_run, strict=True):
                bias_K.copy_(run.head.initial_bias(self.views[view].prior))
        # What the pack reads in place of inputs.
        self._examples = self._features.examples() if self._features else (pool, self.views)
        if runs[0].training.zero_classifier and "classifier.weight" in self.pack.columns:
            self.pack.view("classifier.weight").zero_()
        counts = [view.train_labels.bincount(minlength=pool.num_classes).double() for view in self.views]
        self.class_counts_RK = torch.stack([counts[view] for view in view_of_run])
        self._balance = Balance.of([run.head for run in runs], self.class_counts_RK, self.pack.parameters_RP)
        groups = [[*group] for _, group in groupby((run.head for run in runs), call_key)]
        self._heads = [joined(group, self.pack.parameters_RP) for group in groups]
        self._runs_of_head = [len(group) for group in groups]

    def _networks(self, seed_of_run: Sequence[int]) -> list[nn.Module]:
        """Return the network of each run with its initial weights; runs of one seed and one model share theirs."""
        keys = [(seed, repr(run.model)) for seed, run in zip(seed_of_run, self.runs, strict=True)]
        networks: dict[tuple[int, str], nn.Module] = {}
        for key, run in zip(keys, self.runs, strict=True):
            if key in networks:
                continue
            build = partial(initialise, run.model, run.head, self.pool.input_shape, self.pool.num_classes, key[0])
            networks[key] = build()
            if self._features:
                classifier = self._features.add(networks[key], key[0])
                if classifier is None:
                    self._features = None
                networks[key] = classifier or build()
        return [networks[key] for key in keys]

    def __len__(self) -> int:
        return len(self.runs)

    def state(self) -> dict[str, Any]:
        """Return the trained weights and the statistics of norms, for `restore`."""
        return {"parameters": self.pack.parameters_RP, "buffers": self.pack.buffers}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of another cohort of the same runs."""
        self.pack.parameters_RP.copy_(state["parameters"])
        self.pack.restore_buffers(state["buffers"])

    @property
    def at_once(self) -> int:
        """Number of runs that evaluate a chunk at once."""
        # In a loop each run gets the chunks that it would get alone, since it may draw random numbers for them.
        return 1 if self.pack.mode == "loop" else len(self)

    @property
    def runs_and_views(self) -> list[tuple[Tensor, View]]:
        """The views, each after the numbers of its runs, ascending, on the CPU."""
        view_of_run_R = self._view_of_run_R.cpu()
        return [((view_of_run_R == index).nonzero().flatten(), view) for index, view in enumerate(self.views)]

    def spread(self, tensor_Vx: Tensor) -> Tensor:
        """Give each run the values of its view: (R, x)."""
        if len(self.views) == 1:
            return tensor_Vx.expand(len(self), *tensor_Vx.shape[1:])
        return tensor_Vx.index_select(0, self._view_of_run_R)

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches endlessly from the step `start` on: inputs (V, B, x) and labels (V, B).

        Where features are computed once, they are the inputs, here and in `chunks`.
        """
        config, (pool, views) = self.runs[0], self._examples
        return data.batches(
            pool, views, config.dataset, self._seed_of_view, config.training.batch_size, self.dtype, start
        )

    def chunks(self, split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a split in order, or its first `limit` examples: inputs (V, n, x) and labels (V, n)."""
        return data.evaluation_chunks(*self._examples, split, self.dtype, self.at_once, limit)

    def test_chunks(
        self, shift: Shift | None, limit: int | None = None, pool: Pool | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the test split as `chunks` does, with its inputs shifted.

        Args:
            shift: what to do with them.
            limit: number of examples to take, from the first; None takes all.
            pool: whose test split to take in place of that of each view.
        """
        views = self.views if pool is None else [replace(view, test=pool.test) for view in self.views]
        pool = pool or self.pool
        if self._features:
            tested = self._features.tested(pool, [view.test[:limit] for view in views], shift)
            yield from data.evaluation_chunks(*tested, "test", self.dtype, self.at_once)
            return
        start = 0
        for inputs_Vnx, labels_Vn in data.evaluation_chunks(pool, views, "test", self.dtype, self.at_once, limit):
            yield shift(inputs_Vnx, start) if shift else inputs_Vnx, labels_Vn
            start += labels_Vn.shape[1]

    def logits(self, inputs_VBx: Tensor) -> Tensor:
        """Return logits (R, B, K), in the precision of the weights."""
        with self._model_precision:
            logits_RBK = self.pack(self.spread(inputs_VBx))
        return logits_RBK.to(self.dtype).contiguous()

    def differentiate(self, inputs_VBx: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the losses of a batch, the logits and the gradients at the logits and at all parameters.

        The shapes are those of `Pack.differentiate`.
        """

        def loss(logits_RBK: Tensor, run: int | None = None) -> tuple[Tensor, Tensor]:
            gradient_RBK, labels, balance = torch.empty_like(logits_RBK), labels_RB, self._balance
            if run is not None:
                labels, balance = labels_RB[run : run + 1], balance.part(slice(run, run + 1))
            batch = balance.to_loss(logits_RBK), labels, gradient_RBK
            with self._loss_precision:
                if run is not None:
                    loss_RB = self.runs[run].head.loss_and_gradient(*batch)
                else:
                    loss_RB = self.by_head(lambda head, *batch: head.loss_and_gradient(*batch), *batch)
            weight_RB = balance.weights(labels)
            if weight_RB is not None:
                loss_RB = loss_RB * weight_RB
                gradient_RBK.mul_(weight_RB.unsqueeze(-1))
            return loss_RB, gradient_RBK

        with self._model_precision:
            return self.pack.differentiate(self.spread(inputs_VBx), loss)

    def loss(self, logits_RBK: Tensor, labels_RB: Tensor) -> Tensor:
        """Return the loss of each example by the head of its run, (R, B)."""
        loss_RB = self.by_head(lambda head, *batch: head.loss(*batch), self._balance.to_loss(logits_RBK), labels_RB)
        weight_RB = self._balance.weights(labels_RB)
        return loss_RB if weight_RB is None else loss_RB * weight_RB

    def log_probabilities(self, inputs_VNx: Tensor) -> Tensor:
        """Return the logarithms of the predicted probabilities, (R, N, K), with the networks in evaluation mode."""
        self.pack.train(False)
        with torch.no_grad():
            log_q_RNK = self._log_probabilities(self.logits(inputs_VNx))
        self.pack.train(True)
        return log_q_RNK

    def scores(self, inputs_VNx: Tensor) -> dict[str, Tensor]:
        """Return `metrics.scores` of inputs, each (R, N), with the networks in evaluation mode."""
        self.pack.train(False)
        with torch.no_grad():
            logits_RNK = self.logits(inputs_VNx)
            result = self.by_head(metrics.scores, logits_RNK, self._log_probabilities(logits_RNK))
        self.pack.train(True)
        return result

    def _log_probabilities(self, logits_RNK: Tensor) -> Tensor:
        return self._balance.predicted(self.by_head(lambda head, logits: head.log_probabilities(logits), logits_RNK))

    def examples(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> metrics.PerExample:
        """Return `metrics.per_example` of all chunks, each value (R, N), with the networks in evaluation mode."""
        self.pack.train(False)
        with torch.no_grad():
            parts = [
                self._examples_of(self.logits(inputs_VNx), self.spread(labels_VN)) for inputs_VNx, labels_VN in chunks
            ]
        self.pack.train(True)
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def _examples_of(self, logits_RNK: Tensor, labels_RN: Tensor) -> metrics.PerExample:
        if self._balance.in_prediction_RK is None:
            examples = self.by_head(metrics.per_example, logits_RNK, labels_RN)
        else:
            log_q_RNK = self._log_probabilities(logits_RNK)
            score_RNK = self._balance.scores(logits_RNK, log_q_RNK)
            examples = self.by_head(metrics.per_example, logits_RNK, labels_RN, log_q_RNK, score_RNK)
        if self._balance.changes_loss:
            examples["loss"] = self.loss(logits_RNK, labels_RN)
        return examples

    def predict(self, logits_RNK: Tensor) -> Tensor:
        """Return the predicted class of each example, (R, N)."""
        if self._balance.in_prediction_RK is None:
            return metrics.top_class(logits_RNK)
        return metrics.top_class(self._balance.scores(logits_RNK, self._log_probabilities(logits_RNK)))

    def by_head(self, function: Callable[..., T], *tensors_Rx: Tensor) -> T:
        """Return `function(head, *tensors)` of all runs, called once for consecutive runs with one kind of head."""
        if len(self._heads) == 1:
            return function(self._heads[0], *tensors_Rx)
        split = [tensor_Rx.split(self._runs_of_head) for tensor_Rx in tensors_Rx]
        parts: list[Any] = [*map(function, self._heads, *split)]
        result: Any
        if isinstance(parts[0], Tensor):
            result = torch.cat(parts)
        else:
            result = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return result
