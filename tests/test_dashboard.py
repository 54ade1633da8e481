"""The W&B workspace: built as an object here, and never sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_workspaces.workspaces import Workspace

import train
from lit_recon.audit.recorder import named_numbers
from lit_recon.errors import InputError
from lit_recon.fit.flags import WandbFlags
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics.numbers import COMMON, TRAINING, Number
from lit_recon.records.directory import RunDirectory
from lit_recon.records.tracking import STEP
from lit_recon.report.dashboard import (
    DashboardFlags,
    Logged,
    Methods,
    build_workspace,
    chosen,
    methods_of,
)
from tests.runs import read

COMMAND = ["dashboard", "--entity", "somebody", "--project", "runs"]
SOMEWHERE = "https://example.invalid/somebody/runs?nw=1"


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    """No account, no settings, and no server that answers."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb.teardown()
    yield
    wandb.teardown()


def refused(status: int, capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a refusal."""
    assert train.main([*COMMAND, *argv]) == status
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    return error


def panels(section: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"kind": panel["viewType"], **panel["config"]} for panel in section["panels"]]


def panels_of(drawn: Methods) -> dict[str, list[dict[str, Any]]]:
    """The panels of a workspace by the names of its sections."""
    spec = build_workspace("somebody", "runs", drawn, "Reconstruction")._spec
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: panels(section) for section in sections}


def test_panels_show_what_a_run_logs() -> None:
    workspace = build_workspace("somebody", "runs", methods_of(), "Reconstruction")
    spec = workspace._spec  # what is sent, checked by the types of wandb-workspaces
    assert (spec["entity"], spec["project"], spec["displayName"]) == (
        "somebody",
        "runs",
        "Reconstruction",
    )
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    by_name = {section["name"]: panels(section) for section in sections}
    training = by_name["Training"]
    attack = by_name["Reconstruction by projection"]
    law = by_name["The law across runs, by projection"]
    logged = set(named_numbers(RunDirectory("run"), [ProjectionReconstructor()]))
    trained = {*train.TRAINING_NUMBERS, *(f"train/{number.name}" for number in TRAINING)}
    assert {name for panel in training for name in panel["metrics"]} == trained
    lines = [panel for panel in attack if panel["kind"] == "Run History Line Plot"]
    drawn = {name for panel in lines for name in panel["metrics"]}
    assert drawn <= logged
    for name in ("direction_error", "recovered_fraction", "exact_fraction", "oracle_loss"):
        assert f"recon/projection/{name}" in drawn
    assert {panel["xAxis"] for panel in training + lines} == {STEP}
    (pictures,) = (panel for panel in attack if panel["kind"] == "Media Browser")
    assert pictures["mediaKeys"] == ["recon/projection/grid"]
    assert {panel["kind"] for panel in law} == {"Scatter Plot"}
    assert {panel["xAxis"] for panel in law} == {"summary:recon/projection/p_over_dn"}
    assert {panel["yAxis"].removeprefix("summary:") for panel in law} <= logged


def test_the_default_is_every_method_of_a_plain_run() -> None:
    assert DashboardFlags().method is None
    assert ProjectionReconstructor().name in chosen(methods_of(), None)
    assert DashboardFlags().project == WandbFlags().project


def test_a_method_with_numbers_of_its_own_has_its_own_section() -> None:
    own = (
        Number("part_left", "part left", "", "share", "low", panel="memory"),
        Number("size", "size", "", "log", panel="size", shown=("law",)),
        Number("rank", "rank", "", "count", panel="size"),
        Number("hidden", "hidden", "", "log"),
    )
    drawn = {**methods_of(), "toy": Logged((*COMMON, *own), ("strip",))}
    spec = build_workspace("somebody", "runs", drawn, "Reconstruction")._spec
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    names = [section["name"] for section in sections]
    assert names == [
        "Training",
        "Reconstruction by projection",
        "Reconstruction by projection_first_layer",
        "Reconstruction by attractors",
        "Reconstruction by kkt",
        "Reconstruction by rowspace",
        "Reconstruction by rowspace_final",
        "Reconstruction by toy",
        "The law across runs, by projection",
        "The law across runs, by projection_first_layer",  # the others do not have p / (d n)
        "Sweeps",
    ]
    charts = {
        panel["chartTitle"]: panel
        for panel in panels(sections[names.index("Reconstruction by toy")])
        if "chartTitle" in panel
    }
    assert charts["Memory"]["metrics"] == ["recon/toy/part_left"]
    assert (charts["Memory"]["yAxisMin"], charts["Memory"]["yAxisMax"]) == (0, 1)
    assert charts["Size"]["metrics"] == ["recon/toy/size", "recon/toy/rank"]
    assert charts["Size"]["yLogScale"] and not charts["Time"].get("yLogScale")
    assert "hidden" not in str(charts)
    assert "'recon/toy/strip'" in str(sections[names.index("Reconstruction by toy")])


def test_one_method_by_its_name() -> None:
    first, second, third = (Logged(COMMON[:count]) for count in (3, 1, 2))
    known = {"projection": first, "projection_b": second, "toy": third}
    assert chosen(known, None) == known
    assert chosen(known, "toy") == {"toy": third}
    assert chosen(known, "projection_first_layer") == {"projection_first_layer": first}
    assert chosen(known, "projection_b_long") == {"projection_b_long": second}
    with pytest.raises(InputError, match="--method toys: give projection, projection_b or toy"):
        chosen(known, "toys")


def test_the_command_says_where_the_workspace_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lit_recon.report.dashboard.why_not_online", lambda: None)
    sent: list[Workspace] = []

    def save(self: Workspace) -> Workspace:
        sent.append(self)
        return self

    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Workspace, "url", SOMEWHERE)
    assert train.main([*COMMAND, "--name", "mine"]) == 0
    assert capsys.readouterr().out == f"dashboard      {SOMEWHERE}\n"
    assert [(view.entity, view.project, view.name) for view in sent] == [
        ("somebody", "runs", "mine")
    ]


def test_without_an_account(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no API key; run `wandb login`" in refused(1, capsys)


def test_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    assert "http://127.0.0.1:9 does not answer" in refused(1, capsys)


def test_where_wandb_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "it is offline here, by WANDB_MODE or `wandb offline`" in refused(1, capsys)


def test_a_refusal_of_wandb_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(self: Workspace) -> Workspace:
        raise wandb.errors.CommError("no such\nproject")

    monkeypatch.setattr("lit_recon.report.dashboard.why_not_online", lambda: None)
    monkeypatch.setattr(Workspace, "save", save)
    assert "W&B did not take the workspace: no such project" in refused(1, capsys)


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert "needs the extra dashboard: pip install" in refused(2, capsys)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["dashboard"], "--entity missing: give the user or team"),
        (["dashboard", "--entitty", "x"], "--entitty x: no such flag; did you mean --entity?"),
        (["dashboard", "--entity"], "--entity without a value"),
        ([*COMMAND, "--method", "toys"], "--method toys: give projection"),
    ],
)
def test_bad_input(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(argv) == 2
    assert line in capsys.readouterr().err


PHOTOS = ["--data", "Photos", "--data.n", "4", "--data.image_size", "8"]
DENSE = [*PHOTOS, "--model", "DeepMLP", "--model.widths", "[32, 16]"]
SHORT = ["--trainer.max_steps", "3", "--recon.max_seconds", "5"]
RUNS = {
    "projection": [*PHOTOS, "--model.p_over_dn", "4", "--recon.max_seconds", "5"],
    "rowspace": [*DENSE, *SHORT, "--optim", "SGD", "--recon", "RowSpaceReconstructor"],
    "projection_first_layer": [
        *(*PHOTOS, "--model", "MLP", "--model.width", "64", "--optim", "SGD", "--optim.lr", "1e-4"),
        *(*SHORT, "--recon", "ProjectionReconstructor", "--recon.evidence", "first_layer"),
    ],
    "rowspace_final": [
        *(*DENSE, "--optim", "Margin", "--model.first_layer_std", "1e-4"),
        *("--trainer.max_steps", "100", "--recon", "RowSpaceReconstructor"),
        *("--recon.evidence", "final", "--recon.max_seconds", "5"),
    ],
    "kkt": [*DENSE, *SHORT, "--optim", "Margin", "--recon", "KKTReconstructor"],
    "attractors": [
        *(*PHOTOS, "--data.normalize", "norm", "--model", "Autoencoder", "--model.widths", "[64]"),
        *("--task", "Autoencode", "--optim", "TensorAdam", "--optim.polish", "true"),
        *("--trainer.max_steps", "200", "--recon", "AttractorReconstructor"),
        *("--recon.max_seconds", "5"),
    ],
    "capacity": [
        *("--data", "TwoMoons", "--data.n", "60", "--data.seed", "0"),
        *("--model", "Interpolator", "--optim", "Construct"),
    ],
}


GRIDS = {
    "moons": ["sweep", *RUNS["capacity"], "--grid.model.width", "4,40", "--jobs", "1"],
    "law": ["sweep", *RUNS["projection"]],
}
GRIDS = {name: [*flags, "--grid.run.seed", "0:2"] for name, flags in GRIDS.items()}
OFFLINE = ["--wandb.mode", "offline"]
Log = Callable[[str], set[str]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """What a run or sweep by its name above logs; each is done once."""
    home = tmp_path_factory.mktemp("offline")

    @cache
    def keys_of(name: str) -> set[str]:
        argv = {**RUNS, **GRIDS}[name]
        assert train.main([*argv, *OFFLINE, "--run.dir", str(home), "--run.name", name]) == 0
        return logged(home / name)

    return keys_of


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        *("projection", "rowspace"),
        *(pytest.param(name, marks=pytest.mark.long) for name in list(RUNS)[2:-1]),
    ],
)
def test_an_offline_run_logs_what_the_panels_of_its_method_show(family: str, keys: Log) -> None:
    for panel in panels_of(methods_of())[f"Reconstruction by {family}"]:
        assert shown(panel) & keys(family), panel


@pytest.mark.long
@pytest.mark.slow
def test_offline_runs_of_all_families_log_what_the_other_panels_show(
    keys: Log, warm_workers: None
) -> None:
    assert {"capacity/figure", "capacity/table", "boundaries/figure"} <= keys("moons")
    assert {"law/figure", "law/table"} <= keys("law")
    every = set().union(*map(keys, [*RUNS, *GRIDS]))
    sections = panels_of(methods_of())
    laws = [f"The law across runs, by {name}" for name in ("projection", "projection_first_layer")]
    for name in ("Training", "Sweeps", *laws):
        for panel in sections[name]:
            assert shown(panel) & every, (name, panel)


def logged(directory: Path) -> set[str]:
    """The keys of the one offline segment of a run."""
    (segment,) = directory.glob("wandb/offline-run-*")
    rows = [row["history"]["item"] for row in read(segment) if "history" in row]
    return {key.partition(".")[0] for row in rows for key in row}  # media have several values


def shown(panel: dict[str, Any]) -> set[str]:
    """The keys that a panel shows."""
    axis = panel.get("yAxis")
    named = [*panel.get("metrics", ()), *panel.get("mediaKeys", ()), *([axis] if axis else [])]
    return {name.removeprefix("summary:") for name in named}
