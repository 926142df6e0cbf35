"""TensorBoard event files: values, distributions, pictures, text and hyperparameters as TensorBoard reads them.

A folder is a run of TensorBoard. Values that are written anew go into a file with a later name: its first event tells
readers that have the page open to drop what they read before.
"""

# Protocol buffers make their classes when they are imported; no stubs describe those of TensorBoard.
# pyright: reportAttributeAccessIssue=false

import json
import math
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve import metadata as pr_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util import tensor_util

Value: TypeAlias = Summary.Value
# The number of replaced files that stay in a folder.
KEPT = 2
# The most seconds that a step waits to be written.
SECONDS = 1.0
# The bytes whose checksum is computed at once, and their places.
CHUNK = 1024
PLACES = np.arange(CHUNK)
# The cell of a hyperparameter that a run does not have.
ABSENT = "-"


class Events:
    """A new event file in a folder, as a context. Steps may come in any order, those of one tag must ascend.

    The file is open only while it is written: a pack has a file per run, and a process may open few at once. Opening
    takes longer than writing, so that steps wait up to SECONDS for others.

    Args:
        folder: the folder of the run, made if missing.
        replace: whether the file replaces those before it. It is then written where TensorBoard does not look, and
            shown when the context is left. The last KEPT files before it stay, since TensorBoard's slow reader must
            finish one to find the next.
        started: the time of the first event, by which TensorBoard orders runs and gives them colours; None takes now.
    """

    def __init__(self, folder: Path, replace: bool = False, started: float | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self._old = sorted(folder.glob("*tfevents*"))[:-KEPT] if replace else []
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.headtohead"
        self._aside = folder / f".{time.time_ns()}.partial" if replace else self._path
        self._waiting = [
            Event(wall_time=time.time() if started is None else started, file_version="brain.Event:2"),
            Event(wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)),
        ]
        self._write()

    def add(self, step: int, values: Iterable[Value]) -> None:
        """Take the values of one step, and let readers see them soon."""
        self._waiting.append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._written > SECONDS:
            self._write()

    def close(self) -> None:
        """Write what waits, show the file, if it replaces others, and remove these."""
        self._write()
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

    def _write(self) -> None:
        if self._waiting:
            _append(self._aside, *self._waiting)
        self._waiting, self._written = [], time.monotonic()


def append(folder: Path, values: Iterable[Value]) -> None:
    """Add values to a folder's last event file, if it has one; values that readers have read stay."""
    files = sorted(folder.glob("*tfevents*"))
    if files:
        _append(files[-1], Event(wall_time=time.time(), summary=Summary(value=values)))


def _append(path: Path, *events: Event) -> None:
    records = b"".join(map(_record, (event.SerializeToString() for event in events)))
    with path.open("ab") as file:
        file.write(records)


def _record(data: bytes) -> bytes:
    """Return a record of a TFRecord file: its length and its data, each with a checksum."""
    return b"".join([_header(len(data)), data, _masked_crc(data)])


@cache
def _header(size: int) -> bytes:
    length = struct.pack("<Q", size)
    return length + _masked_crc(length)


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """Return the checksum CRC-32C of some bytes, which TensorBoard's own code computes byte by byte.

    It is linear: a byte adds the same whatever the others are. The register that is left by the bytes before adds to
    the next four.
    """
    crc, table = 0xFFFFFFFF, _crc_table()
    for start in range(0, len(data), CHUNK):
        part = np.frombuffer(data, np.uint8, min(CHUNK, len(data) - start), start).copy()
        part[:4] ^= np.frombuffer(struct.pack("<I", crc), np.uint8)[: len(part)]
        crc = int(np.bitwise_xor.reduce(table[PLACES[-len(part) :], part])) ^ crc >> 8 * len(part)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> np.ndarray:
    """Return what each value of a byte adds to the register of CRC-32C, by its place in CHUNK bytes, (CHUNK, 256)."""
    table = np.empty((CHUNK, 256), np.uint32)
    last = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = last >> 1 ^ np.where(last & 1, np.uint32(0x82F63B78), np.uint32(0))
    table[-1] = last
    for place in range(CHUNK - 2, -1, -1):
        table[place] = table[place + 1] >> 8 ^ last[table[place + 1] & 0xFF]
    return table


def scalars(values: Mapping[str, float | np.floating]) -> list[Value]:
    """Return a value per tag, without those that are NaN."""
    return [Value(tag=tag, simple_value=value) for tag, value in values.items() if not math.isnan(value)]


