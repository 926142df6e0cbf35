"""A recorded run is trained again and compared with its record."""

import json

from conftest import TINY


def runs_of(study):
    return sorted(path.parent for path in study.glob("runs/*/run.json"))


def test_a_run_alone_is_bitwise_what_it_was(command, tmp_path):
    assert command("name=one", "seed=3", "model.dropout=0.2", *TINY).status == 0
    (folder,) = runs_of(tmp_path / "outputs/one")
    result = command("reproduce", str(folder))
    assert result.status == 0, result.err
    assert "bitwise equal in all" in result.out and "environment" not in result.out


def test_a_run_of_a_pack_is_equal_within_the_bound_or_the_difference_is_named(command, tmp_path):
    arguments = ["-m", "name=many", "head=softmax,sigmoid", "optimizer.lr=0.1,0.3", "seed=0,1", "precision=float64"]
    assert command(*arguments, *TINY).status == 0
    for folder in runs_of(tmp_path / "outputs/many"):
        result = command("reproduce", str(folder))
        assert result.status == 0, result.out
        assert "bitwise equal in all" in result.out or "equal within 1e-09" in result.out
    path = folder / "run.json"
    run = json.loads(path.read_text())
    run["metrics"]["val_accuracy"] += 0.01
    run["environment"]["versions"]["torch"], run["checksum"] = "1.0", ""
    path.write_text(json.dumps(run))
    result = command("reproduce", str(folder))
    assert result.status == 1
    assert "different in 1 of" in result.out and "val_accuracy" in result.out
    assert "environment: versions.torch: 1.0, now" in result.out


def test_a_folder_without_a_record_is_refused(command, tmp_path):
    result = command("reproduce", "nowhere")
    assert result.status == 2 and "nowhere: no record of a run; accepted:" in result.err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    result = command("reproduce", "broken")
    assert result.status == 2 and "broken: its record is broken (JSONDecodeError: " in result.err
