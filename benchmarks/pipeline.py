"""Measure by trained studies how often verdicts are false, and whether they hold on other draws.

    python benchmarks/pipeline.py null folds 100       100 studies of one head against itself, iris in folds
    python benchmarks/pipeline.py null fixed 100       the same on a fixed test split
    python benchmarks/pipeline.py held wine linear 40  do verdicts of 10 of 40 seeds of the folds hold on 10 others?

All runs come from the command `headtohead`. A null study draws its seeds from those that are trained, and does all else
by itself. Each prints a table of the measured rates beside the nominal ones.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

from headtohead import cli
from headtohead.analysis import study as reading
from headtohead.analysis.choice import best_trials
from headtohead.analysis.claims import judge
from headtohead.analysis.study import Study, read_study
from headtohead.record.run import read_runs, results

TWIN = {"softmax": ("head=softmax",), "twin": ("head=twin",)}
RATES = (0.03, 0.1, 0.3, 1.0)
# A small and quick study, whose learning rates are chosen by chance in part.
CHEAP = ("training.batch_size=16", "training.points=5", "training.evaluations=3", "device=cpu", "hydra/launcher=basic")
NULL = ("dataset=iris", "model=linear", "head=softmax", "training.epochs=10", *CHEAP)
SPLITS = {"folds": (), "fixed": ("dataset.folds=null", "dataset.test_fraction=0.2")}
# Seeds that are trained at each rate, and those of a side of a null study.
POPULATION, SEARCH, LOOKS = 100, 5, (10, 20, 40)
HEADS = "head=softmax,sigmoid,sigmoid_prior"
Row = tuple[str, str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure by trained studies how often verdicts are false.")
    commands = parser.add_subparsers(dest="command", required=True)
    null = commands.add_parser("null")
    null.add_argument("split", choices=SPLITS)
    null.add_argument("studies", type=int)
    held = commands.add_parser("held")
    held.add_argument("dataset")
    held.add_argument("model")
    held.add_argument("seeds", type=int)
    arguments = parser.parse_args()
    # The same runs are judged many times.
    reading.Histories = lru_cache(maxsize=None)(reading.Histories)
    table = Table(title="trained studies", title_justify="left")
    for header in ("rate", "measured", "nominal"):
        table.add_column(header, justify="left" if header == "rate" else "right")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if arguments.command == "null":
            rows = false_verdicts(arguments.split, arguments.studies)
        else:
            rows = held_verdicts(arguments.dataset, arguments.model, arguments.seeds)
        for row in rows:
            table.add_row(*row)
    Console(width=130).print(table)


def false_verdicts(split: str, studies: int) -> Iterator[Row]:
    """Yield rows on null studies: the share in which any claim is supported or refuted at any look so far."""
    population = trained_population(*NULL, *SPLITS[split])
    rng = np.random.default_rng(0)
    false: list[list[bool]] = []
    same_rates: list[bool] = []
    tested: list[int] = []
    counts: Counter[str] = Counter()
    for _ in track(range(studies), "null studies", console=Console(stderr=True)):
        study = null_study(population, rng.permutation(POPULATION))
        verdicts = [judge(part) for part in at_looks(study)]
        tested.append(sum(verdict.seeds > 0 for verdict in verdicts[-1]))
        wrong = [
            [verdict for verdict in of_look if verdict.verdict in ("supported", "refuted")] for of_look in verdicts
        ]
        false.append([any(wrong[: look + 1]) for look in range(len(LOOKS))])
        best = study.record.protocol.best.values()
        same_rates.append(all(len({*rates.values()}) == 1 for rates in best))
        counts.update({verdict.metric for of_look in wrong for verdict in of_look})
    for look, seeds in enumerate(LOOKS):
        title = (
            f"false verdicts in {studies} null studies, {split}, {np.mean(tested):.0f} tests, looks up to {seeds} seeds"
        )
        yield title, share([of_looks[look] for of_looks in false]), "at most 5 %"
    last = np.array(false)[:, -1]
    for title, chosen in (("same", np.array(same_rates)), ("other", ~np.array(same_rates))):
        if chosen.any():
            yield f"  of {chosen.sum()} whose sides chose the {title} rates", share(last[chosen]), ""
    if counts:
        yield "  metrics of false verdicts", ", ".join(f"{name} {count}" for name, count in counts.most_common(4)), ""


def held_verdicts(dataset: str, model: str, seeds: int) -> Iterator[Row]:
    """Yield rows on decided verdicts of ten seeds of the folds: what ten other seeds of the same study say."""
    size = LOOKS[0]
    setting = (f"dataset={dataset}", f"model={model}", HEADS, "training.epochs=20")
    rates = f"optimizer.lr={','.join(map(str, RATES))}"
    headtohead("name=held", *setting, *CHEAP, rates, f"seed=range({SEARCH})", f"protocol.confirm_seeds={seeds}")
    study = read_study(Path("outputs/held"))
    fresh = study.record.protocol.confirm_seeds
    parts = [judge(with_seeds(study, fresh[start : start + size])) for start in range(0, seeds, size)]
    pairs: Counter[tuple[str, str]] = Counter()
    for here, there in permutations(parts, 2):
        for verdict, other in zip(here, there, strict=True):
            # A claim over the grid is judged by the search, which the parts share.
            if verdict.phase == "confirm" and verdict.weight != 0:
                pairs[verdict.verdict, other.verdict] += 1
    different = ("supported", "refuted")
    decided = {pair: count for pair, count in pairs.items() if pair[0] in different}
    contradicted = sum(count for pair, count in decided.items() if pair[1] in different and pair[1] != pair[0])
    total = sum(decided.values())
    title = f"{dataset} {model}, differences shown by {size} seeds that {size} others contradict"
    yield title, f"{contradicted} of {total}" + (f", {contradicted / total:.1%}" if total else ""), "at most 5 %"
    for first in (*different, "equivalent", "inconclusive"):
        others = {second: count for (one, second), count in pairs.items() if one == first}
        shares = ", ".join(f"{word} {count / sum(others.values()):.0%}" for word, count in sorted(others.items()))
        yield f"  {first} here ({sum(others.values())}), there:", shares, ""


def trained_population(*overrides: str) -> Study:
    """Train runs of many seeds at each rate, all of which are tested."""
    for rate in track(RATES, "population", console=Console(stderr=True)):
        headtohead("name=population", *overrides, f"optimizer.lr={rate}", f"seed=range({POPULATION})")
    folder = Path("outputs/population")
    records, _ = read_runs(folder)
    return replace(read_study(folder), records=records, results=results(records.values()))


def null_study(population: Study, seeds: np.ndarray) -> Study:
    """Return a study of a head against itself, on seeds of its own each time.

    Each side searches, chooses its learning rates and confirms by itself.
    """
    side = len(TWIN)
    length = SEARCH + LOOKS[-1]
    parts, best = [], {}
    for arm, own in zip(TWIN, seeds[: side * length].reshape(side, length), strict=True):
        numbers = {int(seed): number for number, seed in enumerate(own)}
        rows = population.results.loc[population.results.seed.isin(numbers)]
        rows = rows.assign(arm=arm, head=arm, seed=rows.seed.map(numbers))
        # The search trains one fold of each seed.
        search = rows.loc[(rows.seed < SEARCH) & (rows.fold == 0)].assign(phase="search")
        best[arm] = {name: best_trials(search, name)[arm] for name in population.record.criteria}
        rates = [trial.lr for trial in best[arm].values()]
        confirmed = rows.loc[(rows.seed >= SEARCH) & rows.lr.isin(rates)].assign(phase="confirm")
        parts += [search, confirmed]
    table = pd.concat(parts, ignore_index=True)
    record = population.record
    classes = next(iter(record.num_classes.values()))
    protocol = replace(
        record.protocol,
        search_seeds=tuple(range(SEARCH)),
        confirm_seeds=tuple(range(SEARCH, length)),
        best={name: {arm: rates[name] for arm, rates in best.items()} for name in record.criteria},
    )
    record = replace(
        record,
        arms=TWIN,
        num_classes=dict.fromkeys(TWIN, classes),
        runs={phase: tuple(table.run[table.phase == phase]) for phase in ("search", "confirm")},
        grid={"optimizer.lr": RATES},
        protocol=protocol,
    )
    study = replace(population, record=record, results=table)
    vars(study)["blocks"] = population.blocks
    return study


def at_looks(study: Study) -> Iterator[Study]:
    """Yield what a study knows at each look."""
    fresh = study.record.protocol.confirm_seeds
    for look, seeds in enumerate(LOOKS):
        yield with_seeds(study, fresh[:seeds], LOOKS[: look + 1])


def with_seeds(study: Study, fresh: Sequence[int], looks: tuple[int, ...] = LOOKS[:1]) -> Study:
    """Return a study as it would be with some of its confirm seeds alone."""
    table = study.results
    kept = table.loc[(table.phase != "confirm") | table.seed.isin(fresh)].reset_index(drop=True)
    protocol = replace(study.record.protocol, confirm_seeds=tuple(fresh), looks=looks)
    part = replace(study, record=replace(study.record, protocol=protocol), results=kept)
    vars(part)["blocks"] = study.blocks
    return part


def share(counted: Sequence[bool] | np.ndarray) -> str:
    """Return a share with its 95 % interval, as text."""
    hits, total = int(np.sum(counted)), len(counted)
    bounds = stats.binomtest(hits, total).proportion_ci(method="wilson")
    return f"{hits / total:.1%} ({bounds.low:.1%} to {bounds.high:.1%})"


def headtohead(*arguments: str) -> None:
    """Run the command `headtohead` in this process, silent unless it fails."""
    sys.argv = ["headtohead", *arguments]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(errors.getvalue() or str(stop.code)) from stop


if __name__ == "__main__":
    main()
