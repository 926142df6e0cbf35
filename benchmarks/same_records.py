"""Compare the records of studies that two versions of the code have made: they must be equal but for times.

    python benchmarks/same_records.py BEFORE/outputs AFTER/outputs

compares every study that lies in both folders: verdicts.json and each run's history.csv and predictions.npz byte for
byte, results.csv in all columns but `wall_s`, and run.json in all keys but those of `IGNORED`. Exits with 1 where
anything differs.
"""

import sys
from pathlib import Path

import pandas as pd

from headtohead.record.files import differences, read_arrays, read_json

# Times, the checksum that counts them, the code that ran, and sizes of event files, which hold times; release 0.1 wrote
# no version of the layout.
IGNORED = ("wall_s", "checksum", "version", "environment.commit", "environment.versions.headtohead")


def compare_runs(before: Path, after: Path) -> list[str]:
    """List the differences between two folders of runs."""
    lines = []
    for path in sorted(before.iterdir()):
        other = after / path.name
        if not (other / "run.json").exists():
            lines.append(f"{other}: missing")
            continue
        old, new = read_json(path / "run.json"), read_json(other / "run.json")
        events = [f"bytes.{name}" for name in {**old["bytes"], **new["bytes"]} if "tfevents" in name]
        lines += [f"{other}/run.json: {line}" for line in differences(old, new, [*IGNORED, *events])]
        if (path / "history.csv").read_bytes() != (other / "history.csv").read_bytes():
            lines.append(f"{other}/history.csv: differs")
        if (path / "predictions.npz").exists():
            arrays, others = (read_arrays(folder / "predictions.npz") for folder in (path, other))
            if any((arrays[name] != others[name]).any() for name in arrays):
                lines.append(f"{other}/predictions.npz: differs")
    names = ({path.name for path in folder.iterdir()} for folder in (before, after))
    return lines + [f"{after / name}: not there before" for name in sorted(set.difference(*reversed([*names])))]


def main() -> None:
    before, after = map(Path, sys.argv[1:])
    studies = [path.parent.name for path in sorted(before.glob("*/results.csv")) if (after / path.parent.name).exists()]
    lines, runs = [], 0
    for study in studies:
        old, new = before / study, after / study
        tables = [pd.read_csv(folder / "results.csv", dtype=str).drop(columns="wall_s") for folder in (old, new)]
        if not tables[0].equals(tables[1]):
            lines.append(f"{new}/results.csv: differs")
        if (old / "verdicts.json").read_bytes() != (new / "verdicts.json").read_bytes():
            lines.append(f"{new}/verdicts.json: differs")
        lines += compare_runs(old / "runs", new / "runs")
        runs += len(tables[0])
    print("\n".join(lines[:40]))
    print(f"{len(studies)} studies, {runs} runs, {len(lines)} differences: {', '.join(studies)}")
    sys.exit(bool(lines) or not studies)


if __name__ == "__main__":
    main()
