"""A study in progress: hands its packs to Hydra's launcher, and follows the protocol of search and confirm."""

import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from headtohead.analysis.choice import best_trials, better_half, searches
from headtohead.analysis.claims import judge
from headtohead.analysis.predictions import most_ambiguous, same_examples
from headtohead.analysis.study import read_study
from headtohead.analysis.text import listed
from headtohead.options import BREAKDOWNS, ConfigError, one_line
from headtohead.record.files import write_arrays
from headtohead.record.run import Phase, flaws_of_files, read_results, read_run, write_results
from headtohead.record.study import FoldChoice, Trial, write_study
from headtohead.runner.axes import LR, SEED, Run, at_trial, confirm, rates_beyond, search
from headtohead.runner.pack_job import PackJob
from headtohead.runner.packs import into_packs
from headtohead.runner.plan import StudyPlan, confirmed_seeds, looks
from headtohead.runner.process import cores
from headtohead.runner.progress import Bar, Stop, tell
from headtohead.runner.resolve import Member
from headtohead.runner.signals import RESUME_HINT, follow
from headtohead.runner.sources import DATA
from headtohead.runner.worker import CHECKPOINTS, has_ended, run_pack
from headtohead.training import data
from headtohead.training.config import resolve_device
from headtohead.training.data import Dataset
from headtohead.training.loop import may_share_a_pack
from headtohead.training.splits import blocks_of_folds

# How often in a row packs are handed to the launcher where killed processes leave them as they were.
ATTEMPTS = 2
# The number of test examples that a report shows.
EXAMPLES = 8

# From the folder of a study to a context in which its TensorBoard page is kept up to date.
LivePage = Callable[[Path], AbstractContextManager[object]]


