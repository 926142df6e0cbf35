"""A study is refused before it writes anything."""

import pytest
from data_files import pictures


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("broken", ["train/red/0.png", "val/green/1.jpeg", "test/blue/1.bmp"])
@pytest.mark.parametrize("size", [0, 30, -20])
def test_a_broken_file_of_any_split_stops_a_study_before_any_training(command, tmp_path, stream, broken, size):
    for split in ("train", "val", "test"):
        pictures(tmp_path / "pictures" / split, count=2)
    file = tmp_path / "pictures" / broken
    file.write_bytes(file.read_bytes()[: size or None] if size else b"")
    data = ["dataset=image_folder", "dataset.root=pictures", f"dataset.stream={stream}", "dataset.workers=0"]
    result = command(*data, "head=softmax,sigmoid", "model=linear", "name=x")
    assert result.status == 2
    assert f"cannot read {file}: " in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=iris", "dataset.root=mine.csv"], "dataset.root: no such key; "),
        (
            ["dataset=image_folder", "dataset.root=.", "dataset.workers=4294967296"],
            "dataset.workers=4294967296: from 0",
        ),
    ],
)
def test_keys_of_the_dataset_are_refused(command, arguments, message):
    result = command(*arguments)
    assert result.status == 2
    assert result.err.startswith(f"headtohead: {message}")
