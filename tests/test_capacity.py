"""The constructed interpolating network: the algorithm, the model, and how it is built in a run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import train
from datamodules import Photos, Table, TwoMoons
from datamodules.images import Normalize
from lit_recon.capacity import codes as codes_file
from lit_recon.capacity.codes import (
    Activation,
    Codes,
    codes_at,
    draw_first_layer,
    draw_order,
)
from lit_recon.capacity.construction import Construction, construct, parameter_count, second_layers
from lit_recon.capacity.greedy import second_layer
from lit_recon.capacity.literal import literal_second_layer
from lit_recon.capacity.study import draw, summary, wilson
from lit_recon.errors import InputError
from lit_recon.knowledge import DenseLayer, Knowledge
from lit_recon.methods import (
    AttractorReconstructor,
    KKTReconstructor,
    ProjectionReconstructor,
    RowSpaceReconstructor,
)
from lit_recon.models import DeepMLP, Interpolator, RandomFeatures
from lit_recon.models.interpolator import second_weights
from lit_recon.modules import SGD, Construct, LeastSquares
from lit_recon.modules.construct import check_labels
from lit_recon.report.capacity import capacity_figure

EVERY_ACTIVATION = pytest.mark.parametrize("activation", ["threshold", "relu"])
HOW: tuple[Normalize, Normalize] = ("raw", "mean_image")


def points(n: int = 300, d: int = 2, classes: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of the unit ball on spheres, one around the other, each of its own class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    x = torch.randn(n, d, generator=random)
    radius = (labels + 1 - 0.2 * torch.rand(n, generator=random)) / classes
    return x * (radius / x.norm(dim=1))[:, None], labels


def outputs(codes: Codes) -> np.ndarray:
    """(n, n1) float64, as the literal algorithm takes them."""
    return codes.outputs().astype(float)


def network(x: Tensor, labels: Tensor, **made: Any) -> tuple[Construction, Interpolator]:
    """The construction of some data, and the module with its weights."""
    built, classes = construct(x, labels, **made), int(labels.max()) + 1
    model = Interpolator(d=x[0].numel(), k=1 if classes == 2 else classes, **made)
    weights = (model.masks, model.thresholds, model.third_layer)
    for weight, found in zip(weights, second_weights(built.layers), strict=True):
        weight.data = found.to(weight)
    return built, model.eval()


@EVERY_ACTIVATION
@pytest.mark.parametrize("at_once", [0, 10**9])
@pytest.mark.parametrize(("units", "max_bias"), [(63, 1.0), (200, 1.0), (65, 0.0), (500, 0.5)])
def test_the_fast_layer_is_the_published_one_to_the_bit(
    activation: Activation, at_once: int, units: int, max_bias: float
) -> None:
    x, labels = points()
    for seed in range(3):
        codes = codes_at(x, *draw_first_layer(units, 2, max_bias, seed), activation)
        minus, plus = (np.flatnonzero(labels == c) for c in (1, 0))
        order, h = draw_order(len(minus), seed, 1), outputs(codes)
        expected = literal_second_layer(h[minus], h[plus], order)
        found = second_layer(codes.take(minus), codes.take(plus), order, at_once)
        for name in ("centres", "masks", "thresholds", "covered"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_a_long_class_is_scanned_up_to_the_first_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of large data: one candidate at a time, in chunks, with remembered rejections."""
    x, labels = points(n=400)
    minus, plus = (np.flatnonzero(labels == c) for c in (1, 0))
    for units in (30, 200):
        codes = codes_at(x, *draw_first_layer(units, 2, 1.0, 0), "threshold")
        order, h = draw_order(len(minus), 0, 1), outputs(codes)
        expected = literal_second_layer(h[minus], h[plus], order)
        monkeypatch.setattr(codes_file, "BLOCK", 0)
        monkeypatch.setattr(codes_file, "CHUNK", 16)
        found = second_layer(codes.take(minus), codes.take(plus), order, 0)
        assert np.array_equal(found.centres, expected.centres)
        assert np.array_equal(found.thresholds, expected.thresholds)
        assert np.array_equal(found.covered, expected.covered)


