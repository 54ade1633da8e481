"""`python train.py sweep`: every point of a grid becomes a run, and the runs one table."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_recon.errors import InputError, RunError
from lit_recon.flags import CommandLine, Group, Source, describe
from lit_recon.records import media
from lit_recon.records.directory import SWEEP_FILE, RunDirectory
from lit_recon.records.provenance import without_home
from lit_recon.records.tracking import Mode, choose_wandb_mode, make_wandb_logger
from lit_recon.report.grid import figure_to_uint8
from lit_recon.report.law import law_figure, law_table, to_png, to_svg
from lit_recon.report.sweep import write_sweep_report
from lit_recon.sweeps import slurm, workers
from lit_recon.sweeps.cells import build_cells
from lit_recon.sweeps.grid import Axis, read_axes
from lit_recon.sweeps.machine import shares
from lit_recon.sweeps.plan import Fit, GridPoint, plan
from lit_recon.sweeps.progress import View, summary
from lit_recon.sweeps.results import FAILED, Results
from lit_recon.sweeps.slurm import SlurmFlags
from lit_recon.sweeps.study import Study, finish, is_study, outer_axes
from lit_recon.sweeps.wandb_file import wandb_sweep
from lit_recon.sweeps.workers import Main, Outcome, Task

MOST_RUNS = 10_000  # without a confirmation
INTRODUCTION = """\
usage: python train.py sweep --grid.FLAG VALUES [--grid.FLAG VALUES ...] [--flag value ...]

Runs fit at every combination of the values, skips the runs that are finished, goes on with those
that are not, and collects their numbers. The name of a sweep is --run.name, or the stem of the
last --config file. All flags of fit can be given as well.

--grid.FLAG  values of any flag of fit: 0.5,1,2 or a list in brackets, or whole numbers from a up to
             but not b as a:b; or, as --grid.config, files that each hold a bundle of flags.
             A file given with --config can hold them too, in a section grid.
