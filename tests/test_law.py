"""The law figure: which runs become which line, and what stands in its table."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lit_recon.metrics import numbers
from lit_recon.metrics.numbers import Number
from lit_recon.report.law import law_axis, law_figure, law_table, to_png, to_svg

RATIOS = (0.5, 1.0, 2.0)
AXES = ["config", "model.p_over_dn", "run.seed"]


def results(**columns: object) -> pd.DataFrame:
    """Two solvers at three ratios with three seeds each, two steps a run."""
    rows = [
        {
            "config": f"presets/{solver.lower()}.yaml",
            "model.p_over_dn": ratio,
            "run.seed": seed,
            "model": "RandomFeatures",
            "method": "projection",
            "solver": solver,
            "step": step,
            "last": bool(step),
            "train_loss": 10.0 ** -(seed + step),
            "direction_error": ratio + seed if step else 99.0,
            "matched_error_abs": 0.5,
            "recovered_fraction": float(ratio > 1),
            "exact_fraction": None,
            "p_over_dn": ratio,
            **columns,
        }
        for solver in ("Newton", "Descent")
        for ratio in RATIOS
        for seed in range(3)
        for step in (0, 1)
    ]
    return pd.DataFrame(rows).convert_dtypes()


def lines(frame: pd.DataFrame, axes: list[str]) -> list[str]:
    return list(law_table(frame, axes)["line"].unique())


def test_the_table_holds_median_and_range_over_seeds_at_the_last_step() -> None:
    table = law_table(results(), AXES)
    assert list(table.columns) == [
        *("line", "p_over_dn", "number", "runs", "median", "least", "most")
    ]
    assert list(table["line"].unique()) == ["Newton", "Descent"]
    assert set(table["number"]) == {
        *("direction_error", "matched_error_abs", "recovered_fraction", "train_loss")
    }
    one = table[(table["line"] == "Descent") & (table["number"] == "direction_error")]
    assert list(one["p_over_dn"]) == list(RATIOS)
    assert set(one["runs"]) == {3}
    assert list(one["median"]) == [ratio + 1 for ratio in RATIOS]
    assert list(one["least"]) == list(RATIOS)
    assert list(one["most"]) == [ratio + 2 for ratio in RATIOS]


def test_there_is_no_law_where_no_run_has_ended() -> None:
    failed = results(last=False, status="failed").drop(columns=["p_over_dn", "direction_error"])
    assert law_table(failed, AXES).empty


def test_a_line_is_named_by_what_tells_it_from_others() -> None:
    assert lines(results(), AXES) == ["Newton", "Descent"]
    frame = results(solver="Newton")
    assert lines(frame, AXES) == ["newton", "descent"]  # the files of the grid
    assert lines(frame, AXES[1:]) == ["RandomFeatures, Newton"]
    frame["data.n"] = frame["run.seed"] * 10
    assert lines(frame, ["data.n", *AXES[1:]]) == ["n 0", "n 10", "n 20"]
    frame["data.seed"] = frame["run.seed"]
    assert lines(frame, ["data.seed", *AXES[1:]]) == ["RandomFeatures, Newton"]
    frame["model"] = frame["run.seed"].map({0: "MLP", 1: "MLP", 2: "RandomFeatures"})
    assert lines(frame, AXES) == [
        f"{model}, {file}" for file in ("newton", "descent") for model in ("MLP", "RandomFeatures")
    ]


def test_every_method_is_a_line_with_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Number("memory_left", "memory left", "", "share", shown=("law",))
    size = Number("size", "size", "", "log", shown=("law",))
    shown = {number.name: number for number in (memory, size)}
    monkeypatch.setattr(numbers, "_REGISTRY", {**numbers._REGISTRY, **shown})
    more = {"memory_left": 0.25, "size": 1e-12, "direction_error": None}
    toy = results(method="toy", solver=None, **more)
    frame = pd.concat([results(solver="Newton"), toy]).convert_dtypes()
    assert lines(frame, AXES[1:]) == ["projection", "toy"]
    table = law_table(frame, AXES[1:])
    own = table[table["line"] == "toy"]
    assert {"memory_left", "size"} < set(own["number"])
    assert "direction_error" not in set(own["number"])
    assert "memory_left" not in set(table[table["line"] == "projection"]["number"])
    head, *panels = law_figure(table, "law", None).axes
    axes = {panel.get_title(loc="left"): panel for panel in panels}
    assert axes["share memory left"].get_ylim() == (-0.04, 1.04)
    assert axes["size"].get_yscale() == "log"
    drawn = np.asarray(axes["size"].get_lines()[-1].get_ydata())
    assert drawn.tolist() == [1e-12] * 3  # the number has no floor
    # A line that the first panel does not have is in the legend all the same.
    legend = head.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["projection", "toy"]


def test_without_a_number_of_features_another_number_is_the_x_axis() -> None:
    frame = results(solver="Newton")
    frame["optim.weight_decay"] = frame["p_over_dn"].map({0.5: 0.0, 1.0: 1e-3, 2.0: 1e-2})
    axes = ["config", "optim.weight_decay", "run.seed"]
    assert law_axis(frame, axes) == "optim.weight_decay"
    assert law_axis(frame, [*axes, "model.p_over_dn"]) == law_axis(frame, ["config"]) == "p_over_dn"
    table = law_table(frame, axes)
    assert list(table["line"].unique()) == ["newton", "descent"]
    assert sorted(table["optim.weight_decay"].unique()) == [0.0, 1e-3, 1e-2]
    _, *panels = law_figure(table, "decay", 0.01).axes
    for panel in panels:
        assert panel.get_xlabel() == "weight decay"
        assert panel.get_xscale() == "symlog"  # no decay has a place
        assert list(panel.get_xticks()) == [1e-2, 1e-3, 0.0]
        assert not panel.texts  # p = d n is no place on it


def test_a_single_line_without_a_solver_is_named_after_its_method() -> None:
    frame = results(solver="Newton")
    alone = frame[frame["config"] == frame["config"].iloc[0]]
    # An empty column of results.csv is read as one of numbers.
    alone = alone.assign(solver=pd.Series(pd.NA, alone.index, "Float64"))
    table = law_table(alone, AXES)
    assert list(table["line"].unique()) == [f"{alone['model'].iloc[0]}, projection"]


def test_runs_that_failed_or_attacked_nothing_do_not_count() -> None:
    frame = results()
    failed = frame["run.seed"] == 0
    frame.loc[failed, ["last", "step", "p_over_dn", "direction_error"]] = pd.NA
    table = law_table(frame, AXES)
    assert set(table["runs"]) == {2}
    frame["last"] = pd.array([pd.NA] * len(frame), dtype="boolean")
    assert law_table(frame, AXES).empty


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("p_equals_n", [None, 0.01])
def test_the_figure_has_a_panel_for_every_number(pixels: bool, p_equals_n: float | None) -> None:
    table = law_table(results(exact_fraction=0.5 if pixels else None), AXES)
    figure = law_figure(table, "law", p_equals_n)
    head, *panels = figure.axes
    titles = [axes.get_title(loc="left") for axes in panels]
    legend = head.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Newton", "Descent"]
    assert "3 runs a point" in legend.get_title().get_text()
    assert len(titles) == (5 if pixels else 4)
    assert any("exact" in title for title in titles) == pixels
    picture = np.asarray(Image.open(io.BytesIO(to_png(figure))))
    assert picture.shape[1] == 800
    for axes in panels:
        marks = [text.get_text() for text in axes.texts]
        assert marks == (["p = d n"] if p_equals_n is None else ["p = d n", "p = n"])
        assert axes.get_xscale() == "log"
        assert [line.get_label() for line in axes.get_lines()][-2:] == ["Newton", "Descent"]


def test_the_same_table_gives_the_same_files() -> None:
    def drawn() -> Figure:
        return law_figure(law_table(results(), AXES), "law", 0.01)

    assert to_svg(drawn()) == to_svg(drawn())
    assert to_png(drawn()) == to_png(drawn())
    assert b"<svg" in to_svg(drawn())
