"""Measure every case beside its peers, and write the table and the figure of README.md.

    python benchmarks/bench.py           everything, about 25 minutes on two idle cores
    python benchmarks/bench.py WORD      the cases whose name contains the word; "growth" draws the figure
    python benchmarks/bench.py --render  the table again from results.csv, without measuring

results.csv keeps the rows of every machine. A row that is measured again replaces that of the same processor. On a
machine with more cores two of them are used.
"""

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import commands
import growth
import numpy as np
import pandas as pd
from machine import has_bfloat16, processor, result, versions
from scipy import stats
from speed import paces

FOLDER = Path(__file__).parent
COLUMNS = ["case", "peer", "limit", "ours", "theirs", "ratio", "within", "processor", "versions"]
CELLS = ["case", "limit", "ours", "peer", "ratio", "within", "machine"]
# The limit of a comparison in which ours should be no different.
SAME = "same"
# What is measured: by way the values of each round, or the reason why there are none.
Found = Mapping[str, Sequence[float] | str]


@dataclass(frozen=True)
class Case:
    """What is measured together and in turns.

    Attributes:
        limits: by peer the most that ours may take as a share of it, or None for a comparison without a limit. The
            peer "" stands for a limit on ours itself, in the unit.
        measure: function of the values by way; those of ours come first.
    """

    name: str
    unit: str
    limits: Mapping[str, float | str | None]
    measure: Callable[[], Found]

    def rows(self, found: Found) -> list[dict[str, str]]:
        """Return the cells of the rows, one for each peer."""
        way, ours = next(iter(found.items()))
        return [self._row(way, ours, peer, found[peer] if peer else ours) for peer in self.limits]

    def _row(self, way: str, ours: Sequence[float] | str, peer: str, theirs: Sequence[float] | str) -> dict[str, str]:
        limit, row = self.limits[peer], self.empty_row(peer)
        if isinstance(ours, str) or isinstance(theirs, str):
            return row | {"ours": f"not measured: {ours if isinstance(ours, str) else theirs}"}
        row["ours"] = f"{'' if way == 'headtohead' else named(way) + ' '}{spread(ours)} {self.unit}".strip()
        if not peer:
            return row | {"within": yes(None if limit is None else np.median(ours) <= limit)}
        row["theirs"] = f"{spread(theirs)} {self.unit}".strip()
        if limit == SAME:
            difference = np.subtract(ours, theirs)
            half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
            middle = difference.mean()
            return row | {
                "ratio": f"difference {middle:+.4f} ({middle - half:+.4f} to {middle + half:+.4f})",
                "within": yes(abs(middle) <= half),
            }
        # In turns of one round the machine is as fast for both.
        ratios = np.divide(ours, theirs) if len(ours) == len(theirs) else [np.median(ours) / np.median(theirs)]
        return row | {"ratio": spread(ratios), "within": yes(None if limit is None else np.median(ratios) <= limit)}

    def empty_row(self, peer: str) -> dict[str, str]:
        limit = self.limits[peer]
        if limit is None or limit == SAME:
            shown = limit or ""
        else:
            shown = f"{limit:.3g} of {named(peer)}" if peer else f"{limit:g} {self.unit}"
        return {"case": self.name, "peer": peer, "limit": shown} | dict.fromkeys(
            ("ours", "theirs", "ratio", "within"), ""
        )


