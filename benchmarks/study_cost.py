"""Measure the default study beside its training loop: plan, records, TensorBoard, statistics, report and page.

    python benchmarks/study_cost.py

One process trains its packs one after another. Its whole time, imports not counted, is compared with the part of it
that was spent inside `training.train`, evaluations included. Prints the seconds of both and their ratio, a run each.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time

REPEATS = 3
STUDY = ["experiment=digits", "hydra/launcher=basic", "device=cpu"]


def study() -> None:
    """Print the seconds of the whole and of the loop."""
    import hydra._internal.hydra  # noqa: F401
    import matplotlib.backends.backend_svg  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import statsmodels.stats.multitest  # noqa: F401

    from headtohead import cli
    from headtohead.report import render  # noqa: F401
    from headtohead.runner import sweep, worker  # noqa: F401

    inside = 0.0
    train = worker.train

    def timed(*arguments):
        nonlocal inside
        items = train(*arguments)
        while True:
            started = time.perf_counter()
            item = next(items, None)
            inside += time.perf_counter() - started
            if item is None:
                return
            yield item

    worker.train = timed
    sys.argv = ["headtohead", *STUDY]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main()
    print(json.dumps([time.perf_counter() - started, inside]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().child:
        study()
        return
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            child = [sys.executable, __file__, "--child"]
            printed = subprocess.run(child, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
        whole, loop = json.loads(printed.splitlines()[-1])
        print(f"{whole:.1f} s in all, {loop:.1f} s in the loop, ratio {whole / loop:.2f}", flush=True)


if __name__ == "__main__":
    main()
