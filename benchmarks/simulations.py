"""Measure on drawn numbers how often intervals cover, verdicts are false and effects are detected.

    python benchmarks/simulations.py                             a few minutes
    python benchmarks/simulations.py --draws 2000 --studies 50   fewer samples

It prints a table of the measured rates beside the nominal ones. `coverage.py` and `pipeline.py` do so for trained runs.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats
from statsmodels.stats.power import TTestPower

from headtohead.analysis.claims import Verdict, judge
from headtohead.analysis.estimates import Crossed
from headtohead.analysis.study import read_study
from headtohead.analysis.verdicts import level_of_look
from headtohead.testing import make_study

TWIN = {"softmax": ("head=softmax",), "twin": ("head=twin",)}
BLOCKS = 20
LOOKS = (10, 20, 40)
# Share of the level that the claim on accuracy has.
WEIGHT = 0.25
# Standard deviations of a difference that are owed to the seed, to a block of examples, and to both.
OF_SEED, OF_BLOCK, OF_BOTH = 0.5, 0.5, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure whether the statistics hold.")
    parser.add_argument("--studies", type=int, default=300, help="synthetic null studies")
    parser.add_argument("--draws", type=int, default=10_000, help="samples per coverage and power")
    arguments = parser.parse_args()
    table = Table(title="statistics by simulation", title_justify="left")
    for header in ("rate", "measured", "nominal"):
        table.add_column(header, justify="left" if header == "rate" else "right")
    for row in synthetic(arguments.draws, arguments.studies):
        table.add_row(*row)
    Console(width=130).print(table)


def synthetic(draws: int, studies: int) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the table from drawn numbers."""
    rng = np.random.default_rng(0)
    for name, noise in {"normal": np.random.Generator.standard_normal, "accuracy": accuracies}.items():
        for pairs in (5, 10, 20):
            yield f"coverage, {name} noise, {pairs} seeds", f"{coverage(rng, noise, pairs, draws):.1%}", "95 % ± 1.5"
    for examples in (100, 360, 3000):
        for seeds in (5, 10, 40):
            both, alone = coverage_of_new_examples(rng, seeds, examples, draws // 10)
            measured = f"{both:.1%} (seeds alone {alone:.1%})"
            yield f"coverage of new examples, {examples} examples, {seeds} seeds", measured, "95 %"
    for pairs in (8, 10, 20):
        for effect in (0.5, 1.0):
            detected = np.mean(
                [Crossed.over_seeds(rng.normal(effect, 1, pairs)).p() < 0.05 for _ in range(draws // 10)]
            )
            nominal = TTestPower().power(effect, pairs, 0.05)
            yield f"power, effect {effect:g} deviations, {pairs} seeds", f"{detected:.1%}", f"{nominal:.1%}"
    yield from crossed_power(rng, draws // 5)
    yield from seeds_until_decided(rng, draws // 5)
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
        both = Crossed.over_seeds_and_blocks(float(means_S.mean()), blocks_SG).interval(0.95)
        alone = Crossed.over_seeds(means_S).interval(0.95)
        hits += [interval.lower <= 0 <= interval.upper for interval in (both, alone)]
    return float(hits[0] / draws), float(hits[1] / draws)


def crossed(rng: np.random.Generator, effect: float, seeds: int) -> np.ndarray:
    """Draw differences of seeds on blocks, (S, G), with a known mean and known deviations."""
    of_seed, of_block = rng.normal(0, OF_SEED, (seeds, 1)), rng.normal(0, OF_BLOCK, (1, BLOCKS))
    return effect + of_seed + of_block + rng.normal(0, OF_BOTH, (seeds, BLOCKS))


def expected(effect: float, seeds: int) -> Crossed:
    """Return the estimate whose mean and variances are those that `crossed` draws from."""
    both = OF_BOTH**2 / (seeds * BLOCKS)
    return Crossed(effect, seeds, BLOCKS, OF_SEED**2 / seeds + both, OF_BLOCK**2 / BLOCKS + both, both)


def crossed_power(rng: np.random.Generator, draws: int) -> Iterator[tuple[str, str, str]]:
    """Yield rows on how often a difference and an equivalence are found, beside `Crossed.power`."""
    level = WEIGHT * level_of_look(1)
    for seeds in LOOKS:
        for effect, margin in ((0.5, None), (0.8, None), (0.0, 0.8)):
            found = []
            for _ in range(draws):
                estimate = estimated(crossed(rng, effect, seeds))
                found.append((estimate.p() if margin is None else estimate.equivalence_p(margin)) < level)
            title = f"difference {effect:g} found" if margin is None else f"equivalence within {margin:g} found"
            nominal = f"{expected(effect, seeds).power(level, margin):.1%}"
            yield f"{title}, {seeds} seeds crossed with {BLOCKS} blocks", share(found), nominal


def seeds_until_decided(rng: np.random.Generator, draws: int) -> Iterator[tuple[str, str, str]]:
    """Yield rows on studies that add seeds until a claim is decided, at most to the last look."""
    for effect, margin in ((0.0, 0.8), (0.0, 0.2), (0.5, 0.2), (0.8, 0.2), (1.5, 0.2)):
        needed, words = [], []
        for _ in range(draws):
            table = crossed(rng, effect, LOOKS[-1])
            word, seeds = "open", LOOKS[-1]
            for look, seeds in enumerate(LOOKS, start=1):
                estimate, level = estimated(table[:seeds]), WEIGHT * level_of_look(look)
                word = "equivalent" if estimate.equivalence_p(margin) < level else "open"
                word = "different" if word == "open" and estimate.p() < level else word
                if word != "open":
                    break
            needed.append(seeds)
            words.append(word)
        counts = Counter(words)
        measured = ", ".join(f"{word} {counts[word] / draws:.1%}" for word in ("different", "equivalent", "open"))
        title = f"looks at 10, 20, 40 seeds, effect {effect:g}, margin {margin:g}"
        yield title, measured, f"different at most {WEIGHT * 0.05:.2%}" if effect == 0 else ""
        yield "  mean seeds until decided", f"{np.mean(needed):.1f}", "at most 40"


def estimated(differences_SG: np.ndarray) -> Crossed:
    return Crossed.over_seeds_and_blocks(float(differences_SG.mean()), differences_SG)


def share(counted: list[bool]) -> str:
    """Return a share with its 95 % interval, as text."""
    bounds = stats.binomtest(sum(counted), len(counted)).proportion_ci(method="wilson")
    return f"{np.mean(counted):.1%} ({bounds.low:.1%} to {bounds.high:.1%})"


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
    title = f"false verdicts in {len(false)} null studies, {name}, {np.mean(tested):.0f} tests each"
    yield title, share(false), "at most 5 %"
    if counts:
        yield "  of these", ", ".join(f"{metric} {count}" for metric, count in counts.most_common(4)), ""


if __name__ == "__main__":
    main()
