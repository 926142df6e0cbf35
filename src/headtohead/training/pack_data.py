"""The runs of a pack with their heads and what each sees of the data.

Shape suffixes: R runs, B batch, N examples, K classes, V views of the data (one per seed and label noise); x the
axes of one input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from headtohead.training import data, metrics
from headtohead.training.config import PRECISIONS, Config
from headtohead.training.data import Pool, Split
from headtohead.training.models import initialise
from headtohead.training.packing import Pack

# Values of each run, with the runs as the first axis.
T = TypeVar("T", Tensor, dict[str, Tensor])


class Cohort:
    """Runs trained at once, at their start: weights from each run's seed, classifier bias from its head.

    Args:
        runs: configurations that differ only as `training.may_share_a_pack` allows.
        pool: the examples, on the device to train on.

    Attributes:
        views: what the runs see of the pool. Runs that share a seed and the label noise share a view.
        pack: the models.
    """

    def __init__(self, runs: Sequence[Config], pool: Pool):
        self.runs, self.pool, self.device = runs, pool, pool.device
        precision = runs[0].settings.precision
        self.dtype = PRECISIONS[precision]
        # Autocast is for the model, never for the loss; even switched off, to enter it costs time at every step.
        half = precision == "bfloat16"
        self._of_model = torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()
        self._of_loss = torch.autocast(self.device.type, enabled=False) if half else nullcontext()

        keys = [(run.settings.seed, run.dataset.label_noise) for run in runs]
        distinct = {key: run.dataset for key, run in zip(keys, runs, strict=True)}
        self.views = [data.view(pool, dataset, seed) for (seed, _), dataset in distinct.items()]
        self._seed_of_view = [seed for seed, _ in distinct]
        view_of_run = [list(distinct).index(key) for key in keys]
        self._view_of_run_R = torch.tensor(view_of_run, device=self.device)

        shape, num_classes = pool.input_shape, pool.num_classes
        seeds = {run.settings.seed for run in runs}
        model, head = runs[0].model, runs[0].head
        modules = {seed: initialise(model, head, shape, num_classes, seed) for seed in seeds}
        self.pack = Pack([modules[run.settings.seed] for run in runs], self.device, self.dtype)
        for bias_K, run, view in zip(self.pack.view("classifier.bias"), runs, view_of_run, strict=True):
            bias_K.copy_(run.head.initial_bias(self.views[view].prior))
        if runs[0].training.zero_classifier:
            self.pack.view("classifier.weight").zero_()

    def __len__(self) -> int:
        return len(self.runs)

    def state(self) -> dict[str, Any]:
        """The weights, the statistics of norms and the generator that dropout draws from, for `restore`."""
        state = {
            "parameters": self.pack.parameters_RP,
            "buffers": self.pack.buffers,
            "generator": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            state["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Be as the cohort of the same runs was that gave this state."""
        self.pack.parameters_RP.copy_(state["parameters"])
        for name, saved in state["buffers"].items():
            self.pack.buffers[name].copy_(saved)
        torch.set_rng_state(state["generator"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generator"], self.device)

    def spread(self, tensor_Vx: Tensor) -> Tensor:
        """What a view holds, to each of its runs: (R, x)."""
        if len(self.views) == 1:
            return tensor_Vx.expand(len(self), *tensor_Vx.shape[1:])
        return tensor_Vx.index_select(0, self._view_of_run_R)

    def batches(self, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless training batches from the step `start` on: inputs (V, B, x) and labels (V, B)."""
        config = self.runs[0]
        return data.batches(
            self.pool, self.views, config.dataset, self._seed_of_view, config.training.batch_size, self.dtype, start
        )

    def chunks(self, split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """A split in order, or its first `limit` examples: inputs (V, n, x) and labels (V, n)."""
        return data.evaluation_chunks(self.pool, self.views, split, self.dtype, len(self), limit)

    def logits(self, inputs_VBx: Tensor) -> Tensor:
        """(R, B, K), in the precision of the weights."""
        with self._of_model:
            logits_RBK = self.pack(self.spread(inputs_VBx))
        return logits_RBK.to(self.dtype).contiguous()

    def differentiate(self, inputs_VBx: Tensor, labels_RB: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean loss of the batch (R,), logits, their gradient, and that of all parameters: `Pack.differentiate`."""

        def loss(logits_RBK: Tensor) -> tuple[Tensor, Tensor]:
            gradient_RBK = torch.empty_like(logits_RBK)
            with self._of_loss:
                loss_RB = self.by_head(
                    lambda head, *batch: head.loss_and_gradient(*batch), logits_RBK, labels_RB, gradient_RBK
                )
            return loss_RB, gradient_RBK

        with self._of_model:
            return self.pack.differentiate(self.spread(inputs_VBx), loss)

    def loss(self, logits_RBK: Tensor, labels_RB: Tensor) -> Tensor:
        """Of each example by the head of its run, (R, B)."""
        return self.by_head(lambda head, *batch: head.loss(*batch), logits_RBK, labels_RB)

    def examples(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> metrics.Examples:
        """What `metrics.per_example` says of all chunks, each value (R, N), with the models in evaluation mode."""
        self.pack.train(False)
        with torch.no_grad():
            parts = [
                self.by_head(metrics.per_example, self.logits(inputs_VNx), self.spread(labels_VN))
                for inputs_VNx, labels_VN in chunks
            ]
        self.pack.train(True)
        return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}

    def by_head(self, function: Callable[..., T], *tensors_Rx: Tensor) -> T:
        """`function(head, *tensors)` for each stretch of runs with equal heads, put together again."""
        stretches = [(head, len([*group])) for head, group in groupby(run.head for run in self.runs)]
        heads, sizes = zip(*stretches, strict=True)
        parts: list[Any] = [*map(function, heads, *(tensor_Rx.split(sizes) for tensor_Rx in tensors_Rx))]
        joined: Any = parts[0]
        if len(parts) > 1 and isinstance(joined, dict):
            joined = {name: torch.cat([part[name] for part in parts]) for name in joined}
        elif len(parts) > 1:
            joined = torch.cat(parts)
        return joined