"""


@dataclass
class SweepFlags:
    """How the runs are started.

    Args:
        jobs: runs at a time, at least 1; here they share cores and GPUs.
        launcher: local runs them here, slurm as jobs of a cluster.
        yes: true confirms a sweep of more than 10,000 runs.
        wandb_sweep: a file to which the same grid is written as a sweep of W&B, instead of running
            it; null for none.
    """

    jobs: int = 1
    launcher: Literal["local", "slurm"] = "local"
    yes: bool = False
    wandb_sweep: str | None = None


def sweep(argv: list[str], fit: Fit) -> None:
    """Run the unfinished points of a grid, and write its results.

    Args:
        argv: the flags.
        fit: the command that is repeated.

    Raises:
        InputError: bad input; nothing has been started.
        RunError: some runs have failed; the others are finished.
        KeyboardInterrupt: with what is finished, and the command that goes on.
    """
    own = [Group("", (SweepFlags,)), Group("slurm", (SlurmFlags,))]
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION, describe(own), sep="\n", end="")
        return
    groups = [*own, *fit.command.groups.values()]
    command = CommandLine("python train.py sweep", groups, fit.command.packages)
    given = command.read(argv)
    axes = read_axes(given)
    sources = [source.without("grid") for source in given]
    flags = command.parse(sources)
    study = is_study(flags)
    runs_of = outer_axes(axes) if study else axes  # a study has loops for the others
    check(flags, runs_of)
    sources = [source.without("slurm", *own[0].options(SweepFlags)) for source in sources]
    runs = plan(fit, sources, runs_of)
    name = flags.run.name or _default_name(sources)
    if flags.wandb_sweep is not None:
        given = [source.without("run.name") for source in sources]
        place = flags.wandb.project, flags.wandb.entity
        write_new(flags.wandb_sweep, wandb_sweep(name, *place, fit.flags, given, axes))
        return
    again = shlex.join(["python", "train.py", "sweep", *fit.flags, *argv])
    with claimed(flags.run.dir, name) as directory:
        if study:
            run_study(Study(directory, runs, axes), flags, again)
            return
        record = {
            "command": without_home(again),
            "grid": {axis.flag: axis.values for axis in axes},
            "runs": {run.name: run.cell for run in runs},
        }
        directory.write_json(SWEEP_FILE, record)
        results = Results(directory, runs)
        try:
            mode = run_all(fit, flags, directory, runs, results)
        except KeyboardInterrupt:
            told = f"; what is finished is in {directory.path}; {again} goes on"
            raise KeyboardInterrupt(told) from None
        finally:
            results.write()
        print(f"results  {directory.path / 'results.csv'}")
        draw_law(directory, results, flags, mode)
        page, skipped = write_sweep_report(directory.path)
        for line in skipped:
            print(f"skipped  {line}")
        print(f"report   {page}")
        report_failures(directory, results.failures)


def check(flags: Namespace, axes: Sequence[Axis]) -> None:
    """Refuse what no sweep can be started with."""
    if flags.jobs < 1:
        raise InputError("--jobs", flags.jobs, "give at least 1")
    count = prod(len(axis.values) for axis in axes)
    if count > MOST_RUNS and not flags.yes:
        raise InputError("--grid.*", f"of {count:,} runs", "give --yes true to start so many")
    for name, least in (("time", slurm.SHORTEST), ("cpus", 1)):
        if flags.slurm[name] < least:
            raise InputError(f"--slurm.{name}", flags.slurm[name], f"give at least {least}")
    if flags.launcher == "slurm":
        slurm.check()


@contextmanager
def claimed(dir: str, name: str) -> Iterator[RunDirectory]:
    """The directory of a sweep, for this process alone."""

    def claim() -> RunDirectory:
        return RunDirectory.create(dir, name, resume=True, kind="sweep")

    path = Path(dir, name)
    if not path.is_dir():
        claim()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield claim()
    except BlockingIOError as error:
        remedy = "another process is at work in this sweep; wait for it, or give another name"
        raise InputError("--run.name", name, remedy) from error
    finally:
        os.close(descriptor)


def run_all(
    fit: Fit, flags: Namespace, directory: RunDirectory, runs: Sequence[GridPoint], results: Results
) -> Mode:
    """Run the unfinished runs, and take in the results of all.

    Returns:
        What W&B can do here; ``disabled`` where nothing was left to run.
    """
    left = [run for run in runs if not results.has_ended(run)]
    print(f"{len(runs)} runs, of which {len(runs) - len(left)} have ended before")
    if not left:
        return "disabled"
    mode, reason = choose_wandb_mode(flags.wandb.mode)
    print(reason)
    here = flags.launcher == "local"  # elsewhere every run looks for itself
    group = flags.wandb.group or directory.path.name
    common = [
        *fit.flags,
        "--wandb.mode",
        mode if here else flags.wandb.mode,
        "--wandb.group",
        group,
    ]
    tasks = (task(directory, run, common) for run in left)
    view = View(len(left))
    with closing(launched(tasks, len(left), fit.main, flags, directory)) as ended, view.shown():
        for outcome in ended:
            rows = results.take(outcome.name, outcome.failure)
            view.tell(outcome.name, summary(rows), failed=rows[0]["status"] == FAILED)
    return mode


def launched(
    tasks: Iterator[Task], count: int, main: Main, flags: Namespace, directory: RunDirectory
) -> Generator[Outcome, None, None]:
    """Start so many tasks, here or as jobs of a cluster; how each has ended."""
    jobs = min(flags.jobs, count)
    if flags.launcher == "local":
        return workers.outcomes(tasks, main, shares(jobs))
    asked = SlurmFlags(**flags.slurm.as_dict())
    return slurm.outcomes(list(tasks), main, asked, directory, jobs)


def run_study(study: Study, flags: Namespace, again: str) -> None:
    """Build the networks of a study that are not there yet, and write what comes of all.

    Raises:
        RunError: some could not be built.
    """
    directory = study.directory
    study.record(without_home(again))
    tasks = list(study.left())
    done = len(study.jobs) - len(tasks)
    print(f"{len(study.jobs)} pairs of data and width, of which {done} are done")
    mode: Mode = "disabled"
    if tasks:
        mode, reason = choose_wandb_mode(flags.wandb.mode)
        print(reason)
        view = View(len(tasks))
        running = launched(iter(tasks), len(tasks), build_cells, flags, directory)
        with closing(running) as ended, view.shown():
            for outcome in ended:
                study.take(outcome)
                failure = outcome.failure
                view.tell(outcome.name, failure or "built", failed=failure is not None)
    log_figures(directory, flags, mode, *finish(study))
    report_failures(directory, study.failures)


def task(directory: RunDirectory, run: GridPoint, common: Sequence[str]) -> Task:
    """The command of one run, with its configuration in a file, whatever becomes of other files."""
    apart = ("run.name", "run.dir", "run.resume", "run.overwrite", "wandb.mode", "wandb.group")
    values = {flag: value for flag, value in run.values.items() if flag not in apart}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    config = directory.write_text(f"configs/{run.name}.yaml", text)
    place = ["--run.dir", str(directory.path), "--run.name", run.name, "--run.resume", "true"]
    argv = ["fit", "--config", str(config), *place, *common]
    return Task(run.name, argv, directory.path / "logs" / f"{run.name}.log")


def draw_law(directory: RunDirectory, results: Results, flags: Namespace, mode: Mode) -> None:
    """The law as a table and a picture, here and in W&B, if there are numbers to draw."""
    frame = results.table()
    table = law_table(frame, results.axes)
    if table.empty:
        return
    sizes = (frame["k"] / frame["d"]).dropna().unique()
    figure = law_figure(table, directory.path.name, sizes[0] if len(sizes) == 1 else None)
    directory.write_text("law.csv", table.to_csv(index=False, lineterminator="\n"))
    directory.write_bytes("law.svg", to_svg(figure))
    print(f"law      {directory.write_bytes('law.png', to_png(figure))}")
    log_figures(directory, flags, mode, {"law": figure}, table)


def log_figures(
    directory: RunDirectory,
    flags: Namespace,
    mode: Mode,
    figures: Mapping[str, Figure],
    table: pd.DataFrame,
) -> None:
    """Figures, and the table that the first of them shows, into W&B."""
    given, name = flags.wandb, directory.path.name
    place = {"project": given.project, "entity": given.entity, "group": given.group or name}
    logger = make_wandb_logger(directory.path, mode, name=name, tags=given.tags, **place)
    if logger is None:
        return
    with media.one_log(logger, step=0) as row:
        for key, figure in figures.items():
            row[f"{key}/figure"] = media.picture(figure_to_uint8(figure), step=0)
        if len(table):
            row[f"{next(iter(figures))}/table"] = media.image_table(table.to_dict("records"))
    logger.experiment.finish()


def report_failures(directory: RunDirectory, failures: Mapping[str, str]) -> None:
    """A line for every run that has failed.

    Raises:
        RunError: if there is one.
    """
    for name, reason in failures.items():
        print(f"failed   {name}: {reason}")
    if failures:
        told = f"{len(failures)} runs failed; their output is in {directory.path / 'logs'}"
        raise RunError(f"{told}, and the same command tries them again")


def write_new(path: str, content: str) -> None:
    """Write the sweep file of W&B, and say how to use it."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        remedy = f"cannot be written ({error.strerror}); give another file"
        raise InputError("--wandb-sweep", path, remedy) from error
    print(f"wandb sweep {shlex.quote(path)} prints the command for its agents")


def _default_name(sources: Sequence[Source]) -> str:
    """After the last configuration file."""
    files = [source.file for source in sources if source.file is not None]
    return Path(files[-1]).stem if files else "sweep"
