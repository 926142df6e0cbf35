"""Estimates of the difference between two arms, with their errors: over seeds, over seeds and test examples, of shares.

An estimate answers three questions: how sure is its interval, how likely is such a difference by chance, and how likely
is one beyond a margin. `docs/protocol.md` describes the crossed estimate.

Shape suffixes: S seeds, G blocks of test examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from headtohead.analysis.statistics import Interval
from headtohead.late import special

# Up to this mean number of discordant examples per pair of runs their number, not their spread, gives the error.
FEW_DISCORDANT = 5.0


class Estimate(Protocol):
    """An estimated difference between two arms."""

    @property
    def mean(self) -> float: ...

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        ...

    def interval(self, confidence: float) -> Interval:
        """Return the interval that contains the true difference with this confidence."""
        ...

    def p(self) -> float:
        """Return the two-sided p-value of no difference."""
        ...

    def equivalence_p(self, margin: float) -> float:
        """Return the p-value of a difference outside (-margin, margin), by two one-sided tests (Schuirmann, 1987)."""
        ...


@dataclass(frozen=True)
class Crossed:
    """A mean difference over seeds crossed with blocks of test examples, with Student's t (docs/protocol.md).

    Attributes:
        mean: Mean difference.
        seeds: Number of seeds, S.
        blocks: Number of blocks, G; 1 for a metric of training, whose error is over seeds alone.
        seed_variance: Variance of the means of seeds, over S.
        block_variance: Variance of the means of blocks, over G.
        residual_variance: Mean square of the residuals, over S G.
        floor: Least variance of the mean, where discordant examples are too few to have a spread.
    """

    mean: float
    seeds: int
    blocks: int
    seed_variance: float
    block_variance: float
    residual_variance: float
    floor: float = 0.0

    @classmethod
    def over_seeds(cls, differences_S: ArrayLike) -> Crossed:
        """Estimate from the differences of seeds, (S,), S of 2 or more; test examples count as fixed."""
        differences_S = np.asarray(differences_S, dtype=float)
        seeds = len(differences_S)
        variance = float(differences_S.var(ddof=1)) / seeds
        return cls(float(differences_S.mean()), seeds, 1, variance, 0.0, 0.0)

    @classmethod
    def over_seeds_and_blocks(cls, mean: float, differences_SG: ArrayLike) -> Crossed:
        """Estimate from the differences of seeds on blocks, (S, G), both of 2 or more."""
        differences_SG = np.asarray(differences_SG, dtype=float)
        seeds, blocks = differences_SG.shape
        row_S1, column_1G = differences_SG.mean(1, keepdims=True), differences_SG.mean(0, keepdims=True)
        residual_SG = differences_SG - row_S1 - column_1G + differences_SG.mean()
        residual = float(np.square(residual_SG).sum()) / ((seeds - 1) * (blocks - 1))
        return cls(
            mean,
            seeds,
            blocks,
            float(row_S1.var(ddof=1)) / seeds,
            float(column_1G.var(ddof=1)) / blocks,
            residual / (seeds * blocks),
        )

    @property
    def variance(self) -> float:
        """Variance of the mean."""
        both = self.seed_variance + self.block_variance - self.residual_variance
        return max(both, self.seed_variance, self.block_variance, self.floor)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance)

    @property
    def degrees(self) -> float:
        """Degrees of freedom, by Satterthwaite (1946)."""
        parts = self.seed_variance**2 / (self.seeds - 1)
        if self.blocks > 1:
            parts += self.block_variance**2 / (self.blocks - 1)
        return self.variance**2 / parts if parts else float(self.seeds - 1)

    def interval(self, confidence: float) -> Interval:
        half = float(special.stdtrit(self.degrees, (1 + confidence) / 2)) * self.error
        return Interval(self.mean, self.mean - half, self.mean + half)

    def p(self) -> float:
        if self.variance == 0:
            return float(self.mean == 0)
        return float(2 * special.stdtr(self.degrees, -abs(self.mean) / self.error))

    def equivalence_p(self, margin: float) -> float:
        if self.variance == 0:
            # Arms that never differ by even a rounding error have shown nothing about new runs.
            return 1.0
        return float(special.stdtr(self.degrees, (abs(self.mean) - margin) / self.error))

    def with_seeds(self, seeds: int) -> Crossed:
        """Return what the estimate would be with another number of seeds, if its mean and spreads are the true ones."""
        return self._scaled(self.seeds / seeds, 1.0, seeds)

    def with_examples(self, factor: float) -> Crossed:
        """Return what the estimate would be with `factor` times as many test examples."""
        return self._scaled(1.0, 1 / factor, self.seeds)

    def power(self, level: float, margin: float | None = None) -> float:
        """Return the probability of a decision at this level, if the mean and the spreads are the true ones.

        The decision is that of a difference or, with a margin, of equivalence.
        """
        if self.variance == 0:
            return float(self.mean != 0)
        shift = abs(self.mean) / self.error
        detected = float(special.stdtr(self.degrees, special.stdtrit(self.degrees, level / 2) + shift))
        if margin is None:
            return detected
        critical = -special.stdtrit(self.degrees, level)
        near, far = (
            float(special.stdtr(self.degrees, margin / self.error + sign * shift - critical)) for sign in (-1, 1)
        )
        return max(detected, near + far - 1)

    def detectable(self, level: float, power: float) -> float:
        """Return the true difference that a two-sided test at this level detects with this probability."""
        return self.error * float(special.stdtrit(self.degrees, power) - special.stdtrit(self.degrees, level / 2))

    def _scaled(self, seed_factor: float, block_factor: float, seeds: int) -> Crossed:
        residual = self.residual_variance * seed_factor * block_factor
        seed = max(self.seed_variance - self.residual_variance, 0.0) * seed_factor + residual
        block = max(self.block_variance - self.residual_variance, 0.0) * block_factor + residual
        if self.blocks == 1:
            seed, block = self.seed_variance * seed_factor, 0.0
        return replace(
            self,
            seeds=seeds,
            seed_variance=seed,
            block_variance=block,
            residual_variance=residual,
            floor=self.floor * block_factor,
        )


@dataclass(frozen=True)
class Shares:
    """A difference between the shares of two arms' paired runs that have a property, with exact binomial bounds.

    Attributes:
        first: Number of pairs in which the first arm's run alone has it.
        second: Number of pairs in which the other arm's run alone has it.
        pairs: Number of pairs.
    """

    first: int
    second: int
    pairs: int

    @property
    def mean(self) -> float:
        return (self.first - self.second) / self.pairs

    @property
    def error(self) -> float:
        """Standard error of the mean, by Agresti and Min (2005)."""
        return math.sqrt(matched_pairs_variance(self.first, self.second, self.pairs))

    def interval(self, confidence: float) -> Interval:
        """Return bounds from those of both shares of discordant pairs (Clopper and Pearson, 1934), by Bonferroni."""
        tail = (1 - confidence) / 4
        (low, high), (other_low, other_high) = (self._bounds(count, tail) for count in (self.first, self.second))
        return Interval(self.mean, low - other_high, high - other_low)

    def p(self) -> float:
        """Return the p-value of McNemar's exact test."""
        discordant = self.first + self.second
        beyond = sum(math.comb(discordant, count) for count in range(min(self.first, self.second) + 1))
        return min(2 * beyond / 2**discordant, 1.0)

    def equivalence_p(self, margin: float) -> float:
        def beyond(level: float) -> float:
            bounds = self.interval(1 - 2 * level)
            return max(bounds.upper, -bounds.lower) - margin

        least, most = 1e-12, 0.5
        if beyond(most) >= 0:
            return 1.0
        if beyond(least) <= 0:
            return least
        # Halving the bracket takes milliseconds, importing scipy.optimize a third of a second.
        for _ in range(50):
            middle = (least + most) / 2
            least, most = (middle, most) if beyond(middle) > 0 else (least, middle)
        return most

    def _bounds(self, count: int, tail: float) -> tuple[float, float]:
        low = float(special.betaincinv(count, self.pairs - count + 1, tail)) if count else 0.0
        high = float(special.betainccinv(count + 1, self.pairs - count, tail)) if count < self.pairs else 1.0
        return low, high


