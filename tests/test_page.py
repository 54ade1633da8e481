"""report.html: what it says, what it shows, and how it behaves in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page
from safetensors.torch import load_file, save_file

from lit_recon.errors import InputError
from lit_recon.metrics import numbers, unscored
from lit_recon.metrics.numbers import Number
from lit_recon.report import words
from lit_recon.report.charts import inner_chart
from lit_recon.report.page import MOST_PAIRS, phases, write_run_report
from lit_recon.report.pictures import reconstructions
from lit_recon.report.run import read_run
from lit_recon.solvers import SolverStep
from tests.runs import write_run

PHONE, DESKTOP = (390, 844), (1280, 900)
LEAK = {0: 0, 10: 1, 100: 3, 1000: 4}  # how many of four came back at each step


def report(path: Path) -> str:
    file = write_run_report(path)
    assert file == path / "report.html"
    return file.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a page says, in one line."""
    return " ".join(
        re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]*>", " ", page, flags=re.S).split()
    )


# --- what it says


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (92160, "92,160"),
        (0.25, "0.25"),
        (1.0, "1"),
        (0.0123456, "0.0123"),
        (12345.6, "12,346"),
        (2.34e-8, "2.3e-8"),
        (1e-4, "1e-4"),
        (-3e9, "-3e9"),
    ],
)
def test_numbers_as_people_write_them(value: float | None, shown: str) -> None:
    assert words.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.42, "0.4 s"), (34.4, "34 s"), (320, "5 min 20 s"), (11100, "3 h 5 min")],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("found", "images", "sentences"),
    [
        (
            {0: 0, 1: 4},
            True,
            [
                "All 4 training images came back from the weights, exact in every",
                "First seen at step 1; at step 0 there was nothing.",
            ],
        ),
        (
            LEAK,
            True,
            [
                "All 4 training images",
                "The first came back at step 10, 4 of 4 at step 1,000.",
                "accepts 4 of 4 candidates",
                "4 of 4 are recognisable, by a milder score that ignores brightness and contrast; "
                "the same score finds 0 in 4 held-out images.",
            ],
        ),
        ({1: 4}, True, ["All 4 training images", "First seen at step 1, the first checkpoint."]),
        (
            {0: 0, 1: 3, 2: 1},
            True,
            [
                "3 of 4 training images came back",
                "At the last checkpoint, step 2, it was 1, 1 of them exact.",
            ],
        ),
        (
            {0: 0, 5: 0, 9: 0},
            True,
            [
                "No training image came back",
                "It was tried at 3 checkpoints, steps 0 to 9.",
                "and, hardly different, 1.",
            ],
        ),
        (
            {0: 0, 1: 4},
            False,
            [
                "All 4 training samples came back from the weights First seen",
                "against the training samples",
            ],
        ),
    ],
)
def test_summary_in_plain_words(
    found: dict[int, int], images: bool, sentences: list[str], tmp_path: Path
) -> None:
    said = text_of(report(write_run(tmp_path / "r", found, images=images)))
    for sentence in sentences:
        assert sentence in said


def test_a_run_that_stopped_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", LEAK)
    assert "Training stopped" not in report(path)
    shutil.rmtree(path / "recon" / "projection" / "step=00001000")
    (path / "metrics.jsonl").unlink()
    assert "Training stopped at step 100 of 1,000." in report(path)


def test_a_run_without_reconstructions(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {})
    said = text_of(report(path))
    assert "Nothing was reconstructed in this run" in said
    assert "RandomFeatures, p 92,160" in said
    for name in ("provenance.json", "metrics.jsonl", "data.safetensors"):  # killed as it began
        (path / name).unlink()
    assert "ended before its provenance was written" in report(path)


def test_provenance_and_threat_model(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", LEAK)
    said = text_of(report(path))
    for part in (
        f"{40 * 'a'} , with changes",
        "1 min 20 s",
        "A processor (cpu), 2 cores",
        "torch 2.14.1",
    ):
        assert part in said
    assert "scipy" not in said
    assert "What the attacker knew final weights number of training samples Nothing else" in said
    assert "Method ProjectionReconstructor" in said
    change_json(
        path / "recon" / "projection" / "step=00001000" / "metrics.json",
        knows=["the hair of the dog"],
    )
    assert "the hair of the dog" in report(path)


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "<i>r", LEAK))
    assert "<b>cat" not in page and "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "<i>" not in page and "&lt;i&gt;mine" in page


