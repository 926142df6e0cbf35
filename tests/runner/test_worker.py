"""What a launcher's process does before it trains."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from headtohead.runner.worker import prepare_process
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
        return int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True).stdout)

    # Ten tensors of 40 MB are about 100,000 pages of 4 KiB.
    assert faults("keep") < faults("default") / 5


def test_numbers_below_the_normal_range_become_zero():
    said = "import torch; from headtohead.worker import prepare_process; prepare_process(2)"
    said += "; print(float(torch.ones(100_000).mul(1e-40).sum()))"
    assert float(subprocess.run([sys.executable, "-c", said], capture_output=True, text=True).stdout) == 0
