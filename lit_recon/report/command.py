"""`python train.py report`: write the page of a run or of a sweep again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Group, describe
from lit_recon.report.page import write_run_report
from lit_recon.report.sweep import write_sweep_report


@dataclass
class ReportFlags:
    """Writes report.html again, from the files of a run or of a sweep.

    Args:
        run: directory of a run, as runs/NAME.
        sweep: directory of a sweep, as runs/NAME.
    """

    run: str | None = None
    sweep: str | None = None


def report(argv: Sequence[str]) -> None:
    """Runs the command, or prints its flags.

    Raises:
        InputError: a wrong flag, no such directory, or a file in it that is broken.
        RunError: the report cannot be written.
    """
    groups = [Group("", (ReportFlags,))]
    if {"-h", "--help"} & set(argv):
        print(describe(groups), end="")
        return
    command = CommandLine("python train.py report", groups, [])
    flags = command.parse(command.read(argv))
    if (flags.run is None) == (flags.sweep is None):
        raise InputError("--run", flags.run or "missing", "give either --run or --sweep runs/NAME")
    if flags.run is not None:
        print(f"report         {write_run_report(flags.run)}")
        return
    page, skipped = write_sweep_report(flags.sweep)
    for line in skipped:
        print(f"skipped        {line}")
    print(f"report         {page}")
