"""report.html of a sweep: the law in words, a row for every run, and runs that are broken."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

import train
from lit_recon.errors import InputError
from lit_recon.metrics import numbers
from lit_recon.metrics.numbers import Number
from lit_recon.report.sweep import SweepRun, law, write_sweep_report
from tests.runs import write_run

RATIOS = ("0.5", "1", "2", "10")
FIGURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><path d="M0 0L40 20"/></svg>'


def write_sweep(path: Path, *, failed: bool = True) -> Path:
    """A sweep over p / (d n) in which two samples come back at 2 and all four at 10."""
    path.mkdir()
    rows = []
    for ratio, count in zip(RATIOS, (0, 0, 2, 4), strict=True):
        name = f"p_over_dn={ratio}-1a2b3c4d"
        write_run(path / name, {0: 0, 1: count})
        for step, found in ((0, 0), (1, count)):
            rows.append(
                {
                    "run": name,
                    "status": "certified" if found == 4 else "no_signal",
                    "reason": "<b>because</b>",
                    "method": "projection",
                    "model.p_over_dn": ratio,
                    "model": "RandomFeatures",
                    "solver": "GaussNewton",
                    "step": step,
                    "last": bool(step),
                    "train_loss": 1e-12 if step else 1,
                    "recovered_fraction": found / 4,
                    "exact_fraction": found / 4,
                    "direction_error": 1e-8 if found == 4 else 1.4,
                    "p_over_dn": float(ratio),
                    "seconds": 0.25,
                }
            )
    if failed:
        row = {"run": "p_over_dn=20-1a2b3c4d", "status": "failed", "reason": "<i>no</i> memory"}
        rows.append({**row, "model.p_over_dn": "20", "model": "RandomFeatures"})
    with (path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)
    grid = {"model.p_over_dn": [*RATIOS, "20", "30"]}
    planned: dict[str, object] = {
        f"p_over_dn={ratio}-1a2b3c4d": {} for ratio in grid["model.p_over_dn"]
    }
    record = {"command": "python train.py sweep --jobs 2", "grid": grid, "runs": planned}
    (path / "sweep.json").write_text(json.dumps(record))
    (path / "law.svg").write_text(FIGURE)
    return path


def test_the_page_says_what_the_sweep_found(tmp_path: Path) -> None:
    page, skipped = write_sweep_report(write_sweep(tmp_path / "s"))
    text = page.read_text(encoding="utf-8")
    assert "Everything came back in 1 of 5 runs" in text
    assert "5 of 6 runs have ended, 1 of them failed." in text
    assert "RandomFeatures, GaussNewton: all training samples came back in every run" in text
    assert "from p / (d n) = 10 on, and none came back in any run up to p / (d n) = 1." in text
    assert "&lt;i&gt;no&lt;/i&gt; memory" in text and "<i>" not in text
    spoken = " ".join(re.sub(r"<[^>]*>", "", text).split())
    assert "python train.py sweep --jobs 2" in spoken
    assert skipped == []  # the run that failed has left no directory to read
    assert len(list(tmp_path.glob("s/*/report.html"))) == 4


def run(ratio: float, share: float | None, solver: str = "GaussNewton", **more: Any) -> SweepRun:
    row = {"model": "M", "method": "projection", "solver": solver, "p_over_dn": ratio}
    row |= {"recovered_fraction": share, **more}
    return SweepRun("r", {k: "" if v is None else str(v) for k, v in row.items()}, linked=False)


@pytest.mark.parametrize(
    ("runs", "sentences"),
    [
        ([], []),
        ([run(1, None)], ["M, GaussNewton: at no p / (d n) did every run give everything away"]),
        ([run(1, 0), run(1, 0.5)], ["M, GaussNewton: at no p / (d n) did every run"]),
        (
            [run(2, 1), run(4, 1), run(1, 0.9)],
            ["all training samples .* in every run from .* = 2 on"],
        ),
        (
            [run(2, 1), run(4, 0.9), run(8, 1)],
            ["all training samples .* in every run from .* = 8 on"],
        ),
        ([run(0.5, 0), run(2, 0), run(1, 0.1)], ["none came back in any run up to .* = 0.5"]),
        (
            [run(1, 1), run(1, 1, "Other"), run(2, 1, status="failed")],
            ["Newton: .* 1", "Other: .* 1"],
        ),
        (
            [run(1, 1), run(1, 1, "", method="toy")],
            ["^M, projection, GaussNewton: .* 1", "^M, toy: .* 1"],
        ),
    ],
)
def test_the_law_in_sentences(runs: list[SweepRun], sentences: list[str]) -> None:
    told = list(law(runs))
    assert len(told) == len(sentences)
    for sentence, line in zip(sentences, told, strict=True):
        pattern = sentence if "\\" in sentence or ".*" in sentence else re.escape(sentence)
        assert re.search(pattern, line), line


def test_two_methods_are_two_rows_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Number("memory_left", "memory left", "", "share", shown=("sweep",))
    monkeypatch.setattr(numbers, "_REGISTRY", {**numbers._REGISTRY, "memory_left": memory})
    sweep = write_sweep(tmp_path / "s")
    with (sweep / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in [row for row in rows if row["status"] != "failed"]:
        toy = {"method": "toy", "solver": "", "memory_left": "0.25", "recovered_fraction": "0"}
        rows.append({**row, **toy})
    with (sweep / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "memory_left"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    page = write_sweep_report(sweep)[0].read_text(encoding="utf-8")
    assert "Everything came back in 1 of 5 runs" in page
    assert "5 of 6 runs have ended, 1 of them failed." in page
    assert re.findall(r"(RandomFeatures, .*?): (?:all|none|at no)", page) == [
        "RandomFeatures, projection, GaussNewton",
        "RandomFeatures, toy",
    ]
    headings = re.findall(r'<button type="button">(.*?)</button>', page)
    assert headings[:6] == ["run", "model.p_over_dn", "method", "recovered", "exact", "memory left"]
    assert page.count(">toy</td>") == page.count(">25%</td>") == 4
    assert page.count(">projection</td>") == 4


def test_reports_that_are_there_stay(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", failed=False)
    write_sweep_report(sweep)
    (page,) = sweep.glob("p_over_dn=2-*/report.html")
    page.write_text("as it is")
    write_sweep_report(sweep)
    assert page.read_text() == "as it is"


def test_a_broken_run_costs_its_own_page_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_sweep(tmp_path / "s", failed=False)
    (sweep / "p_over_dn=2-1a2b3c4d" / "config.yaml").write_text("[")
    (
        sweep / "p_over_dn=1-1a2b3c4d" / "recon" / "projection" / "step=00000001" / "metrics.json"
    ).write_text("{")
    assert train.main(["report", "--sweep", str(sweep)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"report         {sweep}/report.html"
    assert [line[:15] for line in lines[:-1]] == ["skipped        "] * 2
    assert "metrics.json: is corrupt" in lines[0] and "config.yaml: is corrupt" in lines[1]
    text = (sweep / "report.html").read_text()
    assert text.count("<tr>") == 1 + 4
    assert len(re.findall('href="[^"]*/report.html"', text)) == 2
    assert "config.yaml: is corrupt" in text


def test_before_the_first_run_has_ended(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    (sweep / "results.csv").unlink()
    page, skipped = write_sweep_report(sweep)
    assert skipped == []
    assert "0 of 6 runs have ended." in page.read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sweep.json", "{"),
        ("sweep.json", "{}"),
        ("results.csv", "a,b\n1,2\n"),
        ("results.csv", "run,status,reason\nr,s,t\n"),
        ("results.csv", "run,status,reason,method\nr,s,t\n"),
        ("results.csv", "run,status,reason,method\nr,s,t,u,v\n"),
    ],
)
def test_a_broken_file_is_named_in_one_line(name: str, content: str, tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    (sweep / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(f"--sweep {sweep / name}: is corrupt")):
        write_sweep_report(sweep)


@pytest.mark.parametrize("name", ["nowhere", "run"])
def test_what_is_no_sweep_is_refused(name: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: 4})
    with pytest.raises(InputError, match=f"--sweep {tmp_path / name}: .*give"):
        write_sweep_report(tmp_path / name)


def shown_titles(page: Page) -> list[str]:
    return page.locator("table.sortable th").all_inner_texts()


@pytest.mark.browser
@pytest.mark.parametrize("size", [pytest.param((1280, 900), marks=pytest.mark.long), (390, 844)])
def test_in_a_browser(size: tuple[int, int], visit: Callable[..., Page], tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s")
    page = visit(write_sweep_report(sweep)[0], size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.locator("img").evaluate("one => one.naturalWidth") > 0

    def column(number: int) -> list[str]:
        return page.locator(f"tbody td:nth-child({number})").all_inner_texts()

    by = page.get_by_role("button", name="model.p_over_dn")
    by.click()
    by.click()
    assert column(2) == ["20", "10", "2", "1", "0.5"]  # as numbers
    assert shown_titles(page) == [
        "run",
        "model.p_over_dn",
        "recovered",
        "exact",
        "direction error",
        "training loss",
        "time",
        "how it ended",
        "name",
    ]
    page.get_by_role("button", name="recovered").click()
    assert column(3) == ["0%", "0%", "50%", "100%", "–"]
    for link in page.locator("tbody a").all():
        address = link.evaluate("one => one.href")
        assert Path(address.removeprefix("file://").replace("%3D", "=")).is_file()