def test_numbers_without_meaning_are_left_out(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {1: 4})
    empty = dict.fromkeys(("direction_error", "null_direction_error", "psnr", "ssim", "seconds"))
    change_json(
        path / "recon" / "projection" / "step=00000001" / "metrics.json",
        **empty,
        projection_loss=None,
    )
    page = report(path)
    assert "All 4 training images" in page
    assert "<dt>PSNR, dB</dt>" not in page and "nan" not in text_of(page)
    assert "no projection loss here" not in page  # the floor is still drawn


def test_curves_of_one_step_and_of_steps_that_went_astray(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {0: 4, 1: 4, 2: 4})
    head = "step,phase,loss,candidates,applications,seconds\n"
    curves = ["0,plain,1e-9,4,3,0.1\n", "0,plain,nan,4,3,0.1\n", "0,a,0,4,3,0\n1,a,inf,4,4,0\n"]
    for step, curve in enumerate(curves):
        (path / "recon" / "projection" / f"step={step:08d}" / "curve.csv").write_text(head + curve)
    page = report(path)
    assert "<td>–</td>" in page  # a lowest loss that is none
    assert "nan" not in text_of(page) and "inf" not in text_of(page)
    assert labels(path, ["1", "1e-3", "1e-3"]) == labels(path, ["1", "1e-3", "1e30"])
    assert "1e-6" in labels(path, ["1", "1e-6", "1e-3"])


def labels(path: Path, losses: list[str]) -> list[str]:
    """All that is written in the drawing of inner curves with these losses."""
    rows = [f"{i},plain,{loss},4,{i},{i}\n" for i, loss in enumerate(losses)]
    head = "step,phase,loss,candidates,applications,seconds\n"
    for folder in path.glob("recon/projection/*"):
        (folder / "curve.csv").write_text(head + "".join(rows))
    chart = inner_chart(read_run(path).methods[0].checkpoints)
    assert chart is not None
    return re.findall(r">([^<>]+)</text>", chart)


def test_phases_are_told_by_what_they_took() -> None:
    cost = [("coarse", 10, 1.0), ("coarse", 30, 2.0), ("plain", 35, 4.0), ("coarse", 50, 4.5)]
    curve = [SolverStep(i, name, 1.0 / (i + 1), 4, a, s) for i, (name, a, s) in enumerate(cost)]
    coarse, plain = phases(curve)
    assert (coarse.name, coarse.times, coarse.steps, coarse.applications) == ("coarse", 2, 3, 45)
    assert (coarse.seconds, coarse.loss) == (2.5, 0.25)
    assert (plain.times, plain.steps, plain.applications, plain.seconds) == (1, 1, 5, 2.0)


# --- what it shows


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_pictures_have_the_true_pixels(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {0: 0, 1: 4})
    images = load_file(path / "data.safetensors")["images"]
    shown = pictures(report(path))
    assert len(shown) == 4 * (1 + 2 * 2)
    for index, truth in enumerate(images.permute(0, 2, 3, 1).numpy()):
        first, before, off, after, none = shown[5 * index : 5 * index + 5]
        np.testing.assert_array_equal(first, truth)
        np.testing.assert_array_equal(after, truth)
        assert not none.any()
        difference = np.abs(truth.astype(int) - before.astype(int)) * 4
        np.testing.assert_array_equal(off, difference.clip(0, 255))


