"""The memory of a process, by files as the kernel writes them and by limits that are set."""

import os
import subprocess
import sys

import pytest
import torch

from headtohead.training.memory import _group_limits, memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
GIB = 2**30


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        # Version 2 in a container, and on a machine where a group above has the limit.
        ("0::/", {"memory.max": "2147483648"}, 2 * GIB),
        ("0::/a/b", {"a/memory.max": "1073741824", "a/b/memory.max": "max", "memory.max": "2147483648"}, GIB),
        ("0::/a/b", {"a/b/memory.high": "1073741824", "a/b/memory.max": "2147483648"}, GIB),
        ("0::/../outside", {"memory.max": "1073741824"}, GIB),
        # Version 1: the group's own name, and a container in which it is not visible.
        ("5:memory:/docker/1f\n4:cpu:/x", {"memory/docker/1f/memory.limit_in_bytes": "1073741824\n"}, GIB),
        ("5:memory:/docker/1f\n4:cpu:/x", {"memory/memory.limit_in_bytes": "1073741824\n"}, GIB),
        ("9:cpu,memory:/a:b", {"memory/a:b/memory.limit_in_bytes": "1073741824"}, GIB),
        # Both at once: the memory may be limited by either.
        ("5:memory:/\n0::/", {"memory/memory.limit_in_bytes": "1073741824", "memory.max": "max"}, GIB),
        # No limit.
        ("0::/", {"memory.max": "max", "memory.high": "max"}, None),
        ("4:cpu:/", {"memory/memory.limit_in_bytes": "1073741824"}, None),
        ("0::/", {}, None),
        ("", {}, None),
    ],
)
def test_the_lowest_limit_of_all_groups_counts(tmp_path, groups, files, limit):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert min(_group_limits(tmp_path), default=None) == limit


def test_without_groups_there_is_no_limit(tmp_path):
    assert [*_group_limits(tmp_path)] == []


def test_memory_is_at_most_that_of_the_machine():
    assert 0 < memory(torch.device("cpu")) <= MACHINE


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_a_limit_of_the_shell_counts():
    code = "import torch; from headtohead.training.memory import memory; print(memory(torch.device('cpu')))"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({MACHINE // 2},) * 2); {code}"
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= MACHINE // 2
