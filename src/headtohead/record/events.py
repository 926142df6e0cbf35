"""TensorBoard event files: values, distributions, pictures, text and hyperparameters as TensorBoard reads them.

A folder is a run of TensorBoard. What is written again goes into a file with a later name: its first event tells
readers that have the page open to drop what they read before.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

Value = Summary.Value
KEPT = 2
# What an arm has no setting for shows as this in the table of hyperparameters.
ABSENT = "-"


class Events:
    """A new event file in a folder, as a context. Steps may be written in any order, each tag's own upwards.

    The file is open only while it is written: a pack has as many as runs, and a process may open few at once.

    Args:
        folder: of the run, made if missing.
        replace: write where TensorBoard does not look, and on leaving show the whole file in the place of those before
            it. Of these the last KEPT stay, since TensorBoard's slow reader must finish one to find the next.
    """

    def __init__(self, folder: Path, replace: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self._old = sorted(folder.glob("*tfevents*"))[:-KEPT] if replace else []
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.headtohead"
        self._aside = folder / f".{time.time_ns()}.partial" if replace else self._path
        self._write(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)),
        )

    def add(self, step: int, values: Iterable[Value]) -> None:
        """Write the values of one step and let readers see them."""
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        if self._aside != self._path:
            self._aside.replace(self._path)
            for path in self._old:
                path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self._aside != self._path:
            self._aside.unlink(missing_ok=True)
        else:
            self.close()

    def _write(self, *events: Event) -> None:
        _append(self._aside, *events)


def append(folder: Path, values: Iterable[Value]) -> None:
    """Add values to a folder's last event file, if it has one; what readers have read of it stays."""
    files = sorted(folder.glob("*tfevents*"))
    if files:
        _append(files[-1], Event(wall_time=time.time(), summary=Summary(value=values)))


def _append(path: Path, *events: Event) -> None:
    with path.open("ab") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def scalars(values: Mapping[str, float]) -> list[Value]:
    """A value per tag, those that are NaN left out."""
    return [Value(tag=tag, simple_value=value) for tag, value in values.items() if not math.isnan(value)]


def histogram(tag: str, edges: Sequence[float], counts: Sequence[float]) -> Value:
    """A distribution as counts between edges, of which there is one more."""
    edges, counts = np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)
    centres = (edges[1:] + edges[:-1]) / 2
    proto = HistogramProto(
        min=edges[0],
        max=edges[-1],
        num=counts.sum(),
        sum=(counts * centres).sum(),
        sum_squares=(counts * centres**2).sum(),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Value(tag=tag, histo=proto)


def picture(tag: str, png: bytes) -> Value:
    """An image in PNG format."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Value(tag=tag, image=Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png))


def text(tag: str, markdown: str) -> Value:
    """A page of text in Markdown."""
    metadata = text_metadata.create_summary_metadata(display_name=tag, description="")
    return Value(tag=tag, tensor=tensor_util.make_tensor_proto(markdown), metadata=metadata)


def precision_recall(tag: str, positives_T: np.ndarray, negatives_T: np.ndarray) -> Value:
    """A precision-recall curve.

    Args:
        positives_T, negatives_T: how many examples of the class, and of the others, score at least each of T
            thresholds that divide [0, 1] evenly, upwards from zero.
    """
    tp, fp = positives_T.astype(float), negatives_T.astype(float)
    # Without a prediction nothing is wrong: the curve ends at full precision.
    precision = np.divide(tp, tp + fp, out=np.ones_like(tp), where=tp + fp > 0)
    recall = tp / max(tp[0], 1)
    table = np.stack([tp, fp, fp[0] - fp, tp[0] - tp, precision, recall])
    metadata = pr_metadata.create_summary_metadata(display_name=tag, description="", num_thresholds=len(tp))
    return Value(tag=tag, tensor=tensor_util.make_tensor_proto(table, dtype=np.float32), metadata=metadata)


def margin_charts(charts: Mapping[str, Mapping[str, tuple[str, str, str]]]) -> Value:
    """The layout of the Custom Scalars page: by category and title the tags of a line and of its band's bounds."""

    def chart(title: str, tags: tuple[str, str, str]) -> layout_pb2.Chart:
        series = layout_pb2.MarginChartContent.Series(**dict(zip(("value", "lower", "upper"), tags, strict=True)))
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))

    # The page shows the charts of a category from last to first.
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=category, chart=[chart(title, tags) for title, tags in reversed(titles.items())])
            for category, titles in charts.items()
        ]
    )
    tensor = tensor_util.make_tensor_proto(layout.SerializeToString())
    return Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=layout_metadata.create_summary_metadata()
    )


def session_start(hparams: Mapping[str, str | float]) -> Value:
    """The hyperparameters of a run."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hparams.items():
        kind = "string_value" if isinstance(value, str) else "number_value"
        setattr(info.hparams[name], kind, value)
    return _hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=info)


def session_end(succeeded: bool) -> Value:
    """How a run ended."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=info)


def experiment(domains: Mapping[str, Sequence[str | float]], metrics: Mapping[str, str]) -> Value:
    """The columns of the HParams page: hyperparameters with all values that occur, and metrics' tags with names."""
    described = api_pb2.Experiment()
    for name, values in domains.items():
        words = isinstance(values[0], str)
        kind = api_pb2.DATA_TYPE_STRING if words else api_pb2.DATA_TYPE_FLOAT64
        info = described.hparam_infos.add(name=name, type=kind)
        info.domain_discrete.extend(values)
    for tag, name in metrics.items():
        described.metric_infos.add(name=api_pb2.MetricName(tag=tag), display_name=name)
    return _hparams(hparams_metadata.EXPERIMENT_TAG, experiment=described)


def column(values: Iterable[object]) -> list[str | float]:
    """The distinct values of a hyperparameter in order, all numbers or all text."""
    values = list(values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sorted(set(values))
    return sorted({value if isinstance(value, str) else json.dumps(value) for value in values})


def cell(value: object, column: Sequence[str | float]) -> str | float:
    """A value as the others of its column are."""
    return value if isinstance(value, str) or not isinstance(column[0], str) else json.dumps(value)


def _hparams(tag: str, **data: object) -> Value:
    metadata = hparams_metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**data))
    return Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)
