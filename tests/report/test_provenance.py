"""What a report tells about how a study was made."""

from dataclasses import replace

from headtohead.analysis.study import read_study
from headtohead.record.study import DataSummary, read_study_record, write_study
from headtohead.report.provenance import data, facts
from headtohead.testing import make_study


def test_the_data_are_told_with_their_classes_and_splits(tmp_path):
    counts = {"train": (1200, 1), "val": (3, 2), "test": (6, 6)}
    iris = DataSummary(("softmax",), "iris", ("setosa", "other"), counts, ())
    many = DataSummary(("sigmoid",), "big", tuple(map(str, range(30))), {"train": (*range(30),)}, ("3 hidden, as .x",))
    study = make_study(tmp_path / "x", seeds=2)
    record = replace(read_study_record(study), data=(iris, many))
    write_study(study, record)
    first, second = data(record)
    assert first == (
        "iris of softmax: 1,201 train, 5 val, 12 test examples in 2 classes: setosa (1,200 + 3 + 6), other (1 + 2 + 6)"
    )
    assert second.startswith("big of sigmoid: 435 train examples in 30 classes: 0, 1, ")
    assert second.endswith("(0 to 29 each); skipped: 3 hidden, as .x")
    assert f"{first}; {second}" in facts(read_study(study)).values()