def histogram(tag: str, edges: npt.ArrayLike, counts: npt.ArrayLike) -> Value:
    """Return a distribution: the counts of H bins, and their edges, of which there are H + 1."""
    edge, count = np.asarray(edges, dtype=float), np.asarray(counts, dtype=float)
    centre = (edge[1:] + edge[:-1]) / 2
    proto = HistogramProto(
        min=edge[0],
        max=edge[-1],
        num=count.sum(),
        sum=(count * centre).sum(),
        sum_squares=(count * centre**2).sum(),
        bucket_limit=edge[1:],
        bucket=count,
    )
    return Value(tag=tag, histo=proto)


def picture(tag: str, png: bytes) -> Value:
    """Return an image in PNG format."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Value(tag=tag, image=Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png))


def text(tag: str, markdown: str) -> Value:
    """Return a page of text in Markdown."""
    metadata = text_metadata.create_summary_metadata(display_name=tag, description="")
    return Value(tag=tag, tensor=tensor_util.make_tensor_proto(markdown), metadata=metadata)


def precision_recall(tag: str, positives_T: np.ndarray, negatives_T: np.ndarray) -> Value:
    """Return a precision-recall curve over T thresholds that divide [0, 1] evenly, upwards from zero.

    Args:
        positives_T: the number of examples of the class that score at least each threshold.
        negatives_T: the same number of examples of other classes.
    """
    tp, fp = positives_T.astype(float), negatives_T.astype(float)
    # Without a prediction nothing is wrong: the curve ends at full precision.
    precision = np.divide(tp, tp + fp, out=np.ones_like(tp), where=tp + fp > 0)
    recall = tp / max(tp[0], 1)
    table = np.stack([tp, fp, fp[0] - fp, tp[0] - tp, precision, recall])
    metadata = pr_metadata.create_summary_metadata(display_name=tag, description="", num_thresholds=len(tp))
    return Value(tag=tag, tensor=tensor_util.make_tensor_proto(table, dtype=np.float32), metadata=metadata)


def margin_charts(charts: Mapping[str, Mapping[str, tuple[str, str, str]]]) -> Value:
    """Return the layout of the Custom Scalars page.

    Args:
        charts: by category and title the tags of a line, of the lower and of the upper bound of its band.
    """

    def chart(title: str, tags: tuple[str, str, str]) -> Any:
        series = layout_pb2.MarginChartContent.Series(**dict(zip(("value", "lower", "upper"), tags, strict=True)))
        return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))

    # The page shows the charts of a category from last to first.
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=category, chart=[chart(title, tags) for title, tags in reversed([*titles.items()])]
            )
            for category, titles in charts.items()
        ]
    )
    tensor = tensor_util.make_tensor_proto(layout.SerializeToString())
    return Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=layout_metadata.create_summary_metadata()
    )


def session_start(hparams: Mapping[str, str | float]) -> Value:
    """Return the hyperparameters of a run, as it starts."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in hparams.items():
        kind = "string_value" if isinstance(value, str) else "number_value"
        setattr(info.hparams[name], kind, value)
    return _hparams(hparams_metadata.SESSION_START_INFO_TAG, session_start_info=info)


def session_end(succeeded: bool) -> Value:
    """Return the status of a run that has ended."""
    status = api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    return _hparams(hparams_metadata.SESSION_END_INFO_TAG, session_end_info=info)


def experiment(domains: Mapping[str, Sequence[str | float]], metrics: Mapping[str, str]) -> Value:
    """Return the columns of the HParams page.

    Args:
        domains: for each hyperparameter all values that occur.
        metrics: for each tag of a metric the name to show.
    """
    described = api_pb2.Experiment()
    for name, values in domains.items():
        words = isinstance(values[0], str)
        kind = api_pb2.DATA_TYPE_STRING if words else api_pb2.DATA_TYPE_FLOAT64
        info = described.hparam_infos.add(name=name, type=kind)
        info.domain_discrete.extend(values)
    for tag, name in metrics.items():
        described.metric_infos.add(name=api_pb2.MetricName(tag=tag), display_name=name)
    return _hparams(hparams_metadata.EXPERIMENT_TAG, experiment=described)


def hparam_values(values: Iterable[object]) -> list[str | float]:
    """Return the distinct values of a hyperparameter in order: numbers if all values are, else text."""
    values = list(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return sorted(set(numbers))
    return sorted({value if isinstance(value, str) else json.dumps(value) for value in values})


def hparam_cell(value: object, column: Sequence[str | float]) -> str | float:
    """Return a value in the type of its column."""
    if isinstance(value, int | float) and not isinstance(column[0], str):
        return value
    return value if isinstance(value, str) else json.dumps(value)


def _hparams(tag: str, **data: object) -> Value:
    metadata = hparams_metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**data))
    return Value(tag=tag, metadata=metadata, tensor=hparams_metadata.NULL_TENSOR)