def run_study(plan: StudyPlan, live: LivePage = nullcontext) -> dict[str, str]:
    """Train all runs of a study that have not ended, and write the study's files as they become known.

    Args:
        plan: the plan of the study.
        live: from the study's folder to a context that is entered while packs are trained.

    Returns:
        For each failed run, by name, the reason.

    Raises:
        ConfigError: its folder cannot be made or written, or another process is at work on it.
        OSError: the system failed, as where a disk is full, or the folder vanished.
        KeyboardInterrupt: interrupted, with the state of its packs saved.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plan.folder / ".lock", timeout=0).acquire()
        for part in ("runs", CHECKPOINTS):
            (plan.folder / part).mkdir(exist_ok=True)
        if not os.access(plan.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(plan.folder))
    except Timeout:
        raise ConfigError(f"{plan.folder}: another process is at work on it; accepted: another name=") from None
    except OSError as error:
        if error.errno in BREAKDOWNS:
            raise
        place = f"{plan.folder}: cannot be made or written ({one_line(error)})"
        raise ConfigError(f"{place}; accepted: another name=, or another working directory") from error
    with lock:
        sweep = Sweep(plan, live)
        sweep.run()
    return sweep.failures


class Sweep:
    """A study whose packs are being trained.

    Args:
        plan: the plan of the study.
        live: from the study's folder to a context that is entered while packs are trained.

    Attributes:
        record: `study.json` as far as it is known.
        failures: for each run that has failed, by name, the reason.
    """

    def __init__(self, plan: StudyPlan, live: LivePage):
        self._plan, self._live = plan, live
        self.record = plan.record
        self.failures: dict[str, str] = {}
        self._sizes: dict[tuple[Dataset, int, int], tuple[int, ...]] = {}

    def run(self) -> None:
        """Train the phases of the study and pick the examples for its report."""
        plan = self._plan
        if plan.tuned:
            self._search()
            if self.failures:
                return  # no trial is chosen from a part of a search
            fresh = self.record.protocol.confirm_seeds
            if fresh:
                best = self._best_trials()
                self.record = replace(self.record, protocol=replace(self.record.protocol, best=best))
                self._confirm(fresh)
        else:
            self._train(plan.members, "run")
        self._pick_examples()
        if not self.failures:
            shutil.rmtree(plan.folder / CHECKPOINTS, ignore_errors=True)

    def _search(self) -> None:
        """Train all trials with all seeds, or by halving the better trials with more seeds."""
        seeds = self.record.protocol.search_seeds
        first, *rungs = halving_rungs(seeds) if self.record.protocol.search == "halving" else [seeds]
        self._train([member for member in self._plan.members if member.config.settings.seed in first], "search")
        self._extend_grid(first)
        for rung in rungs:
            if self.failures:
                return
            kept = better_half(self._searched(), self.record.criteria)
            axes = replace(self._plan.axes, lrs=self.record.grid[LR], seeds=rung)
            members = self._plan.compose(search(axes, self._plan.points), "search")
            better = [member for member in members if member.trial in kept[member.run.arm]]
            self._train(better, "search", "the better half of the trials")

    def _confirm(self, fresh: Sequence[int]) -> None:
        """Train each arm at its best trials with fresh seeds, and with more of them until its claims are decided."""
        while fresh:
            self._train(self._choose(fresh), "confirm")
            fresh = [] if self.failures else self._more_seeds()
            protocol = self.record.protocol
            seeds = (*protocol.confirm_seeds, *fresh)
            protocol = replace(protocol, confirm_seeds=seeds, looks=looks(protocol.looks, len(seeds)))
            hparams = {**self.record.hparams, SEED: tuple(dict.fromkeys([*self.record.hparams[SEED], *fresh]))}
            self.record = replace(self.record, protocol=protocol, hparams=hparams)

    def _choose(self, seeds: Sequence[int]) -> tuple[Member, ...]:
        """Return the runs of arms with fresh seeds at their best trials, and record the choices of folds.

        What a fold tests may not choose its trial, so that its validation examples in the search do not count.
        """
        best, study = self.record.protocol.best, read_study(self._plan.folder)
        by_criterion = {criterion: searches(study.searched, criterion, study.blocks) for criterion in best}
        axes, points = self._plan.axes, self._plan.points
        once = {arm: trials[0] for arm, trials in _by_arm(best).items()}
        runs, of_folds = set[Run](), [*self.record.protocol.of_folds]
        for member in self._plan.compose(confirm(self.record.arms, once, seeds, axes, points), "confirm"):
            run, tested = member.run, _tested_blocks(member)
            for criterion, trials in best.items():
                trial = by_criterion[criterion][run.arm].best_outside(tested) if tested else trials[run.arm]
                runs.add(at_trial(run, trial, axes, points))
                if trial != trials[run.arm]:
                    settings = member.config.settings
                    of_folds.append(FoldChoice(criterion, run.arm, settings.seed, settings.fold, trial))
        self.record = replace(self.record, protocol=replace(self.record.protocol, of_folds=tuple(of_folds)))
        order = [*self.record.arms]
        in_order = sorted(runs, key=lambda run: (order.index(run.arm), run.lr or 0, run.trial, run.seed, run.fold or 0))
        return self._plan.compose(in_order, "confirm")

    def _more_seeds(self) -> list[int]:
        """Return the seeds of the next look: as many as there are; none where more seeds would decide nothing."""
        protocol, most = self.record.protocol, self._plan.members[0].config.protocol.max_seeds
        known = len(protocol.confirm_seeds)
        if most is None or known >= most:
            return []
        verdicts = [verdict for verdict in judge(read_study(self._plan.folder)) if verdict.weight]
        undecided = [
            verdict.claim
            for verdict in verdicts
            if verdict.seeds and verdict.decision == "undecided" and not verdict.needs_examples
        ]
        if not undecided:
            return []
        more = confirmed_seeds(protocol.search_seeds, min(2 * known, most))[known:]
        tell(f"{listed(dict.fromkeys(undecided))}: not decided with {known} seeds, {len(more)} more")
        return more

    def _extend_grid(self, seeds: Sequence[int]) -> None:
        """Search rates beyond the edges of the grid, for all arms, as long as the best rate of an arm is on one."""
        ended: set[str] = set()
        while not self.failures:
            protocol = self.record.protocol
            best = {arm: [trial.lr for trial in trials] for arm, trials in _by_arm(self._best_trials()).items()}
            beyond = rates_beyond(self.record.grid[LR], best, protocol.extended)
            members = self._compose_beyond({side: rate for side, rate in beyond.items() if side not in ended}, seeds)
            ended |= {*beyond} - {*members}
            if not members:
                return
            grid = self.record.grid[LR]
            rates = tuple(sorted([*grid, *(beyond[side] for side in members)]))
            edges = {"below": grid[0], "above": grid[-1]}
            at_edge = [arm for arm in self.record.arms if any(edges[side] in best[arm] for side in members)]
            extended = {side: count + (side in members) for side, count in protocol.extended.items()}
            self.record = replace(
                self.record,
                grid={LR: rates},
                hparams={**self.record.hparams, LR: rates},
                protocol=replace(protocol, extended=extended),
            )
            grown = " and ".join(f"{beyond[side]:g}" for side in members)
            tell(f"the best rate of {listed(at_edge)} lay on the edge of the grid: each arm is tried at {grown} too")
            part = f"grid extended to {grown}"
            self._train([member for side in members.values() for member in side], "search", part)

    def _compose_beyond(self, beyond: Mapping[str, float], seeds: Sequence[int]) -> dict[str, tuple[Member, ...]]:
        """Compose the runs at rates beyond the grid, by side; leave out a side at which a value is out of its range."""
        members = {}
        for side, rate in beyond.items():
            try:
                axes = replace(self._plan.axes, lrs=(rate,))
                composed = self._plan.compose(search(axes, self._plan.points), "search")
                members[side] = tuple(member for member in composed if member.config.settings.seed in seeds)
            except ConfigError as error:
                tell(f"The grid does not grow to {LR}={rate:g}: {error}")
        return members

    def _best_trials(self) -> dict[str, dict[str, Trial]]:
        """Return for each criterion of the study the best trial of each arm."""
        searched = self._searched()
        return {criterion: best_trials(searched, criterion) for criterion in self.record.criteria}

    def _searched(self) -> pd.DataFrame:
        """Return the rows of results.csv for the search."""
        table = read_results(self._plan.folder)
        return table.loc[table.run.isin(self.record.runs["search"])]

    def _train(self, members: Sequence[Member], phase: Phase, part: str = "") -> None:
        """Train runs of a phase that have not ended, and write study.json before and results.csv after.

        Args:
            part: what they are of the phase, for the progress.
        """
        folder, names = self._plan.folder, [member.name for member in members]
        self.record = replace(self.record, runs={**self.record.runs, phase: (*self.record.runs.get(phase, ()), *names)})
        write_study(folder, self.record)

        packs = self._into_packs(members)
        # A pack that has ended in part is handed on whole: in one of another size its runs would round otherwise.
        left = self._unfinished(packs, phase)
        done = len(members) - sum(map(len, left))
        title = f"{phase}, {part}" if part else phase
        with Bar(folder, title, len(members), done) as bar, self._live(folder), Stop(bar) as stop:
            for flaw in _flaws_of_records(left):
                bar.print(f"{flaw}; trained again")
            failures = self._launch(left, phase, len(packs), bar, stop, ATTEMPTS)
        if not (folder / "study.json").exists():
            raise OSError(f"{folder}: has vanished; the same command trains again what is gone")
        recorded = {*write_results(folder).run}
        if stop.requested:
            raise KeyboardInterrupt(RESUME_HINT)
        vanished = [name for name in names if name not in failures and name not in recorded]
        self.failures |= failures | dict.fromkeys(vanished, "its record has vanished")

    def _into_packs(self, members: Sequence[Member]) -> list[list[Member]]:
        packings = [self._plan.packings[member.run.arm] for member in members]
        packs = into_packs(
            range(len(members)),
            key=lambda index: (
                may_share_a_pack(members[index].config),
                packings[index],
                self._sizes_of(members[index]),
            ),
            seed=lambda index: members[index].config.settings.seed,
            packing=lambda index: packings[index],
            processes=self._processes(),
        )
        return [[members[index] for index in pack] for pack in packs]

    def _processes(self) -> int:
        """Return the most processes that train side by side here; several would only share one accelerator."""
        on_cpu = resolve_device(self._plan.members[0].config.settings.device).type == "cpu"
        return cores() if on_cpu else 1

    def _sizes_of(self, member: Member) -> tuple[int, ...]:
        """Return the sizes of a run's splits, where they depend on the seed or the fold."""
        config = member.config
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        key = config.dataset, config.settings.seed, config.settings.fold
        if (pool.folds is not None or pool.groups is not None) and key not in self._sizes:
            self._sizes[key] = data.split_sizes(pool, *key)
        return self._sizes.get(key, ())

    def _launch(
        self, packs: list[list[Member]], phase: Phase, packs_of_phase: int, bar: Bar, stop: Stop, attempts: int
    ) -> dict[str, str]:
        """Hand packs to the launcher, and return the reason for each failed run.

        Packs of killed processes are handed on as long as each attempt trains more than all before it, or for a number
        of attempts that do not. Then each is handed on alone: one that kills its process may have stopped the others.
        """
        reason, most, left = "", bar.trained(), attempts
        while packs and left and not stop.requested:
            if reason:
                bar.print(f"{reason}; trying its {sum(map(len, packs))} runs again")
            jobs = [self._job(pack, phase) for pack in packs]
            try:
                results = self._launcher(packs_of_phase).launch(jobs, initial_job_idx=0)
            except Exception as error:
                # Launchers differ in what they raise when a process is killed.
                reason, packs, trained = one_line(error), self._unfinished(packs, phase), bar.trained()
                left, most = (attempts, trained) if trained > most else (left - 1, most)
            else:
                return _failed(packs, results)
        if len(packs) == 1 or stop.requested:
            return {member.name: reason for pack in packs for member in pack}
        failures = {}
        for pack in packs:
            failures |= self._launch([pack], phase, packs_of_phase, bar, stop, attempts=1)
        return failures

    def _job(self, pack: Sequence[Member], phase: Phase) -> list[str]:
        """Return the overrides of a job. The worker composes the runs itself, so that Hydra need not load much."""
        packing = self._plan.packings[pack[0].run.arm]
        runs = tuple(member.run for member in pack)
        job = PackJob(self.record.name, self._plan.axes.common, phase, packing.chosen_by, packing.threads, runs)
        return [f"name='{self.record.name}'", "claims=[]", job.override()]

    def _launcher(self, packs_of_phase: int) -> Launcher:
        """Return the launcher. Joblib starts no process that would have no pack, or no core.

        Args:
            packs_of_phase: the number of packs in the phase, with those that have ended. A process has the more
                threads the fewer processes there are, and the rest of a study must be trained with the same threads.
        """
        config = copy.deepcopy(self._plan.config)
        with_joblib = "joblib" in config.hydra.launcher._target_
        if with_joblib:
            most, wanted = self._processes(), config.hydra.launcher.n_jobs
            config.hydra.launcher.n_jobs = min(packs_of_phase, most if wanted < 0 else wanted)
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=self._plan.context, task_function=run_pack, config=config
        )
        if with_joblib:
            launcher.joblib |= {"initializer": follow, "initargs": (os.getpid(),)}
        return launcher

    def _pick_examples(self) -> None:
        """Keep the inputs of the most ambiguous test examples for the report, which does not read datasets."""
        predictions = list(read_study(self._plan.folder).predictions.values())
        # Labels alone may be equal on two roots.
        named = [{name: sources[name] for name in sources if DATA in name} for sources in self.record.sources.values()]
        if not predictions or not same_examples(predictions) or any(sources != named[0] for sources in named):
            return
        examples = most_ambiguous(predictions, EXAMPLES)
        config = self._plan.members[0].config
        pool = data.load(config.dataset, resolve_device(config.settings.device))
        inputs = pool.inputs[torch.tensor(examples)]
        if not pool.is_image:
            tested = pool.inputs[pool.test]
            mean = tested.nanmean(0).nan_to_num()  # for missing values
            inputs, tested = (values.where(~values.isnan(), mean) for values in (inputs, tested))
            inputs = (inputs - tested.mean(0)) / tested.std(0).clamp(min=1e-6)
        write_arrays(self._plan.folder / "examples.npz", {"example": examples, "inputs": inputs.cpu().numpy()})

    def _unfinished(self, packs: Sequence[list[Member]], phase: Phase) -> list[list[Member]]:
        """Return the packs of which a run has not ended."""
        sources = self.record.sources
        return [pack for pack in packs if not all(has_ended(run, phase, sources[run.run.arm]) for run in pack)]


