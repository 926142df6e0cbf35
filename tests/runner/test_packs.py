"""Runs are grouped into packs of even length."""

import pytest

from headtohead.runner.packs import Packing, into_packs


def packing(size, fewest=8):
    return lambda run: Packing(size, fewest, "planner", 1)


@pytest.mark.parametrize(
    ("count", "size", "packs"), [(1, 16, 1), (16, 16, 1), (17, 16, 2), (40, 16, 3), (280, 16, 20), (5, 1, 5)]
)
def test_packs_are_even_and_hold_every_run_once(count, size, packs):
    made = into_packs(range(count), key=lambda i: 0, seed=lambda i: i % 10, packing=packing(size, size))
    assert sorted(i for pack in made for i in pack) == list(range(count))
    assert len(made) == packs
    lengths = [len(pack) for pack in made]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


def test_a_seed_that_fills_more_than_half_a_pack_has_packs_of_its_own():
    made = into_packs(range(70), key=lambda i: 0, seed=lambda i: i % 10 if i < 40 else 10, packing=packing(16, 16))
    assert sorted(i for pack in made for i in pack) == list(range(70))
    # Thirty runs of one seed, and forty of ten seeds with four runs each.
    assert sorted(len(pack) for pack in made if min(pack) >= 40) == [15, 15]
    assert sorted(len(pack) for pack in made if min(pack) < 40) == [13, 13, 14]


@pytest.mark.parametrize(
    ("count", "size", "processes", "packs"),
    [
        (12, 64, 2, 1),
        (20, 64, 2, 2),
        (40, 64, 2, 2),
        (140, 64, 2, 4),
        (140, 64, 16, 16),
        (40, 64, 16, 5),
        (40, 4, 3, 10),
    ],
)
def test_as_many_packs_for_each_process_unless_they_would_be_small(count, size, processes, packs):
    made = into_packs(range(count), lambda i: 0, lambda i: i % 20, packing(size), processes)
    assert sorted(i for pack in made for i in pack) == list(range(count))
    assert len(made) == packs


def test_packs_keep_keys_apart_and_seeds_together():
    made = into_packs(range(40), key=lambda i: i % 2, seed=lambda i: i % 5, packing=packing(4, 4))
    for pack in made:
        assert len({i % 2 for i in pack}) == 1
        assert len({i % 5 for i in pack}) == 1
