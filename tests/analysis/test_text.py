"""Numbers as a report shows them, held to what they stand for."""

import math

import pytest

from headtohead.analysis.statistics import Interval
from headtohead.analysis.text import MINUS, decimal, difference


def number(text: str) -> float:
    return float(text.replace(MINUS, "-"))


@pytest.mark.parametrize("power", range(-11, 12))
@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_of_any_size_is_told_from_zero_and_from_its_bounds(power, sign):
    interval = Interval(*(sign * 10.0**power * size for size in sorted((2.0, 3.0, 4.0), reverse=sign < 0)))
    interval = Interval(interval[1], interval[0], interval[2])
    mean, lower, upper = difference("mse", interval).replace("[", "").replace("]", "").replace(",", "").split()
    assert [number(text) for text in (mean, lower, upper)] == pytest.approx([*interval], rel=0.01)
    assert len(mean) <= 10


def test_a_number_of_common_size_has_its_decimals():
    assert difference("test_accuracy", Interval(0.0123, 0.008, 0.0166)) == "+1.23 [+0.80, +1.66]"
    assert decimal(0.5, 9) == "0.500000" and decimal(-0.04, 1) == "0.0" and decimal(math.nan, 2) == "-"
    assert decimal(1234567.0, 0) == "1234567" and decimal(-3e-8, 9) == f"{MINUS}3e{MINUS}08"