def test_pictures_are_what_was_scored(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", LEAK)
    run = read_run(path)
    assert run.truth is not None and run.truth.images is not None
    for point in run.methods[0].checkpoints:
        found = reconstructions(run.truth, point)
        right = torch.tensor([bool(row.exact) for row in point.rows])
        assert torch.equal(torch.eq(found, run.truth.images).flatten(1).all(1), right)
        # Sign-blind scoring shows the negative of what the attack has decoded.
        held = point.tensors()
        flipped = {
            **held,
            "candidates": -held["candidates"],
            "certified": held["certified"] & False,
        }
        save_file(flipped, point.folder / "candidates.safetensors")
        rows = [{**vars(row), "sign": -1} for row in point.rows]
        change_json(point.folder / "metrics.json", images=rows)
    for point, before in zip(
        read_run(path).methods[0].checkpoints, run.methods[0].checkpoints, strict=True
    ):
        assert torch.equal(reconstructions(run.truth, point), reconstructions(run.truth, before))


@pytest.mark.parametrize("images", [True, False])
def test_without_single_pictures_the_grid_is_shown(images: bool, tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {0: 0, 1: 4}, images=images, kept=not images)
    shown = pictures(report(path))
    assert len(shown) == 2
    grid = np.asarray(Image.open(path / "recon" / "projection" / "step=00000001" / "grid.png"))
    np.testing.assert_array_equal(shown[1], grid)


def test_a_methods_own_pictures_are_on_the_page_with_their_captions(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", {0: 0, 1: 4})
    for step, shade in ((0, 10), (1, 200)):
        folder = path / "recon" / "projection" / f"step={step:08d}"
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / "basins.gif")
        told = [{"file": "basins.gif", "words": f"Basins <{step}>"}]
        change_json(folder / "metrics.json", pictures=told)
    page = write_run_report(path).read_text()
    assert page.count("data:image/gif;base64,") == 2
    assert "Basins &lt;0&gt;." in page and "Basins &lt;1&gt;." in page
    (folder / "basins.gif").unlink()
    with pytest.raises(InputError, match=r"basins\.gif"):
        write_run_report(path)


def test_one_checkpoint_needs_no_slider_and_no_curves(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "r", {1000: 4}))
    assert "Checkpoint: step 1,000" in page
    assert 'type="range"' not in page and "Over training" not in page


