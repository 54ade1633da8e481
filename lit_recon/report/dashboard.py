"""`python train.py dashboard`: a W&B workspace with the charts that a reconstruction needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_recon.errors import InputError, RunError
from lit_recon.flags import CommandLine, Group, describe
from lit_recon.records.tracking import STEP, why_not_online

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

# wandb_workspaces is an extra, and imported inside the functions.


@dataclass
class DashboardFlags:
    """Builds a W&B workspace: training, reconstruction, pictures, and the law across runs.

    Args:
        entity: user or team that the project belongs to.
        project: project of the runs.
        method: whose numbers, as they stand in their names: recon/METHOD/direction_error.
        name: what the workspace is called.
    """

    entity: str | None = None
    project: str = "lit_recon"
    method: str = "projection"
    name: str = "Reconstruction"


def dashboard(argv: Sequence[str]) -> None:
    """Runs the command, or tells about its flags.

    Raises:
        InputError: a wrong flag, or the extra is not installed.
        RunError: there is no account or no network, or W&B refuses.
    """
    groups = [Group("", (DashboardFlags,))]
    if {"-h", "--help"} & set(argv):
        print(describe(groups), end="")
        return
    command = CommandLine("python train.py dashboard", groups, [])
    flags = command.parse(command.read(argv))
    if flags.entity is None:
        raise InputError("--entity", "missing", "give the user or team that the project belongs to")
    try:
        workspace = build_workspace(flags.entity, flags.project, flags.method, flags.name)
    except ImportError as error:
        remedy = "needs the extra dashboard: pip install -c constraints.txt -e '.[dashboard]'"
        raise InputError("dashboard", "", f"{remedy} ({error})") from error
    reason = why_not_online()
    if reason is not None:
        raise RunError(f"the dashboard is built in W&B, which is not to be reached: {reason}")
    try:
        print(f"dashboard      {workspace.save().url}")
    except Exception as error:  # of many kinds, and of W&B's choosing: no such project, no right
        raise RunError(f"W&B did not take the workspace: {error}") from error


def build_workspace(entity: str, project: str, method: str, name: str) -> Workspace:
    """The workspace as an object; nothing is sent. See `DashboardFlags` for the arguments."""
    import wandb_workspaces.workspaces as ws

    sections = [_training(), _reconstruction(method), _law(method)]
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)


def _training() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    return ws.Section(
        name="Training",
        is_open=True,
        panels=[
            wr.LinePlot(title="Training loss", x=STEP, y=["train/loss"], log_y=True),
            wr.LinePlot(title="Accuracy", x=STEP, y=["train/acc", "val/acc"], range_y=(0, 1)),
        ],
    )


def _reconstruction(method: str) -> Section:
    """What comes back over training, and the pictures."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def over_steps(title: str, *names: str, share: bool = False) -> wr.LinePlot:
        return wr.LinePlot(
            title=title,
            x=STEP,
            y=[f"recon/{method}/{name}" for name in names],
            log_y=not share,
            range_y=(0, 1) if share else (None, None),
        )

    shares = ("recovered_fraction", "exact_fraction", "certified_fraction")
    return ws.Section(
        name=f"Reconstruction by {method}",
        is_open=True,
        panels=[
            over_steps("What came back", *shares, share=True),
            over_steps("Direction error", "direction_error", "null_direction_error"),
            over_steps("Projection loss and its floor", "projection_loss", "oracle_loss"),
            over_steps("Seconds", "seconds"),
            wr.MediaBrowser(
                title="Training images and what came back",
                media_keys=[f"recon/{method}/grid"],
                num_columns=1,
                layout=wr.Layout(w=16, h=12),
            ),
        ],
    )


def _law(method: str) -> Section:
    """One point per run: what came back at its last checkpoint over equations per unknown."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def over_ratio(title: str, name: str, *, share: bool = False) -> wr.ScatterPlot:
        return wr.ScatterPlot(
            title=title,
            x=wr.SummaryMetric(f"recon/{method}/p_over_dn"),
            y=wr.SummaryMetric(f"recon/{method}/{name}"),
            log_x=True,
            log_y=not share,
            range_y=(0, 1) if share else (None, None),
        )

    return ws.Section(
        name="The law across runs",
        is_open=True,
        panels=[
            over_ratio("Recovered over p / (d n)", "recovered_fraction", share=True),
            over_ratio("Exact over p / (d n)", "exact_fraction", share=True),
            over_ratio("Direction error over p / (d n)", "direction_error"),
        ],
    )