def _tested_blocks(member: Member) -> list[int]:
    """Return the blocks that a run's fold tests and that the search may have for validation; none without folds."""
    config = member.config
    pool = data.load(config.dataset, resolve_device(config.settings.device))
    if pool.folds is None or pool.val is not None:
        return []
    return blocks_of_folds(pool.block_sizes, pool.folds, config.settings.seed)[config.settings.fold]


def halving_rungs(seeds: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the seeds that each rung of a search by halving adds: the first one, then as many as there were."""
    rungs, known = [], 0
    while known < len(seeds):
        count = max(known, 1)
        rungs.append(tuple(seeds[known : known + count]))
        known += count
    return rungs


def _by_arm(best: Mapping[str, Mapping[str, Trial]]) -> dict[str, list[Trial]]:
    """Return the best trials of each arm, one for each criterion."""
    trials: dict[str, list[Trial]] = {}
    for by_criterion in best.values():
        for arm, trial in by_criterion.items():
            trials.setdefault(arm, []).append(trial)
    return trials


def _flaws_of_records(packs: Sequence[list[Member]]) -> Iterator[str]:
    """Yield, a line each, which records are broken, or were changed after they had been written."""
    for folder in (member.folder for pack in packs for member in pack):
        if (folder / "run.json").exists():
            try:
                flaws = flaws_of_files(folder, read_run(folder))
            except ConfigError as error:
                flaws = [f"run.json is broken ({error})"]
            yield from (f"{folder}: {flaw}" for flaw in flaws)


def _failed(packs: Sequence[list[Member]], results: Sequence[JobReturn]) -> dict[str, str]:
    """Return the reason for each run of a pack whose job failed."""
    failures = {}
    for pack, result in zip(packs, results, strict=True):
        if result.status != JobStatus.COMPLETED:
            # The public property would raise the error, and print it.
            reason = one_line(result._return_value)
            failures |= {member.name: reason for member in pack}
    return failures