def test_bits_are_those_of_a_product_in_float64() -> None:
    x, _ = points(n=130, d=7)
    weight, bias = draw_first_layer(70, 7, 1.0, 0)
    z = x.double().numpy() @ weight.double().numpy().T + bias.double().numpy()
    assert np.array_equal(outputs(codes_at(x, weight, bias, "threshold")), z > 0)
    grid = outputs(codes_at(x, weight, bias, "relu")) * 2**20
    assert np.array_equal(grid, np.round(np.maximum(z, 0) * 2**20)) and (grid > 0).any()


def test_outputs_at_which_float32_has_the_wrong_sign_are_those_of_float64() -> None:
    x, _ = points(n=200, d=5)
    weight, _ = draw_first_layer(200, 5, 1.0, 0)
    bias = -(weight * x).sum(1)  # unit i is near its threshold at sample i
    z = x.double() @ weight.double().T + bias.double()
    assert ((x @ weight.T + bias > 0) != (z > 0)).any()
    assert np.array_equal(outputs(codes_at(x, weight, bias, "threshold")), (z > 0).numpy())


@EVERY_ACTIVATION
@pytest.mark.parametrize("classes", [2, 3])
def test_the_module_says_what_the_construction_promises(
    activation: Activation, classes: int
) -> None:
    """Covered samples fire, the others do not, and no unit fires for another class."""
    x, labels = points(classes=classes)
    seen = set()
    for width in (20, 600):
        made: dict[str, Any] = {"max_bias": 1.0, "activation": activation, "seed": 0}
        built, model = network(x, labels, width=width, **made)
        fires = torch.zeros(len(x), len(built.layers))
        for c, (layer, samples) in enumerate(zip(built.layers, built.samples, strict=True)):
            fires[samples, c] = torch.from_numpy(layer.covered).float()
        expected = 2 * fires - 1 if classes == 2 else fires
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x[7:8]), expected[7:8])  # in any batch
        assert model.second_width == built.width > 0
        assert model.size == built.parameters == parameter_count(2, width, built.width)
        seen.add(built.interpolates)
        assert built.interpolates == bool((model(x) == targets(labels, classes)).all())
    assert seen == {True, False}


def targets(labels: Tensor, classes: int) -> Tensor:
    if classes == 2:
        return 2.0 * labels[:, None] - 1
    return torch.nn.functional.one_hot(labels, classes).float()


def test_classes_have_orders_of_their_own() -> None:
    assert not np.array_equal(draw_order(50, 0, 0), draw_order(50, 0, 1))
    x, labels = points(n=60)
    codes = codes_at(x, *draw_first_layer(64, 2, 1.0, 0), "threshold")
    again = [second_layers(codes, labels.numpy(), seed)[0][0].centres for seed in (0, 0, 1)]
    assert np.array_equal(again[0], again[1]) and not np.array_equal(again[0], again[2])


def test_a_class_without_units_never_fires() -> None:
    """One unit whose side is wrong for most: nothing can be covered."""
    x, labels = torch.tensor([[0.5], [0.6]]), torch.tensor([1, 0])
    built = construct(x, labels, width=1, max_bias=0.0, activation="threshold", seed=0)
    assert built.width == 0 and not built.interpolates
    model = Interpolator(d=1, k=1, width=1, max_bias=0.0)
    assert model(x).tolist() == [[-1.0], [-1.0]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"width": 0}, "--model.width 0: give at least 1"),
        ({"max_bias": -0.5}, "--model.max_bias -0.5: give a finite number, 0 or more"),
        ({"max_bias": float("nan")}, "--model.max_bias nan: give a finite number, 0 or more"),
        ({"activation": "tanh"}, "--model.activation tanh: give threshold or relu"),
    ],
)
def test_a_first_layer_that_cannot_be_is_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}$"):
        Interpolator(d=2, k=1, **flags)


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0]]), torch.tensor([[-1.0], [1.0], [1.0]])
    check_labels(x[:2], y[:2])
    with pytest.raises(InputError, match=r"samples 0 and 2: are equal and of different classes"):
        check_labels(x, y)
    with pytest.raises(InputError, match=r"^--data of one class: .* give two$"):
        check_labels(x[:1], y[:1])
    with pytest.raises(InputError, match=r"fits classes, and these targets are none"):
        check_labels(x, y + 0.5)
    with pytest.raises(InputError, match=r"^--optim.seed -1: give 0 or more"):
        Construct(seed=-1)


