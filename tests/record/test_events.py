"""Event files hold what TensorBoard and its plugins read."""

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as Tensors
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from headtohead.record import events


def scalars(folder, tag):
    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_scalars_are_what_tensorboard_reads(tmp_path):
    with events.Events(tmp_path) as writer:
        writer.add(0, events.scalars({"train/loss": 1.5, "val/nll": 0.25}))
        writer.add(7, events.scalars({"train/loss": 0.5, "val/nll": float("nan")}))
    assert scalars(tmp_path, "train/loss") == [(0, 1.5), (7, 0.5)]
    assert scalars(tmp_path, "val/nll") == [(0, 0.25)]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 1023, 1024, 1026, 5000])
def test_checksums_are_those_of_tensorboard(size):
    data = np.random.default_rng(size).bytes(size)
    assert events.crc32c(data) == pywrap_tensorflow.crc32c(data)


def test_steps_are_seen_before_the_file_is_closed(tmp_path, monkeypatch):
    writer = events.Events(tmp_path)
    writer.add(0, events.scalars({"loss": 1.0}))
    monkeypatch.setattr(events, "SECONDS", -1.0)
    writer.add(1, events.scalars({"loss": 2.0}))
    assert scalars(tmp_path, "loss") == [(0, 1.0), (1, 2.0)]


def test_a_reader_that_has_the_page_open_drops_what_was_replaced(tmp_path):
    """Neither doubled nor stale points, though the new curve has other steps and fewer of them."""
    reader = EventAccumulator(str(tmp_path))
    for version in range(6):
        with events.Events(tmp_path, replace=True) as writer:
            for step in range(9 - version):
                assert len(list(tmp_path.glob("*tfevents*"))) == min(version, 1 + events.KEPT), (
                    "shown before it was whole"
                )
                writer.add(step, events.scalars({"loss": version}))
        expected = [(step, version) for step in range(9 - version)]
        if version % 2:
            assert [(event.step, event.value) for event in reader.Reload().Scalars("loss")] == expected
        assert scalars(tmp_path, "loss") == expected
    assert len(list(tmp_path.iterdir())) == 1 + events.KEPT


def test_what_fails_half_way_replaces_nothing(tmp_path):
    with events.Events(tmp_path, replace=True) as writer:
        writer.add(0, events.scalars({"loss": 1.0}))
    with pytest.raises(RuntimeError), events.Events(tmp_path, replace=True):
        raise RuntimeError
    assert scalars(tmp_path, "loss") == [(0, 1.0)] and len(list(tmp_path.iterdir())) == 1


def test_appended_values_leave_the_others(tmp_path):
    events.append(tmp_path, events.scalars({"b": 1.0}))
    assert not list(tmp_path.iterdir())
    with events.Events(tmp_path) as writer:
        writer.add(5, events.scalars({"a": 1.0}))
    events.append(tmp_path, events.scalars({"b": 2.0}))
    assert scalars(tmp_path, "a") == [(5, 1.0)] and scalars(tmp_path, "b") == [(0, 2.0)]


def test_a_histogram_has_its_counts(tmp_path):
    values = np.random.default_rng(0).normal(size=1000)
    counts, edges = np.histogram(values, 30)
    with events.Events(tmp_path) as writer:
        writer.add(0, [events.histogram("logits", edges, counts)])
    (read,) = EventAccumulator(str(tmp_path)).Reload().Histograms("logits")
    value = read.histogram_value
    assert (value.num, value.min, value.max) == (1000, edges[0], edges[-1])
    assert value.bucket == counts.tolist() and value.bucket_limit == edges[1:].tolist()
    assert value.sum == pytest.approx(values.sum(), abs=1000 * np.diff(edges)[0] / 2)


def test_precision_and_recall_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    positive = rng.random(500) < 0.3
    score = np.clip(rng.normal(0.4 + 0.3 * positive, 0.2), 0, 1)
    thresholds = np.linspace(0, 1, 11)
    counts = [np.array([(score[chosen] >= t).sum() for t in thresholds]) for chosen in (positive, ~positive)]
    value = events.precision_recall("class", *counts)
    table = tensor_util.make_ndarray(value.tensor)
    for index, threshold in enumerate(thresholds):
        predicted = score >= threshold
        if predicted.any():
            assert table[4, index] == pytest.approx(precision_score(positive, predicted))
        assert table[5, index] == pytest.approx(recall_score(positive, predicted))
    assert (table[:4].sum(0) == 500).all()


def test_columns_of_hyperparameters_are_of_one_kind():
    assert events.hparam_values([0.1, 1, 0.1]) == [0.1, 1]
    mixed = events.hparam_values([True, "-", None, 2])
    assert mixed == sorted(["true", "-", "null", "2"])
    assert [events.hparam_cell(value, mixed) for value in (True, "-", None, 2)] == ["true", "-", "null", "2"]
    assert events.hparam_cell(3, events.hparam_values([3, 4])) == 3


def test_hyperparameters_are_what_the_plugin_parses(tmp_path):
    with events.Events(tmp_path) as writer:
        writer.add(0, [events.session_start({"head": "softmax", "lr": 0.5})])
        writer.add(9, [events.session_end(True)])
    events.append(tmp_path, [events.experiment({"head": ["sigmoid", "softmax"], "lr": [0.1, 0.5]}, {"final/a": "a"})])
    content = Tensors(str(tmp_path)).Reload().PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["head"].string_value == "softmax" and start.hparams["lr"].number_value == 0.5
    columns = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    domains = {info.name: [*info.domain_discrete] for info in columns.hparam_infos}
    assert domains == {"head": ["sigmoid", "softmax"], "lr": [0.1, 0.5]}
    assert metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG]).status == 1
