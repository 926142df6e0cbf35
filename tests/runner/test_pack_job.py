"""A pack goes through Hydra's grammar, as a launcher's job does, and comes out as it was."""

import pytest
from hydra import compose, initialize_config_module
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headtohead.options import ConfigError
from headtohead.runner.axes import Run
from headtohead.runner.pack_job import PackJob

AWKWARD = "\\'\"\\\\'\\',:=[]{}()$${x}\\${y}${\t\n~é\U0001f600 "
texts = st.text(st.sampled_from(AWKWARD) | st.characters(), max_size=12)
numbers = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
runs = st.builds(
    Run,
    arm=texts,
    overrides=st.lists(texts, max_size=3).map(tuple),
    lr=st.none() | numbers,
    seed=st.none() | st.integers(0, 2**40),
)
jobs = st.builds(
    PackJob,
    study=texts,
    common=st.lists(texts, max_size=3).map(tuple),
    phase=st.sampled_from(["search", "confirm", "run"]),
    chosen_by=st.sampled_from(["user", "planner", "memory"]),
    threads=st.none() | st.integers(1, 64),
    runs=st.lists(runs, max_size=3).map(tuple),
)


@pytest.fixture(scope="module")
def through_hydra():
    """Compose the configuration of a job with a pack, and read the pack from it."""
    with initialize_config_module("headtohead.configs", version_base="1.3"):
        yield lambda job: PackJob.parse(compose("config", overrides=["claims=[]", job.override()]).pack)


@settings(max_examples=60, deadline=None)
@given(job=jobs)
@example(job=PackJob("s", (AWKWARD, "a\\", "'", "name=${model.name}"), "run", "user", None, (Run("", (), None, None),)))
def test_a_pack_comes_back_as_it_was(through_hydra, job):
    assert through_hydra(job) == job


def test_a_pack_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"pack\.phase=sleep"):
        PackJob.parse('{"study": "", "common": [], "phase": "sleep", "chosen_by": "user", "threads": null, "runs": []}')