def test_networks_and_optimisers_that_do_not_belong_together_are_refused() -> None:
    x, y = points(n=4)[0], torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    network = Interpolator(d=2, k=1, width=4)
    Construct().check_data(network, x, y)
    for optim in (SGD(), LeastSquares()):
        with pytest.raises(InputError, match=r"--optim \w+: .* Interpolator has none; give Const"):
            optim.check_data(network, x, y)
    with pytest.raises(InputError, match=r"--optim Construct: .* RandomFeatures is trained"):
        Construct().check_data(RandomFeatures(d=2, k=1, n=4, p=5), x, y)
    with pytest.raises(InputError, match=r"--optim LeastSquares: .* DeepMLP trains all"):
        LeastSquares().check_data(DeepMLP(d=2, k=1, widths=[4]), x, y)


# --- data


def test_moons_are_scaled_into_the_disc_and_interleave() -> None:
    data = TwoMoons(n=200, seed=1)
    data.setup()
    assert data.x.shape == (200, 2) and data.val_x.shape == (200, 2)
    assert float(data.x.norm(dim=1).max()) == pytest.approx(1)
    assert set(data.y.flatten().tolist()) == {-1.0, 1.0}
    assert not torch.equal(data.x, data.val_x)
    centred = TwoMoons(n=200, seed=1, center=True, norm=None)
    centred.setup()
    assert centred.x.double().mean(0).abs().max() < 1e-6
    ratio = (centred.x - centred.x[0]) / (data.x - data.x[0])
    assert torch.allclose(ratio[1:], ratio[1:].mean().expand(199, 2), rtol=1e-3)
    alone = TwoMoons(n=200, seed=1, n_val=0)
    alone.setup()
    assert torch.equal(alone.x, data.x) and len(alone.val_x) == 0
    built = construct(data.x, data.labels, width=300, max_bias=1, activation="threshold", seed=0)
    assert built.interpolates and 2 <= built.width <= 12


def csv(folder: Path, text: str) -> str:
    file = folder / "mine.csv"
    file.write_text(text)
    return str(file)


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    file = csv(tmp_path, "kind,a,b\nred,1,2\nblue,3,4\nred,0,-8\ngreen,0,1\nblue,6,6\n")
    data = Table(n=4, root=file, label="kind", norm=4.0, n_val=1)
    data.setup()
    assert data.class_names == ["blue", "green", "red"] and data.labels.tolist() == [2, 0, 2, 1]
    assert data.x.tolist() == [[0.5, 1.0], [1.5, 2.0], [0.0, -4.0], [0.0, 0.5]]
    assert data.val_x.tolist() == [[3.0, 3.0]] and data.val_y.tolist() == [[1.0, 0.0, 0.0]]
    assert data.y.shape == (4, 3) and data.indices == [0, 1, 2, 3]
    chosen = Table(n=3, root=file, label="kind", norm=None, selection="random", n_val=0)
    chosen.setup()
    assert len(set(chosen.indices)) == 3 and len(chosen.val_x) == 0


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("a,b,c\n1,2,x\n3,,y\n", {}, r"root .*: row 2 has nan in b; give finite numbers"),
        ("a,b,c\n1,2,x\n3,inf,y\n", {}, r"row 2 has inf in b"),
        ("a,b,c\n1,two,x\n3,4,y\n", {}, r"row 1 has two in b"),
        ("a,b\n1,2\n3,4\n", {"label": "z"}, r"--data.label z: no such column; there are a, b"),
        ("a,b\n1,2\n3,4\n", {"n": 3}, r"--data.n 3: .* has 2 rows; take fewer"),
        ("a,b\n1,2\n3,4\n", {"n_val": 1}, r"--data.n_val 1: only 0 rows are left; take fewer"),
        ("a\n1\n", {}, r"needs a row, and a column besides the classes"),
        ("a,b\n1,2\n3,4,5,6\n", {}, r"--data.root .*: cannot be read \("),
        ("a,b\n0,x\n0,y\n", {}, r"--data.norm 1.0: all points are 0; give null"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(
    text: str, flags: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = Table(root=csv(tmp_path, text), **({"n": 2} | flags))
    with pytest.raises(InputError, match=message) as error:
        data.setup()
    assert "\n" not in str(error.value)


def test_points_that_cannot_be_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]]
    wrong = [({"n": 1}, "n"), ({"norm": 0.0}, "norm"), ({"noise": -1.0}, "noise")]
    for flags, flag in wrong:
        with pytest.raises(InputError, match=rf"^--data.{flag} "):
            TwoMoons(**flags)
    with pytest.raises(InputError, match=r"^--data.root missing: Table needs it: a CSV file"):
        Table()


