"""Style that all figures share."""

import math

import numpy as np
import pytest
from scipy import stats

from headtohead.report.figures.layers import error_axis, round_numbers
from headtohead.report.figures.style import COLOURS, DARK, INK, PAPER, SOFT, band, keys


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_many_arms_differ_by_more_than_colour():
    looks = keys([str(place) for place in range(140)])
    assert len({(key.colour, str(key.dash), key.shape) for key in looks}) == 140
    assert len({str(key.dash) for key in looks[:4]}) == len({key.shape for key in looks[:4]}) == 4


def test_colours_stand_out_from_the_ground_in_the_light_and_in_the_dark():
    for colour in COLOURS:
        assert contrast(colour, PAPER) >= 3 and contrast(colour, DARK[PAPER]) >= 3
    for colour in (INK, SOFT):
        assert contrast(colour, PAPER) >= 4.5 and contrast(DARK[colour], DARK[PAPER]) >= 4.5
    assert contrast("#ffffff", "#000000") == 21


def test_round_numbers_are_those_of_their_decades():
    assert round_numbers(0.02, 300).tolist() == [0.1, 1, 10, 100]
    assert round_numbers(3, 200).tolist() == [5, 10, 20, 50, 100, 200]
    assert round_numbers(2, 8).tolist() == [2, 3, 5, 7]


def test_an_axis_of_errors_labels_zero_and_is_linear_below_the_least_error():
    axis = error_axis("error", [0, 0.3, 25, math.nan])
    assert axis["axis"]["values"] == [0, 0.5, 1, 2, 5, 10, 20]
    assert axis["scale"]["constant"] == 0.3 and axis["scale"]["domain"][0] == 0


def test_a_band_is_the_t_interval_of_the_mean():
    values = np.array([[1.0, 2.0, 4.0], [np.nan, 3.0, 5.0], [np.nan, np.nan, 7.0]])
    mean, lower, upper = band(values)
    np.testing.assert_allclose(mean, [7 / 3, 4, 7])
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[0]))
    np.testing.assert_allclose((lower[0], upper[0]), expected)
    assert np.isnan(lower[2])
    mean, _, upper = band(np.array([[1.0, 100.0]]), log=True)
    assert mean[0] == pytest.approx(10) and upper[0] > 100
