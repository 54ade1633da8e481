"""The run directory of `fit`, and the lines that it prints at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jsonargparse import Namespace

from lit_recon.audit.recorder import of_method, read_results, tally
from lit_recon.errors import InputError, RunError
from lit_recon.records.directory import RunDirectory
from lit_recon.records.tracking import view_command
from lit_recon.report.page import write_run_report

RUN_PATH = "LIT_RECON_RUN_PATH"  # environment variable: the run directory, for other ranks


def open_directory(config: Namespace, leader: bool) -> RunDirectory:
    """Make the run directory on rank 0; other ranks find it in the environment or the flags.

    Raises:
        InputError: the name or the folder cannot be used.
    """
    flags = config.run
    if leader:
        names = (config.model.class_path, config.data.class_path)
        stem = "-".join(name.rpartition(".")[2].lower() for name in names)
        directory = RunDirectory.create(
            flags.dir, flags.name, stem=stem, resume=flags.resume, overwrite=flags.overwrite
        )
        os.environ[RUN_PATH] = str(directory.path)
        return directory
    if RUN_PATH in os.environ:
        return RunDirectory(os.environ[RUN_PATH])
    if flags.name is None:
        raise InputError("--run.name", "missing", "give one, for ranks started by another launcher")
    return RunDirectory(os.path.join(flags.dir, flags.name))


def conclude(directory: RunDirectory, step: int, methods: Sequence[str]) -> None:
    """Print the results of every method at the last step and where they are; write the report.

    The report comes last: if it fails, everything else is complete and printed.

    Raises:
        RunError: the report cannot be written.
    """
    print()
    for name in methods:
        there = of_method(directory, name)
        results = read_results(there, step)
        if results:
            print(f"{tally(results)} by {name}")
            print(f"picture        {there.step_path(step) / 'grid.png'}")
    print(f"run directory  {directory.path}")
    command = view_command(directory.path)
    if command:
        print(f"W&B            {command}")
    try:
        print(f"report         {write_run_report(directory.path)}")
    except (InputError, RunError) as error:  # a damaged file of an earlier step, or a full disk
        raise RunError(f"the run is complete, and only its report is missing: {error}") from error