def test_raw_and_centred_images_have_the_norm_that_is_asked_for() -> None:
    raw, centred = (Photos(n=6, image_size=8, normalize=how, norm=1.0) for how in HOW)
    for data in (raw, centred):
        data.setup()
        assert float(data.x.flatten(1).norm(dim=1).max()) == pytest.approx(1)
        assert data.images is not None and data.pixels is not None
        pixels = data.pixels.values(data.x.double()) * 255
        assert torch.equal(pixels.round().to(torch.uint8), data.images)
    assert raw.x.min() >= 0 and centred.x.double().mean(0).abs().max() < 1e-6


# --- as a control for attacks


def test_attacks_certify_nothing_in_a_network_that_holds_codes_and_no_images() -> None:
    data = Photos(n=20, image_size=8, normalize="raw", norm=1.0)
    data.setup()
    assert data.pixels is not None
    made: dict[str, Any] = {"max_bias": 0.5, "activation": "threshold", "seed": 0}
    built, model = network(data.x, data.labels, width=60, **made)
    assert built.interpolates
    first = DenseLayer.of(dict(model.named_parameters()), "first_layer", step=0)
    held = Knowledge(model, pixels=data.pixels, n=20, earlier_first_layer=first)
    told = {"final": "not_forgotten", "change": "no_signal"}
    for evidence, status in told.items():
        found = RowSpaceReconstructor(evidence=evidence).reconstruct(held)  # type: ignore[arg-type]
        assert (found.status, len(found.candidates)) == (status, 0)
    for method in (KKTReconstructor(), ProjectionReconstructor(), AttractorReconstructor()):
        with pytest.raises(InputError, match=r"^--recon\S* .*: .*Interpolator"):
            method.reconstruct(held)


# --- in a run


RUN = ["--data", "Digits", "--data.n", "40", "--model", "Interpolator", "--model.width", "150"]
RUN += ["--optim", "Construct", "--wandb.mode", "disabled", "--run.name", "r"]


@pytest.mark.slow
def test_a_run_builds_saves_loads_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_wandb: None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*RUN, "--run.seed", "3"]) == 0
    rows = [json.loads(line) for line in Path("runs/r/metrics.jsonl").read_text().splitlines()]
    logged = {name: value for row in rows for name, value in row.items()}
    assert logged["train/loss"] == 0 and logged["train/interpolates"] == 1
    file = Path("runs/r/checkpoints/step=00000001.ckpt")
    saved = torch.load(file, weights_only=True)["state_dict"]
    weights = {name.removeprefix("model."): value for name, value in saved.items()}
    model = Interpolator(d=64, k=10, width=150, seed=9)
    model.load_state_dict(weights)
    assert model.second_width == logged["train/width"] > 10
    assert model.size == logged["train/parameters"]
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    before = file.read_bytes()
    assert train.main(["--run.name", "r", "--run.resume", "true", "--wandb.mode", "disabled"]) == 0
    assert file.read_bytes() == before
    # The attack that applies finds nothing and certifies nothing.
    told = json.loads(Path("runs/r/recon/rowspace/step=00000001/metrics.json").read_text())
    assert told["status"] == "no_signal" and told["candidates"] == 0


# --- a study


GRID = ["--data", "TwoMoons", "--data.n", "60", "--data.seed", "0", "--model", "Interpolator"]
GRID += ["--optim", "Construct", "--wandb.mode", "disabled", "--run.name", "s"]
VARIED = ["--grid.model.width", "5,40,150", "--grid.model.max_bias", "0,1"]
SEEDS = ["--grid.run.seed", "0:4"]