def matched_pairs_variance(first: float, second: float, examples: float) -> float:
    """Return the variance of a difference of shares of the same examples (Agresti and Min, 2005).

    Half an example is added to each cell of the table of both runs' outcomes, so that it is never zero.

    Args:
        first: Number of examples that the first run alone has.
        second: Number of examples that the other run alone has.
        examples: Number of examples.
    """
    total = examples + 2
    return ((first + second + 1) - (first - second) ** 2 / total) / total**2


def floor_of_shares(differences_SG: np.ndarray, size_G: np.ndarray) -> float:
    """Return the least variance of a mean difference of shares of examples; 0 where many examples are discordant.

    Within a block discordant examples in both directions cancel, so that their number is a lower bound.
    """
    counts_SG = differences_SG * size_G
    first, second = np.maximum(counts_SG, 0).sum(1).mean(), np.maximum(-counts_SG, 0).sum(1).mean()
    if first + second > FEW_DISCORDANT:
        return 0.0
    return matched_pairs_variance(float(first), float(second), float(size_G.sum()))


def weighted_holm(p_values: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Correct the p-values of a family of tests by Holm (1979) with weights; NaN are no tests and stay NaN.

    A corrected value below a level rejects at that level. The test i of those not yet rejected is held against the
    share of the level that its weight has among theirs.
    """
    corrected = np.array(p_values, dtype=float)
    weights = np.asarray(weights, dtype=float)
    tested = np.flatnonzero(~np.isnan(corrected))
    order = tested[np.argsort(corrected[tested] / weights[tested], kind="stable")]
    remaining = weights[order][::-1].cumsum()[::-1]
    steps = np.minimum(corrected[order] * remaining / weights[order], 1.0)
    corrected[order] = np.maximum.accumulate(steps)
    return corrected
