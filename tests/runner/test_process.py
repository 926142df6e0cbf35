"""Set-up of a launcher's process before it trains."""

import ctypes
import os
import subprocess
import sys

import pytest

from headtohead.runner.process import cores

FAULTS = """
import resource, sys, torch
from headtohead.runner.process import prepare_process
if sys.argv[1] == "keep":
    prepare_process(1)
before = 0
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    one = torch.ones(10_000_000)
    del one
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc is told to keep memory")
def test_freed_tensors_are_not_faulted_in_again():
    def faults(word):
        command = [sys.executable, "-c", FAULTS, word]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Ten tensors of 40 MB are about 100,000 pages of 4 KiB.
    assert faults("keep") < faults("default") / 5


def test_numbers_below_the_normal_range_become_zero():
    code = "import torch; from headtohead.runner.process import prepare_process; prepare_process(2)"
    code += "; print(float(torch.ones(100_000).mul(1e-40).sum()))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(printed) == 0


def test_no_more_cores_are_used_than_are_allowed(monkeypatch):
    for allowed in (1, 2):
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=range(allowed): {*cores}, raising=False)
        assert cores() == allowed
