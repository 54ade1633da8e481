"""`python train.py dashboard`: a W&B workspace with the charts that a reconstruction needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from lit_recon import methods
from lit_recon.errors import InputError, RunError
from lit_recon.flags import CommandLine, Group, choices, describe
from lit_recon.flags.options import listed
from lit_recon.methods import ProjectionReconstructor, Reconstructor
from lit_recon.metrics.numbers import COMMON, TRAINING, Number, panels
from lit_recon.records.tracking import STEP, why_not_online

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

# wandb_workspaces is an extra, and imported inside the functions.


@dataclass(frozen=True)
class Logged:
    """What a method logs.

    Attributes:
        numbers: as recon/METHOD/NAME.
        pictures: names of those beside the grid, as recon/METHOD/NAME.
    """

    numbers: Sequence[Number]
    pictures: Sequence[str] = ()


Methods = Mapping[str, Logged]  # by the method's name
RATIO = "p_over_dn"  # the x axis of the law
FIGURES = ("law", "capacity", "boundaries")  # of sweeps, logged as NAME/figure


@dataclass
class DashboardFlags:
    """Builds a W&B workspace: training, reconstruction, pictures, sweeps, the law across runs.

    Args:
        entity: user or team that the project belongs to.
        project: project of the runs.
        method: the method to draw, as it stands in names: recon/METHOD/direction_error. null: all
            methods.
        name: the name of the workspace.
    """

    entity: str | None = None
    project: str = "lit_recon"
    method: str | None = None
    name: str = "Reconstruction"


def dashboard(argv: Sequence[str], plugins: Sequence[ModuleType] = ()) -> None:
    """Runs the command, or prints its flags.

    Args:
        argv: the flags.
        plugins: packages whose methods are drawn too.

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
    drawn = chosen(methods_of(plugins), flags.method)
    try:
        workspace = build_workspace(flags.entity, flags.project, drawn, flags.name)
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


def methods_of(plugins: Sequence[ModuleType] = ()) -> Methods:
    """The methods that can be chosen, by every name that one of their choices gives them.

    >>> list(methods_of())[0]
    'projection'
    """
    classes: Sequence[Any] = choices([methods, *plugins], Reconstructor, ProjectionReconstructor)
    return {
        name: Logged((*COMMON, *cls.describes), cls.draws)
        for cls in classes
        for name in _names(cls)
    }


def _names(cls: Any) -> Iterator[str]:
    """The names of a method: with its defaults, and with each choice of one argument."""
    yield cls().name
    for argument, kind in get_type_hints(cls.__init__).items():
        for choice in get_args(kind) if get_origin(kind) is Literal else ():
            with suppress(InputError):  # a choice that needs another argument
                yield cls(**{argument: choice}).name


def chosen(known: Methods, name: str | None) -> Methods:
    """All methods, or the one that was named.

    Settings may lengthen a method's name: ``projection_first_layer`` has the numbers of
    ``projection``.

    Raises:
        InputError: no such method.
    """
    if name is None:
        return known
    family = [method for method in known if f"{name}_".startswith(f"{method}_")]
    if not family:
        remedy = f"give {listed(list(known), 'or')}, or --plugin and the package that has it"
        raise InputError("--method", name, remedy)
    return {name: known[max(family, key=len)]}


def build_workspace(entity: str, project: str, drawn: Methods, name: str) -> Workspace:
    """The workspace as an object; nothing is sent.

    Args:
        entity, project, name: see `DashboardFlags`.
        drawn: the methods, each with what it logs.
    """
    import wandb_workspaces.workspaces as ws

    sections = [_training(), *(_reconstruction(*method) for method in drawn.items())]
    sections += [
        _law(method, logged.numbers) for method, logged in drawn.items() if _has_ratio(logged)
    ]
    sections.append(_sweeps())
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
            wr.LinePlot(title="Mean squared error", x=STEP, y=["train/mse"], log_y=True),
            *_charts("train", TRAINING),
        ],
    )


def _charts(prefix: str, numbers: Sequence[Number]) -> list[Any]:
    """A chart over the training step for each panel of numbers that are logged as PREFIX/NAME."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(
            title=panel.capitalize(),
            x=STEP,
            y=[f"{prefix}/{number.name}" for number in together],
            **_y_axis(together[0]),
        )
        for panel, together in panels(numbers).items()
    ]


def _reconstruction(method: str, logged: Logged) -> Section:
    """A method's numbers over training, and its pictures."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    charts = _charts(f"recon/{method}", logged.numbers)
    pictures = [
        wr.MediaBrowser(
            title=title,
            media_keys=[f"recon/{method}/{name}" for name in names],
            num_columns=1,
            layout=wr.Layout(w=16, h=12),
        )
        for title, names in (
            ("Training images and what came back", ("grid",)),
            ("How the attack went", logged.pictures),
        )
        if names
    ]
    name = f"Reconstruction by {method}"
    return ws.Section(name=name, is_open=True, panels=[*charts, *pictures])


def _sweeps() -> Section:
    """The figures of sweeps: the law's, and those of constructed networks."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    keys = [f"{name}/figure" for name in FIGURES]
    layout = wr.Layout(w=16, h=12)
    figures = wr.MediaBrowser(title="Figures", media_keys=keys, num_columns=1, layout=layout)
    return ws.Section(name="Sweeps", is_open=True, panels=[figures])


def _law(method: str, numbers: Sequence[Number]) -> Section:
    """One point per run: a number at its last checkpoint over equations per unknown."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    charts: list[Any] = [
        wr.ScatterPlot(
            title=f"{number.words[0].upper()}{number.words[1:]} over p / (d n)",
            x=wr.SummaryMetric(f"recon/{method}/{RATIO}"),
            y=wr.SummaryMetric(f"recon/{method}/{number.name}"),
            log_x=True,
            **_y_axis(number),
        )
        for number in numbers
        if "law" in number.shown
    ]
    return ws.Section(name=f"The law across runs, by {method}", is_open=True, panels=charts)


def _has_ratio(logged: Logged) -> bool:
    return RATIO in [number.name for number in logged.numbers]


def _y_axis(number: Number) -> dict[str, Any]:
    """The axis that a number's scale asks for."""
    share = (0, 1) if number.scale == "share" else (None, None)
    return {"log_y": number.scale == "log", "range_y": share}