@pytest.mark.slow
def test_a_study_draws_many_networks_without_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_wandb: None,
    warm_workers: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(["sweep", *GRID, *VARIED, *SEEDS]) == 0
    place = Path("runs/s")
    rows = pd.read_csv(place / "results.csv")
    assert len(rows) == 3 * 2 * 4 and set(rows["run.seed"]) == {0, 1, 2, 3}
    cells = pd.read_csv(place / "capacity.csv")
    assert list(cells["runs"]) == [4] * 6
    one = cells[(cells["model.width"] == 150) & (cells["model.max_bias"] == 1)].iloc[0]
    assert one["interpolates"] == 1 and one["least"] == pytest.approx(wilson(4, 4)[0])
    assert (cells[cells["model.max_bias"] == 0]["interpolates"] == 0).all()
    for name in ("capacity", "boundaries"):
        assert (place / f"{name}.svg").exists() and (place / f"{name}.png").exists()
    # A cell is what one network after another gives.
    data = TwoMoons(n=60, seed=0)
    data.setup()
    made = [draw(data.x, data.labels, 40, 1.0, "threshold", seed) for seed in range(4)]
    own = rows[(rows["model.width"] == 40) & (rows["model.max_bias"] == 1)]
    assert list(own["width"]) == [one.width for one in made]
    assert list(own["interpolates"]) == [one.interpolates for one in made]
    page = (place / "report.html").read_text()
    assert "of 24 constructed networks" in page
    cells = re.findall(r'<td class="number" data-value="([^"]+)">(.*?)</td>', page)
    assert any(value != shown for value, shown in cells)
    for value, shown in cells:
        assert float(shown.replace(",", "")) == pytest.approx(float(value), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid.model.width", "5,0"], "--model.width 0: give at least 1"),
        (["--grid.model.max_bias", "1,-1"], "--model.max_bias -1.0: give a finite number"),
        (["--grid.model.max_bias", "1,much"], "--grid.model.max_bias 1,much: give numbers"),
        (["--grid.run.seed", "0,-1"], "--grid.run.seed -1: give 0 or more"),
        (
            ["--data", "Table", "--data.root", "no.csv", *SEEDS],
            "--data.root no.csv: cannot be read",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_in_one_line(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_wandb: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main(["sweep", *GRID, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train.py: {message}") and error.count("\n") == 1


def test_wilson_holds_at_the_ends_and_narrows() -> None:
    assert wilson(0, 50) == (0.0, pytest.approx(0.0714, abs=1e-4))
    assert wilson(25, 50) == (pytest.approx(0.3664, abs=1e-4), pytest.approx(0.6336, abs=1e-4))
    assert wilson(500, 500)[0] > wilson(50, 50)[0]


def cells_of(**columns: Any) -> pd.DataFrame:
    """Cells of two data sets, three widths and two biases; a wide network fits with a bias."""
    rows = [
        {
            "data.normalize": how,
            "model.width": width,
            "model.max_bias": max_bias,
            "run.seed": seed,
            "interpolates": bool(width >= 200 and max_bias),
            "width": 9 - max_bias,
            "parameters": 100,
            "seconds": 0.1,
            **columns,
        }
        for how in ("raw", "mean_image")
        for width in (100, 200, 300)
        for max_bias in (0.0, 1.0)
        for seed in range(5)
    ]
    return summary(pd.DataFrame(rows), ["data.normalize", "model.width", "model.max_bias"])


def test_a_figure_has_heatmaps_and_slices_for_each_kind_of_data() -> None:
    cells = cells_of()
    assert len(cells) == 12 and set(cells["interpolates"]) == {0.0, 1.0}
    figure = capacity_figure(cells, "a study")
    drawn = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(drawn) == 2 * 3 * 2
    assert {axes.get_title(loc="left") for axes in drawn} >= {
        "probability of a fit, normalize raw",
        "width of second layer, normalize mean_image",
    }
    figure.draw_without_rendering()
    named = [(axes, legend) for axes in drawn if (legend := axes.get_legend())]
    assert len(named) == 2 * 2
    for axes, legend in named:  # above its lines
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    only_widths = cells_of(**{"model.max_bias": 1.0})
    assert len(capacity_figure(only_widths, "a study").axes) == 2 * 2