def test_a_large_run_stays_a_file_that_can_be_sent(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {step: step // 4 for step in range(0, 240, 4)}, n=60)
    page = report(path)
    assert page.count('class="zoom"') == MOST_PAIRS
    assert "12 not shown" in page
    assert "The slider stops at 25 of 60 checkpoints" in page
    assert page.count("<tr>") > 60
    assert len(page) < 2e6


def test_later_attacks_on_the_same_run_follow(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {1: 1})
    write_run(path, {1: 4}, settings="recon-longer")
    page = report(path)
    assert re.findall(r"<h[12]>(.*?)</h[12]>", page)[:4] == [
        "All 4 training images came back from the weights by projection (longer), exact in every "
        "pixel",
        "2 methods side by side",
        "projection: 1 of 4 training images came back from the weights, exact in every pixel",
        "projection (longer): All 4 training images came back from the weights, exact in every "
        "pixel",
    ]
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


# --- several methods


FORGOTTEN = Number(
    "forgotten_part", "forgotten", "", "share", panel="memory", shown=("page", "sweep", "law")
)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run by projection and by a method with a described number and one that is not described."""
    monkeypatch.setattr(numbers, "_REGISTRY", {**numbers._REGISTRY, "forgotten_part": FORGOTTEN})
    path = write_run(tmp_path / "r", LEAK)
    more = {"forgotten_part": 0.25, "odd_number": 7.25}
    return write_run(path, {0: 0, 1000: 3}, method="a_toy", more=more)


def numbers_in(page: str, method: str) -> dict[str, str]:
    """Names and values in the last checkpoint of a method's section."""
    section = re.split(r"<section", page.partition(f'id="recon-{method}"')[2])[0]
    last = section.split('<dl class="numbers">')[-1]
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", last))


def test_methods_stand_side_by_side(two: Path) -> None:
    page = report(two)
    said = text_of(page)
    assert "All 4 training images came back from the weights by projection, exact in every" in said
    assert "2 methods side by side" in said
    (table,) = re.findall(r'aria-label="All methods">.*?</table>', page, flags=re.S)
    assert re.findall(r"<th [^>]*>(.*?)</th>", table) == [
        *("method", "step", "recognisable", "recovered", "exact", "certified"),
        *("direction error", "time"),
    ]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    first, second = ([text_of(cell) for cell in row] for row in rows)
    assert first[:6] == ["projection", "1,000", "4 of 4", "4 of 4", "4 of 4", "4 of 4"]
    assert first[7:] == ["0.5 s"]
    assert second[:6] == ["a_toy", "1,000", "3 of 4", "3 of 4", "3 of 4", "3 of 4"]
    assert second[7:] == ["0.5 s"]
    knew = "Knew: final weights, number of training samples."
    (more,) = re.findall(
        r'aria-label="All methods">.*?<dl class="facts">(.*?)</dl>', page, flags=re.S
    )
    told = re.findall(r"<dt>(.*?)</dt><dd><p>(.*?)</p><p>(.*?)</p></dd>", more)
    assert told == [
        ("projection", "Ended: every candidate is right.", knew),
        ("a_toy", "Ended: the weights tell nothing.", knew),
    ]
    # The order is that in which the methods ran, and not that of the alphabet.
    assert re.findall(r"<h2>(projection|a_toy): ", page) == ["projection", "a_toy"]
    assert [results.label for results in read_run(two).methods] == ["projection", "a_toy"]


def test_pictures_of_all_methods_stand_side_by_side(two: Path) -> None:
    images = load_file(two / "data.safetensors")["images"].permute(0, 2, 3, 1).numpy()
    compared = pictures(report(two))[: 4 * 3]
    for index, truth in enumerate(images):
        shown, projection, toy = compared[3 * index : 3 * index + 3]
        np.testing.assert_array_equal(shown, truth)
        np.testing.assert_array_equal(projection, truth)
        assert np.array_equal(toy, truth) == (index < 3)


def test_every_method_shows_its_own_numbers(two: Path) -> None:
    page = report(two)
    own, toy = numbers_in(page, "projection"), numbers_in(page, "a_toy")
    assert own["projection loss"] == "1e-9" and own["loss at the true data"] == "1e-12"
    assert not {"forgotten", "odd number"} & own.keys()
    assert toy["forgotten"] == "25%"
    assert toy["odd number"] == "7.25"
    assert not {"projection loss", "n", "d", "k", "p"} & toy.keys()
    assert own["recovered"] == "4 of 4" and toy["recovered"] == "3 of 4"


def test_every_method_has_its_own_panels(two: Path) -> None:
    page = report(two)
    charts = re.findall(r'aria-label="By training step: (.*?)"', page)
    common = "training loss, direction error, error against others, recognisable, recovered, exact"
    common += ", certified, recognisable by chance"
    assert charts == [
        f"{common}, projection loss, loss at the true data, time, s",
        f"{common}, forgotten, time, s",
    ]


def test_a_null_is_a_dotted_line(two: Path) -> None:
    paths = re.findall(r'style="([^"]*)"', report(two))
    dotted = [style for style in paths if "stroke-dasharray" in style and "fill: none" in style]
    solid = [style for style in paths if "fill: none" in style and style not in dotted]
    assert dotted and solid
    assert len(charted := {style.partition("stroke: ")[2].split(";")[0] for style in dotted}) == 2
    assert charted == {"var(--orange)", "var(--red)"}  # error against others, and by chance


def test_results_of_before_a_number_was_known_are_shown(two: Path) -> None:
    """metrics.json of an older version has no likeness, neither in numbers nor in rows."""
    names = asdict(unscored().metrics)
    added = {"nearest", "ncc", "ssim_stretched", "duplicates", "null_held_out"}
    added |= {name for name in names if "good" in name}
    for file in two.glob("recon/*/*/metrics.json"):
        numbers = json.loads(file.read_text())
        for held in (numbers, *numbers["images"]):
            for name in added & held.keys():
                del held[name]
        file.write_text(json.dumps(numbers))
    said = text_of(report(two))
    assert "4 of 4" in said
    assert "recognisable by chance" not in said and "milder score" not in said
    assert read_run(two).methods[0].last.rows[0].ncc is None


def test_a_method_that_found_nothing_does_not_lead(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {1: 0})
    write_run(path, {1: 0}, method="toy")
    assert "No training image came back from the weights by any of 2 methods" in report(path)
    write_run(path, {1: 2}, method="third")
    assert "2 of 4 training images came back from the weights by third, exact in" in report(path)


def test_results_of_an_older_version_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {1: 4})
    (path / "recon" / "projection" / "step=00000001").rename(path / "recon" / "step=00000001")
    with pytest.raises(InputError, match=f"--run {path}: has results of an older version"):
        write_run_report(path)


# --- broken files


STEP = "recon/projection/step=00000001"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.yaml", lambda old: b"- 3\n"),
        ("config.yaml", lambda old: b"data: [\n"),
        ("provenance.json", lambda old: old[:100]),
        ("metrics.jsonl", lambda old: old[:20] + b"\n"),
        ("metrics.jsonl", lambda old: b"[3]\n"),
        ("metrics.jsonl", lambda old: b'{"train/loss": 3}\n'),
        ("data.safetensors", lambda old: old[:1000]),
        (f"{STEP}/metrics.json", lambda old: old[:1000]),
        (f"{STEP}/metrics.json", lambda old: b"{}"),
        (f"{STEP}/metrics.json", lambda old: old.replace(b'"psnr": 7', b'"pnsr": 7')),
        (f"{STEP}/candidates.safetensors", lambda old: old[:1000]),
        (f"{STEP}/curve.csv", lambda old: old[:-10]),
        (f"{STEP}/curve.csv", lambda old: b"step\n3\n"),
    ],
)
def test_a_broken_file_is_named_in_one_line(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = write_run(tmp_path / "r", {0: 0, 1: 4})
    before = report(path)
    file = path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        InputError, match=f"--run {re.escape(str(file))}: (is corrupt|cannot be read)"
    ):
        write_run_report(path)
    assert (path / "report.html").read_text() == before


