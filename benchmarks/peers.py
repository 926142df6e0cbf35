"""Time the ways to train the runs of a case: packs, eager PyTorch, JAX, Lightning, and the matrix products alone.

Every function yields without end the seconds per step and run of one block of steps after another.

Shape suffixes: R runs, B batch, I inputs and O outputs of a layer.
"""

import math
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from cases import Case
from torch import nn

from headtohead.runner.packs import choose_packing
from headtohead.training.config import Config
from headtohead.training.heads import Softmax
from headtohead.training.loop import train
from headtohead.training.optimizers import SGD
from headtohead.training.packing import is_stackable

# Blocks between two starts of a training, which are not timed: nobody trains these runs much longer.
BLOCKS = 8


def headtohead(case: Case) -> Iterator[float]:
    """One pack, as large as a study packs such runs."""
    runs = _pack(case)
    while True:
        before = None
        for point in islice(train(runs, case.pool, test=False), BLOCKS):
            now = time.perf_counter()
            if before:
                yield (now - before[1]) / (point.step - before[0]) / len(runs)
            before = point.step, time.perf_counter()


def headtohead_bfloat16(case: Case) -> Iterator[float]:
    """Run `headtohead` in half precision."""
    return headtohead(replace(case, overrides=(*case.overrides, "precision=bfloat16")))