def named(way: str) -> str:
    """Return the name of a way in the table."""
    function, _, processes = way.partition(" x")
    names = {"jax": "JAX", "lightning": "Lightning", "headtohead_bfloat16": "bfloat16", "headtohead": ""}
    return f"{names.get(function, function.replace('_', ' '))}{' x' + processes if processes else ''}".strip()


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """Return the median with the quartiles."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{number(middle)} ({number(low)} to {number(high)})" if len(values) > 1 else number(middle)


def yes(within: bool | None) -> str:
    return "" if within is None else "yes" if within else "**no**"


def where_bfloat16(measure: Callable[[], Found]) -> Found:
    return measure() if has_bfloat16() else defaultdict(lambda: "no bfloat16 units", headtohead="no bfloat16 units")


def of_speed(case: str, first: str, others: Mapping[str, float | None], **options: bool) -> dict[str, object]:
    """Return unit, limits and measure of a case of `speed.py`."""
    return {"unit": "µs", "limits": others, "measure": partial(paces, case, [first, *others], **options)}


DIGITS = "digits MLP, 16 runs"
FASHION = "Fashion-MNIST"
HALF = of_speed("cnn", "headtohead_bfloat16 x2", {"eager x2": 0.5})
CASES = [
    Case(f"{DIGITS}, idle", **of_speed("digits", "headtohead x2", {
        "jax": 0.75, "products x2": 2.5, "jax x2": None, "eager x2": None, "eager": None})),
    Case(f"{DIGITS}, one core busy", **of_speed("digits", "headtohead x2", {"jax": 1.0, "jax x2": None}, busy=True)),
    Case("digits MLP, 64 runs of 4 seeds", **of_speed("digits of 4 seeds", "headtohead x2", {
        "jax": None, "jax x2": None, "products x2": None})),
    Case(f"{FASHION} MLP with batch norm, 16 runs", **of_speed("mlp", "headtohead x2", {
        "jax": 0.45, "lightning": 1 / 30, "jax x2": None})),
    Case("linear, K = 10,000", **of_speed("linear", "headtohead x2", {"eager": 0.5, "eager x2": 0.5})),
    Case(f"cnn on {FASHION}, bfloat16", **HALF | {"measure": partial(where_bfloat16, HALF["measure"])}),
    Case(f"cnn on {FASHION}, bfloat16: accuracy", "", {"float32": SAME}, partial(
        where_bfloat16, partial(result, "half_precision.py", threads=None))),
    Case(f"cnn on {FASHION}", **of_speed("cnn", "headtohead x2", {"eager_channels_last x2": 0.8, "eager x2": None})),
    Case("tuned study, 512 runs", "s", {"Optuna": 1 / 20, "Optuna x2": 1 / 20}, partial(result, "tuned.py")),
    Case("1,000 linear probes on cached features", "s", {"features": 1.0}, partial(result, "probes.py")),
    Case("default study in one process", "s", {"its loop": 1.3}, commands.loop),
    Case("default study, whole command", "s", {"": 60}, commands.wholes),
    Case("first line of the slowest command", "s", {"": 1}, commands.first_line),
    Case("`--help`", "s", {"": 0.5}, commands.help_),
    Case("`report` of the default study", "s", {"": 2}, commands.report),
    Case("slowest refusal of a wrong value", "s", {"": 1}, partial(commands.refusals, commands.WRONG)),
    Case("the same, of a value that only the data show to be wrong", "s", {"": 1}, partial(
        commands.refusals, commands.WRONG_FOR_DATA)),
    Case("memory of a process that trains the default study", "MB", {"": 500, "import torch": None}, commands.memory),
    Case("of it not of files (RssAnon)", "MB", {"": None}, commands.own_memory),
    Case("on a GPU: these cases with 1, 16, 64, 256 runs, bfloat16, CUDA graphs", "", {"": None},
         lambda: {"headtohead": "no benchmark for a GPU yet"}),
]  # fmt: skip


def table(results: pd.DataFrame, cases: Sequence[Case]) -> str:
    """Return the table in Markdown, in the order of the cases, with a legend of the machines."""
    machines = sorted(set(zip(results.processor, results.versions, strict=True)))
    names = {machine: chr(ord("A") + place) for place, machine in enumerate(machines)}
    lines = [CELLS, ["---"] * len(CELLS)]
    for case in cases:
        for peer in case.limits:
            rows = results[(results.case == case.name) & (results.peer == peer)].to_dict("records")
            for row in rows or [case.empty_row(peer) | {"ours": "not measured"}]:
                machine = names[row["processor"], row["versions"]] if rows else ""
                row |= {"peer": f"{named(peer)} {row['theirs']}".strip(), "machine": machine}
                lines.append([row[name] for name in CELLS])
    legend = [f"- {name}: {of_processor}. {of_versions}." for (of_processor, of_versions), name in names.items()]
    shown = [re.sub(" +", " ", f"| {' | '.join(line)} |") for line in lines]
    return "\n".join([*shown, *([""] if legend else []), *legend])


def read_results() -> pd.DataFrame:
    path = FOLDER / "results.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)


def merge(results: pd.DataFrame, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Return the results with new rows in place of those of the same case, peer and processor."""
    key = ["processor", "case", "peer"]
    return pd.concat([results, pd.DataFrame(rows)]).drop_duplicates(key, keep="last").sort_values(key)


def write(what: str, text: str) -> None:
    """Write a part of README.md, between its marks."""
    path = FOLDER / "README.md"
    marks = rf"(?<=<!-- {what} -->\n).*?(?=<!-- end of {what} -->)"
    path.write_text(re.sub(marks, lambda _: f"\n{text}\n\n", path.read_text(), flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only cases whose name contains it")
    parser.add_argument("--render", action="store_true", help="write the table from results.csv, measure nothing")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    chosen = [] if options.render else [case for case in CASES if options.word.lower() in case.name.lower()]
    draws = not options.render and options.word in "growth"
    if not chosen and not draws and not options.render:
        parser.error(f"{options.word}: no such case; there are: {'; '.join(case.name for case in CASES)}; growth")
    for place, case in enumerate(chosen, 1):
        print(f"{place} of {len(chosen)}: {case.name}", flush=True)
        rows = case.rows(case.measure())
        for row in rows:
            peer = f"{named(row['peer'])} {row['theirs']}".strip()
            print("    " + "; ".join(filter(None, (row["ours"], peer, row["ratio"], row["within"]))), flush=True)
        here = {"processor": processor(), "versions": versions()}
        merge(read_results(), [row | here for row in rows]).to_csv(FOLDER / "results.csv", index=False)
        write("table", table(read_results(), CASES))
    write("table", table(read_results(), CASES))
    if draws:
        write("growth", f"{growth.measure(FOLDER / 'growth.svg')}\n\nMeasured on: {processor()}. {versions()}.")


if __name__ == "__main__":
    main()