def test_half_a_last_line_is_no_damage(tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {1: 4})
    before = report(path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "tra')
    assert report(path) == before


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_no_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"--run {tmp_path / name}: .*give"):
        write_run_report(tmp_path / name)


# --- in a browser


def shown(page: Page, selector: str) -> list[str]:
    """The texts of what can be seen."""
    return [found.inner_text() for found in page.locator(selector).all() if found.is_visible()]


@pytest.mark.browser
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("images", [True, pytest.param(False, marks=pytest.mark.long)])
def test_every_picture_is_there_and_nothing_is_wider_than_the_screen(
    images: bool, size: tuple[int, int], visit: Callable[..., Page], tmp_path: Path
) -> None:
    path = write_run(tmp_path / ("run-" * 30), LEAK, images=images)
    write_run(path, {1: 4}, images=images, settings="recon-longer")
    page = visit(write_run_report(path), size)
    widths = page.eval_on_selector_all("img", "all => all.map((one) => one.naturalWidth)")
    compared = 4 * (1 + 2)  # a training image, and what came back of it in both attacks
    assert len(widths) == (compared + 4 * (1 + 2 * 4) + 4 * (1 + 2) if images else 4 + 1)
    assert min(widths) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    charts = page.locator("figure svg").all()
    assert len(charts) == 3  # the second attack has one checkpoint, and so no curve over training
    for chart in charts:
        box = chart.bounding_box()
        assert box is not None and box["width"] > 300 and box["height"] > 150
    assert all(page.eval_on_selector_all("img", "all => all.map((one) => one.alt)"))