def _pack(case: Case) -> list[Config]:
    module = case.runs[0].model.build(case.pool.input_shape, case.pool.num_classes)
    parameters = sum(value.numel() for value in module.parameters())
    shape = math.prod(case.pool.input_shape), case.pool.num_classes
    packing = choose_packing(case.runs[0], is_stackable(module), parameters, *shape)
    runs = case.lasting(BLOCKS)
    return runs[:: max(1, len(runs) // packing.size)][: packing.size]  # of both heads alike


def products(case: Case) -> Iterator[float]:
    """The matrix products of one pack and nothing else: forward, gradients of the weights, gradients of the inputs."""
    runs = len(_pack(case))
    size = case.runs[0].training.batch_size
    model = case.runs[0].model.build(case.pool.input_shape, case.pool.num_classes)
    shapes = [layer.weight.shape for layer in model.modules() if isinstance(layer, nn.Linear)]
    weights_ROI = [torch.randn(runs, *shape) for shape in shapes]
    biases_RO1 = [torch.randn(runs, outputs, 1) for outputs, _ in shapes]
    inputs_RBI = [torch.randn(runs, size, inputs) for _, inputs in shapes]
    gradients_RBO = [torch.randn(runs, size, outputs) for outputs, _ in shapes]
    layers = list(zip(weights_ROI, biases_RO1, inputs_RBI, gradients_RBO, strict=True))
    while True:
        started = time.perf_counter()
        for _ in range(case.steps):
            for weight_ROI, bias_RO1, inputs, _ in layers:
                torch.baddbmm(bias_RO1, weight_ROI, inputs.mT)
            for number, (weight_ROI, _, inputs, gradient) in enumerate(layers):
                torch.bmm(gradient.mT, inputs)
                if number:
                    torch.bmm(weight_ROI.mT, gradient.mT)
        yield (time.perf_counter() - started) / case.steps / runs


def eager(case: Case, channels_last: bool = False) -> Iterator[float]:
    """One run after another: tensors in memory, a fused optimiser, the loss that PyTorch brings, no logging."""
    inputs, labels = case.standardised()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    inputs = inputs.contiguous(memory_format=layout) if channels_last else inputs
    size = case.runs[0].training.batch_size
    # A block of each run in turn: of both heads alike.
    for run in cycle(case.runs[:: max(1, len(case.runs) // 2)]):
        model = run.model.build(case.pool.input_shape, case.pool.num_classes).to(memory_format=layout)
        options = run.optimizer
        optimizer = (
            torch.optim.SGD(model.parameters(), options.lr, options.momentum, fused=True)
            if isinstance(options, SGD)
            else torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay, fused=True)
        )
        batches = _batches(len(inputs), size)
        for step in range(case.steps + 3):
            if step == 3:
                started = time.perf_counter()
            index = next(batches)
            logits = model(inputs[index])
            if isinstance(run.head, Softmax):
                loss = F.cross_entropy(logits, labels[index])
            else:
                targets = F.one_hot(labels[index], case.pool.num_classes).float()
                loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield (time.perf_counter() - started) / case.steps


def eager_channels_last(case: Case) -> Iterator[float]:
    """Run `eager` with the memory layout in which convolutions are often faster."""
    return eager(case, channels_last=True)


def _jax_run(case: Case) -> tuple[Callable, Callable]:
    """Return the functions that start and update one run, given its learning rate."""
    import jax
    import jax.numpy as jnp
    import optax

    run = case.runs[0]
    model = run.model.build(case.pool.input_shape, case.pool.num_classes)
    sizes = [layer.weight.shape for layer in model.modules() if isinstance(layer, nn.Linear)]
    batch_norm = any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())

    def optimizer(lr):
        if isinstance(run.optimizer, SGD):
            return optax.sgd(lr, momentum=run.optimizer.momentum)
        return optax.adamw(lr, weight_decay=run.optimizer.weight_decay)

    def start(key, lr):
        layers = []
        for wide, narrow in ((inputs_, outputs) for outputs, inputs_ in sizes):
            key, drawn = jax.random.split(key)
            bound = wide**-0.5
            weight = jax.random.uniform(drawn, (wide, narrow), minval=-bound, maxval=bound)
            layers.append({"weight": weight, "bias": jnp.zeros(narrow), "scale": jnp.ones(narrow)})
        statistics = [(jnp.zeros(narrow), jnp.ones(narrow)) for narrow, _ in sizes[:-1]]
        return layers, statistics, optimizer(lr).init(layers)

    def loss(layers, statistics, x, y):
        moved = []
        for layer, (mean, variance) in zip(layers[:-1], statistics, strict=True):
            x = x @ layer["weight"]
            if batch_norm:
                batch_mean, batch_variance = x.mean(0), x.var(0)
                moved.append((0.9 * mean + 0.1 * batch_mean, 0.9 * variance + 0.1 * batch_variance))
                x = (x - batch_mean) * jax.lax.rsqrt(batch_variance + 1e-5) * layer["scale"]
            x = jax.nn.relu(x + layer["bias"])
        logits = x @ layers[-1]["weight"] + layers[-1]["bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), moved if batch_norm else statistics

    def update(state, lr, x, y):
        layers, statistics, memory = state
        gradients, statistics = jax.grad(loss, has_aux=True)(layers, statistics, x, y)
        changes, memory = optimizer(lr).update(gradients, memory, layers)
        return optax.apply_updates(layers, changes), statistics, memory

    return start, update


def jax(case: Case) -> Iterator[float]:
    """All runs as one program: vmap over seeds and, within a seed, over learning rates; scan over steps; jit.

    All runs train softmax, the cheaper head, and those of a seed share their batches.
    """
    import jax
    import jax.numpy as jnp

    inputs, labels = (jnp.asarray(part.numpy()) for part in case.standardised())
    inputs = inputs.reshape(len(inputs), -1)
    size = case.runs[0].training.batch_size
    lrs = jnp.asarray([*case.lrs, *case.lrs])
    start, update = _jax_run(case)

    @jax.jit
    def block(state, index_SVB):
        def step(state, index_VB):
            def of_a_seed(state, index_B):
                return jax.vmap(update, in_axes=(0, 0, None, None))(state, lrs, inputs[index_B], labels[index_B])

            return jax.vmap(of_a_seed)(state, index_VB), None

        return jax.lax.scan(step, state, index_SVB)[0]

    keys = jax.random.split(jax.random.key(0), case.seeds)
    state = jax.vmap(lambda key: jax.vmap(start, in_axes=(None, 0))(key, lrs))(keys)
    batches = [_batches(len(inputs), size) for _ in range(case.seeds)]
    while True:
        started = time.perf_counter()
        drawn = [[next(stream) for stream in batches] for _ in range(case.steps)]
        state = jax.block_until_ready(
            block(state, jnp.asarray(torch.stack([torch.stack(row) for row in drawn]).numpy()))
        )
        yield (time.perf_counter() - started) / case.steps / len(case.runs)


def lightning(case: Case) -> Iterator[float]:
    """One run after another with a DataLoader over torchvision's dataset, as Lightning's tutorials write it."""
    from lightning import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader
    from torchvision.datasets import FashionMNIST
    from torchvision.transforms import Compose, Normalize, ToTensor

    run = case.runs[0]

    class Classifier(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = run.model.build(case.pool.input_shape, case.pool.num_classes)

        def training_step(self, batch, batch_index):
            x, y = batch
            loss = F.cross_entropy(self.model(x), y)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), run.optimizer.lr, weight_decay=run.optimizer.weight_decay)

    class Times(Callback):
        def __init__(self):
            self.at = []

        def on_train_batch_end(self, *_):
            self.at.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        images, labels = case.pool.inputs[:, 0], case.pool.labels.to(torch.uint8)
        for prefix in ("train", "t10k"):
            for name, array in (("images-idx3", images), ("labels-idx1", labels)):
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                (raw / f"{prefix}-{name}-ubyte").write_bytes(header + array.numpy().tobytes())
        transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
        dataset = FashionMNIST(folder, train=True, transform=transform)
        loader = DataLoader(dataset, batch_size=run.training.batch_size, shuffle=True)
        while True:
            times = Times()
            trainer = Trainer(
                max_steps=case.steps + 1,
                accelerator="cpu",
                callbacks=[times],
                default_root_dir=folder,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Classifier(), loader)
            yield (times.at[-1] - times.at[0]) / case.steps


def _batches(count: int, size: int) -> Iterator[torch.Tensor]:
    """Endless batches of indices, a fresh permutation every epoch."""
    while True:
        yield from torch.randperm(count)[: count - count % size].split(size)


WAYS = {
    function.__name__: function
    for function in (headtohead, headtohead_bfloat16, products, eager, eager_channels_last, jax, lightning)
}
