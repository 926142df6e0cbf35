"""Features once: what a frozen backbone makes of each example is computed a single time, for all runs and steps.

With `model.freeze=backbone` and without augmentation the inputs of the classifier never change. A pack then holds the
classifiers alone, and trains them on features as on a table that is not standardised again.

Features depend on the weights of the backbone and on the standardisation of its inputs. Views that have both in common
share them, within a process from one pack to the next: different learning rates and heads of a seed and fold, and all
seeds and folds with pre-trained weights, whose preprocessing replaces standardisation.

Shape suffixes: V views of the data, B batch, N examples, n examples of a chunk, I features; x the axes of one input.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from headtohead.training import attributes, data
from headtohead.training.data import Dataset, Pool, View
from headtohead.training.dropout import global_states
from headtohead.training.freezing import BACKBONE
from headtohead.training.memory import memory
from headtohead.training.models import Model

# A function of inputs (V, n, x) and the index of the first of them in the split, to shifted inputs.
Shift = Callable[[Tensor, int], Tensor]

# The features of a pack, and those that are kept for the next packs, take at most this part of the memory each.
PART_OF_MEMORY = 8


def once(model: Model, dataset: Dataset) -> bool:
    """Return whether the inputs of the classifier are the same at every step, unless the network draws numbers."""
    return model.freeze == BACKBONE and not dataset.flip and dataset.crop_padding == 0


def trained_part(model: Model, dataset: Dataset, network: nn.Module) -> nn.Module:
    """Return what of a network a pack trains: its classifier alone with features that are computed once."""
    return _classifier(network) if once(model, dataset) else network


def _classifier(network: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(classifier=network.get_submodule("classifier")))


class _Backbone:
    """A frozen network up to its classifier: a function from inputs (B, x) to features (B, I).

    Attributes:
        identity: a text that differs between backbones of different features.
    """

    def __init__(self, network: nn.Module, model: Model):
        digest = hashlib.sha256(f"{model} {network} {attributes.digest(network)}".encode())
        # Not state_dict, which lacks buffers that are not saved.
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if not name.startswith("classifier."):
                digest.update(_bytes(value))
        self.identity = digest.hexdigest()
        # The classifier goes to a pack. Its place is kept by a copy, which draws nothing.
        classifier = network.get_submodule("classifier")
        self._last = copy.deepcopy(classifier).eval()
        for name in [name for name, layer in network.named_modules(remove_duplicate=False) if layer is classifier]:
            network.set_submodule(name, self._last)
        if next(network.parameters()).device.type == "cpu":
            # Convolutions on the CPU are fastest in this layout.
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._network = network

    @torch.no_grad()
    def __call__(self, inputs_Bx: Tensor) -> Tensor:
        found: list[Tensor] = []
        with self._last.register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0])):
            self._network(inputs_Bx)
        return found[-1]

    def constant(self, inputs_Bx: Tensor) -> Tensor | None:
        """Return the features; None if they may be others at the next call: it draws numbers or has changed."""
        buffers = {name: buffer.clone() for name, buffer in self._network.named_buffers()}
        device = inputs_Bx.device
        accelerator = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(accelerator, device_type=device.type), global_states() as drew:
            before = _states(device)
            features_BI = self(inputs_Bx)
            same = not drew() and all(map(torch.equal, before, _states(device)))
        now = dict(self._network.named_buffers())
        return features_BI if same and all(torch.equal(now[name], buffers[name]) for name in buffers) else None


def _bytes(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().numpy()


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state(device)]


class Features:
    """The features of a pack.

    Args:
        pool: examples.
        views: views of the pack.
        seed_of_view: for each view the seed of its initial weights.
        model: the model.
        dtype: type of the weights and the features.
        precision: context in which networks are called.
    """

    def __init__(
        self,
        pool: Pool,
        views: Sequence[View],
        seed_of_view: Sequence[int],
        model: Model,
        dtype: torch.dtype,
        precision: AbstractContextManager[Any],
    ):
        self._pool, self._views, self._seed_of_view = pool, views, seed_of_view
        self._model, self._dtype, self._precision = model, dtype, precision
        self._backbones: dict[str, _Backbone] = {}
        self._of_seed: dict[int, str] = {}

    def add(self, network: nn.Module, seed: int) -> nn.Module | None:
        """Take the network of a seed, and return its classifier, to be trained.

        Returns:
            None for a first network whose features are not the same at each call, or do not fit into memory.
        """
        classifier = _classifier(network)
        backbone = _Backbone(network.to(self._pool.device, self._dtype), self._model)
        if not self._backbones:
            view = self._views[0]
            (inputs_1Bx,) = data.standardised_chunks(self._pool, [view], view.train[None, :2], self._dtype, 1)
            with self._precision:
                features_BI = backbone.constant(inputs_1Bx[0])
            if features_BI is None or not self._fit(features_BI.shape[1]):
                return None
        self._of_seed[seed] = backbone.identity
        self._backbones.setdefault(backbone.identity, backbone)
        return classifier

    def _fit(self, width: int) -> bool:
        numbers = sum(len(view.train) + len(view.val) + len(view.test) for view in self._views) * width
        return numbers * self._dtype.itemsize <= memory(self._pool.device) / PART_OF_MEMORY

    def examples(self) -> tuple[Pool, list[View]]:
        """Return the examples of all views as features."""
        indices = [torch.cat([view.train, view.val, view.test]).unique() for view in self._views]
        pool, starts = self._features(self._pool, indices, None)
        views: list[View] = []
        for view, index_N, start in zip(self._views, indices, starts, strict=True):
            train, val, test = (start + torch.searchsorted(index_N, part) for part in (view.train, view.val, view.test))
            views.append(_FeatureView(train, view.train_labels, val, test, view.prior, pool.inputs))
        return pool, views

    def tested(self, pool: Pool, tests: Sequence[Tensor], shift: Shift | None) -> tuple[Pool, list[View]]:
        """Return test examples of each view as features, in order, of inputs that are shifted first.

        Args:
            pool: where the examples are, with inputs as those of the pack.
            tests: indices into it, (N,), for each view.
        """
        features, starts = self._features(pool, tests, shift)
        none = starts.new_empty(0)
        views: list[View] = []
        for view, test, start in zip(self._views, tests, starts, strict=True):
            index_N = start + torch.arange(len(test), device=start.device)
            views.append(_FeatureView(none, none, none, index_N, view.prior, features.inputs))
        return features, views

    def _features(self, pool: Pool, indices: Sequence[Tensor], shift: Shift | None) -> tuple[Pool, Tensor]:
        """Return the features of some examples of each view as a pool, and where in it those of each view begin."""
        distinct: dict[int, tuple[Tensor, Tensor]] = {}
        of_view = []
        for view, seed, index_N in zip(self._views, self._seed_of_view, indices, strict=True):
            features_NI = self._computed(self._backbones[self._of_seed[seed]], view, pool, index_N, shift)
            distinct[id(features_NI)] = features_NI, pool.labels[index_N]
            of_view.append(id(features_NI))
        features, labels = zip(*distinct.values(), strict=True)
        ends = torch.tensor([len(part) for part in features]).cumsum(0).tolist()
        start_of = dict(zip(distinct, [0, *ends[:-1]], strict=True))
        none = torch.empty(0, dtype=torch.long, device=pool.device)
        joined = Pool(
            inputs=features[0] if len(features) == 1 else torch.cat(features),
            labels=torch.cat(labels),
            test=none,
            rest=none,
            classes=self._pool.classes,
        )
        return joined, torch.tensor([start_of[key] for key in of_view], device=pool.device)

    def _computed(self, backbone: _Backbone, view: View, pool: Pool, index_N: Tensor, shift: Shift | None) -> Tensor:
        """Return features (N, I), those of an earlier call if nothing differs."""
        numbers = hashlib.sha256()
        for part in (view.mean, view.std, index_N):
            numbers.update(_bytes(part))
        key = backbone.identity, pool, numbers.hexdigest(), shift, self._dtype, type(self._precision)
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
        parts, start = [], 0
        for inputs_1nx in data.standardised_chunks(pool, [view], index_N.unsqueeze(0), self._dtype, 1):
            shifted_1nx = shift(inputs_1nx, start) if shift else inputs_1nx
            with self._precision:
                parts.append(backbone(shifted_1nx[0]).to(self._dtype))
            start += inputs_1nx.shape[1]
        features_NI = torch.cat(parts)
        _keep(key, features_NI)
        return features_NI


# Features of this process by what they depend on, the last used at the end.
_kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()


def _keep(key: tuple[Any, ...], features_NI: Tensor) -> None:
    """Keep features for the next packs, in place of those that were not used for the longest time."""
    _kept[key] = features_NI
    most = memory(features_NI.device) / PART_OF_MEMORY
    while sum(kept.nbytes for kept in _kept.values()) > most:
        _kept.popitem(last=False)


class _FeatureView(View):
    """Examples of one seed and fold whose inputs are features, which are not standardised."""

    @property
    def mean(self) -> Tensor:
        return torch.zeros(1, dtype=torch.float64, device=self.prior.device)

    @property
    def std(self) -> Tensor:
        return torch.ones(1, dtype=torch.float64, device=self.prior.device)