@pytest.mark.browser
def test_the_slider_goes_through_the_checkpoints(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    path = write_run(tmp_path / "r", LEAK)
    page = visit(write_run_report(path))
    slider = page.get_by_role("slider", name="Checkpoint")
    assert slider.get_attribute("aria-valuetext") == "step 1000"
    cursors = {}
    for step, count in reversed(LEAK.items()):
        assert shown(page, "output span") == [f"step {step:,}"]
        assert shown(page, ".numbers dd")[:2] == [f"{count} of 4", f"{count} of 4"]
        captions = shown(page, ".caption .at")
        assert [caption.startswith("exact, certified") for caption in captions] == [
            i < count for i in range(4)
        ]
        sources = page.eval_on_selector_all(
            ".three img", "all => all.filter((one) => one.checkVisibility()).map((one) => one.src)"
        )
        assert len(sources) == 12
        truths, backs = sources[::3], sources[1::3]
        assert [a == b for a, b in zip(truths, backs, strict=True)] == [i < count for i in range(4)]
        lines = page.locator("figure:not(.inner) svg [data-step].on").all()
        assert len(lines) == 5  # one in each panel
        box = lines[0].bounding_box()
        assert box is not None
        cursors[step] = box["x"]
        assert len(shown(page, ".columns table tbody tr")) == (2 if count else 0)
        slider.press("ArrowLeft")
    assert sorted(cursors, key=lambda step: cursors[step]) == list(LEAK)
    assert slider.get_attribute("aria-valuetext") == "step 0"


@pytest.mark.browser
def test_the_table_sorts_by_every_column(visit: Callable[..., Page], tmp_path: Path) -> None:
    path = write_run(tmp_path / "r", {0: 0, 10: 1, 100: 3})  # the last of four never comes back
    page = visit(write_run_report(path))

    def column(number: int) -> list[str]:
        return page.locator(f"table.sortable tbody td:nth-child({number})").all_inner_texts()

    headings = page.locator("table.sortable th")
    titles = ["#", "class", "first recovered, step", "first exact, step"]
    assert headings.all_inner_texts()[:4] == titles
    assert column(3) == ["10", "100", "100", "–"]
    by = page.get_by_role("button", name="first recovered, step")
    by.click()
    assert column(1) == ["0", "1", "2", "3"]
    by.click()
    assert column(3) == ["100", "100", "10", "–"]  # what has no value stays last
    assert headings.nth(2).get_attribute("aria-sort") == "descending"
    by = page.get_by_role("button", name="direction error")
    by.focus()
    page.keyboard.press("Enter")
    errors = [float(text) for text in column(5)]
    assert errors == sorted(errors) and errors[0] < 1e-6 < errors[-1]
    assert headings.nth(2).get_attribute("aria-sort") is None
    page.get_by_role("button", name="class").click()
    assert column(2) == ["<b>cat</b>", "<b>cat</b>", "dog", "dog"]


@pytest.mark.browser
def test_pictures_open_large_by_mouse_and_keyboard(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    page = visit(write_run_report(write_run(tmp_path / "r", LEAK)))
    page.locator(".zoom").nth(1).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    large = dialog.locator("img")
    assert large.count() == 3
    box = large.nth(0).bounding_box()
    assert box is not None and box["width"] > 200
    assert large.nth(0).evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
    assert dialog.locator(".caption").inner_text().startswith("#1 exact, certified")
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".caption").inner_text().startswith("#2")
    dialog.get_by_role("button", name="Previous").click()
    assert dialog.locator(".caption").inner_text().startswith("#1")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "zoom"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_both_schemes(
    scheme: Literal["light", "dark"], visit: Callable[..., Page], tmp_path: Path
) -> None:
    page = visit(write_run_report(write_run(tmp_path / "r", {0: 0, 1: 2})))
    page.emulate_media(color_scheme=scheme)
    colours = page.evaluate(COLOURS)
    assert len(colours) >= 5
    for text, ground in colours:
        assert contrast(text, ground) >= 4.5, (text, ground)  # WCAG 2.2, level AA


# Every pair of a text's colour and that of the nearest ground below it, as (r, g, b).
COLOURS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const ground = (one) => {
    const found = numbers(getComputedStyle(one).backgroundColor);
    return found.length === 3 ? found : ground(one.parentElement);
  };
  const root = numbers(getComputedStyle(document.body).backgroundColor);
  const pairs = {};
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility()) continue;
    const style = getComputedStyle(one);
    const drawn = one.namespaceURI.endsWith("svg");
    const pair = [numbers(drawn ? style.fill : style.color), drawn ? root : ground(one)];
    pairs[pair.join()] = pair;
  }
  return Object.values(pairs);
}"""


def contrast(one: list[float], other: list[float]) -> float:
    """Contrast ratio of two colours, 1 to 21."""

    def luminance(colour: list[float]) -> float:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (c / 255 for c in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
