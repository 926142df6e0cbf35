"""Measure whether the statistics hold: how often intervals cover, verdicts are false and effects are detected.

    python benchmarks/simulations.py                  synthetic studies, a few minutes
    python benchmarks/simulations.py --pipeline 100   100 trained studies of one head against itself

Both print a table of the measured rates beside the nominal ones.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from statsmodels.stats.power import TTestPower

from headtohead import cli
from headtohead.analysis.claims import Verdict, judge
from headtohead.analysis.estimates import Crossed
from headtohead.analysis.study import read_study
from headtohead.record.run import read_history, read_runs, write_results, write_run
from headtohead.record.study import read_study_record, write_study
from headtohead.testing import make_study

TWIN = {"softmax": ("head=softmax",), "twin": ("head=twin",)}
# A small and quick study, whose learning rates are chosen by chance in part.
NULL = (
    "dataset=iris",
    "model=linear",
    "head=softmax",
    "optimizer.lr=0.03,0.1,0.3,1",
    "training.epochs=10",
    "device=cpu",
    "hydra/launcher=basic",
)
SEEDS = 10
BLOCKS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure whether the statistics hold.")
    parser.add_argument("--pipeline", type=int, metavar="N", help="train N null studies instead")
    parser.add_argument("--studies", type=int, default=300, help="synthetic null studies")
    parser.add_argument("--draws", type=int, default=10_000, help="samples per coverage and power")
    arguments = parser.parse_args()
    table = Table(title="statistics by simulation", title_justify="left")
    for header in ("rate", "measured", "nominal"):
        table.add_column(header, justify="left" if header == "rate" else "right")
    rows = pipeline(arguments.pipeline) if arguments.pipeline else synthetic(arguments.draws, arguments.studies)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def synthetic(draws: int, studies: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the table from drawn numbers."""
    rng = np.random.default_rng(0)
    for name, noise in {"normal": np.random.Generator.standard_normal, "accuracy": accuracies}.items():
        for pairs in (5, 10, 20):
            yield f"coverage, {name} noise, {pairs} seeds", f"{coverage(rng, noise, pairs, draws):.1%}", "95 % ± 1.5"
    for examples in (100, 360, 3000):
        for seeds in (5, 10, 40):
            crossed, alone = coverage_of_new_examples(rng, seeds, examples, draws // 10)
            measured = f"{crossed:.1%} (seeds alone {alone:.1%})"
            yield f"coverage of new examples, {examples} examples, {seeds} seeds", measured, "95 %"
    for pairs in (8, 10, 20):
        for effect in (0.5, 1.0):
            detected = np.mean(
                [Crossed.over_seeds(rng.normal(effect, 1, pairs)).p() < 0.05 for _ in range(draws // 10)]
            )
            nominal = TTestPower().power(effect, pairs, 0.05)
            yield f"power, effect {effect:g} deviations, {pairs} seeds", f"{detected:.1%}", f"{nominal:.1%}"
    with tempfile.TemporaryDirectory() as folder:
        for arms in (2, 4):
            twins = TWIN | {f"twin{index}": (f"head=twin{index}",) for index in range(2, arms)}
            judged = (
                judge(read_study(make_study(Path(folder) / "null", arms=twins, seeds=12, records=False, seed=seed)))
                for seed in track(range(studies), f"null studies of {arms} arms")
            )
            yield from false_verdicts(f"synthetic, {arms} arms", judged)


def coverage(
    rng: np.random.Generator, noise: Callable[[np.random.Generator, int], np.ndarray], pairs: int, draws: int
) -> float:
    """Return the share of paired t intervals over seeds that contain the true difference, zero."""
    intervals = (Crossed.over_seeds(noise(rng, pairs)).interval(0.95) for _ in range(draws))
    return float(np.mean([interval.lower <= 0 <= interval.upper for interval in intervals]))


def coverage_of_new_examples(rng: np.random.Generator, seeds: int, examples: int, draws: int) -> tuple[float, float]:
    """Return the share of 95 % intervals that contain the true difference on new examples, zero.

    The first share is of intervals over seeds crossed with blocks, the second of those over seeds alone. A difference
    on an example is owed to the example, to the seed and to both.
    """
    hits = np.zeros(2)
    for _ in range(draws):
        shares = (
            rng.normal(0, 0.2, (1, examples)) + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.3, (seeds, examples))
        )
        blocks_SG = np.stack([part.mean(1) for part in np.array_split(shares, BLOCKS, axis=1)], axis=1)
        means_S = shares.mean(1)
        crossed = Crossed.over_seeds_and_blocks(float(means_S.mean()), blocks_SG).interval(0.95)
        alone = Crossed.over_seeds(means_S).interval(0.95)
        hits += [interval.lower <= 0 <= interval.upper for interval in (crossed, alone)]
    return float(hits[0] / draws), float(hits[1] / draws)


def accuracies(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """Draw differences of two arms' test accuracies: seeds vary, and 360 test examples add noise."""
    chance = np.clip(rng.normal(0.95, 0.01, pairs), 0, 1)
    return (rng.binomial(360, chance) - rng.binomial(360, chance)) / 360


def false_verdicts(name: str, studies: Iterable[list[Verdict]]) -> Iterator[tuple[str, str, str]]:
    """Yield rows on null studies: the share in which any claim is supported or refuted."""
    false: list[bool] = []
    tested: list[int] = []
    counts: Counter[str] = Counter()
    for verdicts in studies:
        wrong = [verdict for verdict in verdicts if verdict.verdict in ("supported", "refuted")]
        false.append(bool(wrong))
        tested.append(sum(verdict.seeds > 0 for verdict in verdicts))
        counts.update(verdict.metric for verdict in wrong)
    interval = stats.binomtest(sum(false), len(false)).proportion_ci(method="wilson")
    measured = f"{np.mean(false):.1%} ({interval.low:.1%} to {interval.high:.1%})"
    title = f"false verdicts in {len(false)} null studies, {name}, {np.mean(tested):.0f} tests each"
    yield title, measured, "at most 5 %"
    if counts:
        yield "  of these", ", ".join(f"{metric} {count}" for metric, count in counts.most_common(4)), ""


def pipeline(studies: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the table from trained studies, one per core at a time."""
    started = time.perf_counter()
    # Processes are replaced now and then, since configs and data that they load stay in memory.
    with get_context("spawn").Pool(maxtasksperchild=5) as pool:
        judged = pool.imap(null_study, range(studies))
        yield from false_verdicts("trained", track(judged, "null studies", total=studies, console=Console(stderr=True)))
    yield "seconds per study", f"{(time.perf_counter() - started) / studies:.1f}", ""


def null_study(number: int) -> list[Verdict]:
    """Train one head twice from the command line, with seeds of its own each time, and judge the two as rivals.

    Each side searches, chooses its learning rate and confirms by itself, as the arms of a study do.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        sides = {}
        for side, arm in enumerate(TWIN):
            first = (2 * number + side) * 4 * SEEDS
            seeds = f"seed={','.join(str(first + index) for index in range(SEEDS))}"
            headtohead(f"name={arm}", *NULL, seeds, f"protocol.confirm_seeds={SEEDS}")
            sides[arm] = (Path("outputs") / arm, first)
        return judge(read_study(join(sides, Path("outputs") / "null")))


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


def join(sides: dict[str, tuple[Path, int]], folder: Path) -> Path:
    """Join studies into one with an arm for each; seeds are counted from the first seed of each study."""
    runs = {arm: read_runs(study)[0].values() for arm, (study, _) in sides.items()}
    rates = [{run.lr for run in side if run.phase == "search"} for side in runs.values()]
    shared = set.intersection(*rates)
    names: dict[str, list[str]] = {"search": [], "confirm": []}
    for arm, (study, first) in sides.items():
        for run in runs[arm]:
            # A side may have extended its grid; the arms of one study would have done so together.
            if run.phase == "search" and run.lr not in shared:
                continue
            seed = run.seed - first
            history = read_history(study / "runs" / run.run).to_dict("records")
            name = f"head={arm},optimizer.lr={run.lr:g},seed={seed}"
            names[run.phase].append(name)
            write_run(folder / "runs" / name, replace(run, run=name, arm=arm, head=arm, seed=seed), history)
    records = {arm: read_study_record(study) for arm, (study, _) in sides.items()}
    record = next(iter(records.values()))
    best = {
        criterion: {arm: rate for arm, own in records.items() for rate in own.protocol.best[criterion].values()}
        for criterion in record.criteria
    }
    joined = replace(
        record,
        name=folder.name,
        arms=TWIN,
        num_classes=dict.fromkeys(TWIN, next(iter(record.num_classes.values()))),
        runs={phase: tuple(of_phase) for phase, of_phase in names.items()},
        grid={"optimizer.lr": tuple(sorted(shared))},
        protocol=replace(record.protocol, best=best),
    )
    write_study(folder, joined)
    write_results(folder)
    return folder


if __name__ == "__main__":
    main()
