"""Every script of benchmarks/ at its quick size: what its results hold, and that ours succeeds.

No time is asserted: the machine may be busy.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import (
    attack,
    attractors,
    callback,
    capacity,
    entering,
    final_weights,
    lattice,
    lattice_null,
    protection,
    published_kkt,
    resume,
    scaling,
    solver_comparison,
    sweep_throughput,
    threshold,
    thresholds,
    training_speed,
)
from benchmarks.problems import ROOT, published, sphere, train, two_classes
from benchmarks.records import table, without_places
from benchmarks.solver_comparison import Point, Trace, times_sooner
from datamodules import Photos
from lit_recon.errors import RunError
from lit_recon.methods import RowSpaceReconstructor
from lit_recon.models import Autoencoder, DeepMLP
from lit_recon.modules import SGD, Autoencode, Next, TensorAdam
from lit_recon.randomness import generator
from lit_recon.records.truth import Truth
from lit_recon.solvers import MomentumDescent, SolverStep
from lit_recon.tall_matrix import BLOCK_ROWS
from tests import warm
from tests.small_runs import fit

pytestmark = pytest.mark.slow

SCRIPTS = {
    "attack": attack,
    "attractors": attractors,
    "callback": callback,
    "capacity": capacity,
    "final_weights": final_weights,
    "lattice": lattice,
    "lattice_null": lattice_null,
    "protection": protection,
    "published_kkt": published_kkt,
    "resume": resume,
    "scaling": scaling,
    "solver_comparison": solver_comparison,
    "sweep_throughput": sweep_throughput,
    "threshold": threshold,
    "thresholds": thresholds,
    "training_speed": training_speed,
}
FACTS = {"started_utc", "command", "seed", "device", "cpu", "threads", "versions", "git"}


def results(name, folder, *flags):
    """The content of NAME.json after a quick run."""
    assert SCRIPTS[name].main(["--quick", "--threads", "1", "--out", str(folder), *flags]) == 0
    content = json.loads((folder / f"{name}.json").read_text())
    assert set(content["provenance"]) >= FACTS
    assert content["provenance"]["threads"] == 1
    assert str(folder) not in (folder / f"{name}.json").read_text()
    return content["results"]


def test_every_script_is_tested():
    shared = {"__init__", "entering", "problems", "records"}
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == shared | set(SCRIPTS)


def test_constructed_networks_are_those_of_the_published_way(tmp_path):
    for name in ("frog", "truck"):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = np.random.default_rng(ord(name[0]) + i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    rows = results("capacity", tmp_path / "out", "--root", str(tmp_path))
    compared = [row for row in rows if row["compared"]]
    assert {row["data"].partition(",")[0] for row in compared} == {
        *("moons", "digits", "frog and truck")
    }
    assert all(row["same"] == row["compared"] for row in compared)
    assert all(row["least"] <= row["interpolates"] <= row["most"] for row in rows)


@pytest.mark.long
def test_thresholds_of_the_same_images_in_one_picture(tmp_path, capsys):
    rows = results("thresholds", tmp_path)
    assert [row["threshold"] for row in rows] == list(thresholds.THRESHOLDS)
    found = {row["threshold"]: row for row in rows}
    assert found["features_exact"]["width"] == 4  # p = n
    assert found["projection"]["width"] > 4 * 48  # p > d n
    assert found["rowspace"]["width"] >= 4  # h >= n
    for row in rows:
        trials = {trial["width"]: trial["succeeds"] for trial in row["tried"]}
        assert trials[row["width"]]
        assert not any(good for width, good in trials.items() if width < row["width"])
    assert (tmp_path / "thresholds.png").stat().st_size
    capsys.readouterr()
    assert results("thresholds", tmp_path) == rows
    assert "learned," not in capsys.readouterr().err  # nothing is measured again


def test_bisection_finds_the_first_width_and_says_where_there_is_none():
    def trial(data, width, number, seconds):
        return thresholds.Trial(width >= 30, width, width, {})

    def first(widths):
        found = thresholds.Threshold("", trial)
        return thresholds.first_width(found, widths, Photos(n=4, image_size=4), 0, 1.0)[0]

    widths = thresholds.Threshold("", trial).widths(n=30, d=9, factor=1.1)
    assert first(widths) == 30 and widths[0] < 8 and widths[-1] > 230
    assert first([10, 20]) is None and first([40, 50]) == 40


def test_what_the_callback_costs(tmp_path):
    (pair,) = results("callback", tmp_path)
    assert pair["same_weights"] and pair["checkpoints"] == 2
    assert 0 < pair["copy"] < pair["whole"] and 0 < pair["attack"] < pair["whole"]
    assert pair["exact"] == 1


def test_comparison_of_solvers(tmp_path):
    (row,) = results("solver_comparison", tmp_path)
    ours = row["attacks"]["ours"]
    assert ours["recovered"] == row["n"] and ours["error"] < 1e-4
    assert ours["curve"][-1]["phase"] == "end"
    reached = {level["level"]: level for level in row["levels"]}
    assert reached["100% recovered"]["ours"]["recovered"] == 1
    assert all(level["ours"] for level in row["levels"])


@pytest.mark.long
def test_threshold(tmp_path):
    rows = results("threshold", tmp_path)
    assert {row["solver"] for row in rows} == {"ours", "descent"}
    ours = [row for row in rows if row["solver"] == "ours"]
    assert [row["recovered_fraction"] for row in ours] == [1, 1]
    assert (tmp_path / "threshold.png").stat().st_size


def test_threshold_by_two_processes_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(threshold, "get_context", lambda method: warm.context())
    flags = ("--solvers", "ours", "--ratios", "5", "--seeds", "0", "1")
    alone, shared = (
        [row["direction_error"] for row in results("threshold", tmp_path, *flags, "--jobs", jobs)]
        for jobs in ("1", "2")
    )
    assert shared == alone


def test_scaling(tmp_path):
    rows = results("scaling", tmp_path)
    assert [(row["ranks"], row["stored"], row["threads"]) for row in rows] == [
        (1, True, 1),
        (2, True, 1),
    ]
    for row in rows:
        floors = row["reading_floor_seconds"], row["arithmetic_floor_seconds"]
        assert row["share_of_floor"] > 0 and all(floor > 0 for floor in floors)
        assert row["first_layer_bytes"] == 4 * row["p"] * row["d"]
        assert row["stored_bytes"] == [row["first_layer_bytes"] / row["ranks"]] * row["ranks"]
        assert len(row["beside_bytes"]) == row["ranks"]
    alone, shared = rows
    assert alone["one_rank_seconds"] is None and alone["speedup"] is None
    assert shared["speedup"] == shared["one_rank_seconds"] / shared["application_seconds"] > 0


@pytest.mark.long
def test_scaling_of_a_first_layer_that_is_drawn(tmp_path):
    sizes = ("--p", "9000", "--d", "700", "--repeats", "1")
    rows = results("scaling", tmp_path, *sizes, "--ranks", "2", "--stored", "0", "1")
    drawn, stored = rows
    assert (drawn["stored"], drawn["stored_bytes"]) == (False, [0, 0])
    assert (stored["stored"], stored["stored_bytes"]) == (True, [4 * 4500 * 700] * 2)
    block = 4 * BLOCK_ROWS * 700
    assert min(drawn["beside_bytes"]) > block > max(stored["beside_bytes"])


@pytest.mark.long
def test_throughput_of_sweeps(tmp_path, warm_workers):
    (row,) = results("sweep_throughput", tmp_path)
    assert len(row["seconds"]["fresh"]) == 1 and len(row["seconds"]["kept"]) == 2
    assert row["ratio"] == row["seconds"]["fresh"][0] / row["seconds"]["kept"][1]
    for mode, parts in row["parts"].items():
        run, *shares = parts.values()
        assert all(seconds > 0 for seconds in shares)
        assert run == pytest.approx(sum(shares))
        assert set(sweep_throughput.PARTS) - {"start of W&B"} < set(parts), mode


@pytest.mark.long
def test_whole_commands(tmp_path):
    (row,) = results("attack", tmp_path)
    assert row["recovered_fraction"] == row["exact_fraction"] == row["certified_fraction"] == 1
    assert row["status"] == "certified"
    assert row["peak_bytes"] > 1e8 and row["command_seconds"] > row["attack_seconds"]


@pytest.mark.long
def test_lattice(tmp_path, monkeypatch):
    monkeypatch.setattr(lattice, "train", cache(lattice.train.__wrapped__))  # 22 rows, 17 networks
    rows = results("lattice", tmp_path)
    assert {row["part"] for row in rows} == set(lattice.PARTS)
    assert not any(row["false_certificates"] for row in rows)
    assert [(row["exact"], row["seen"]) for row in rows if row["part"] == "samples"] == [(8, 8)] * 2
    (narrow,) = [row for row in rows if row["name"] == "h = 7"]
    assert narrow["rank"] <= 7 and narrow["exact"] < 8
    (adam,) = [row for row in rows if row["name"] == "Adam"]
    assert adam["exact"] == 0
    assert (tmp_path / "lattice.png").stat().st_size


DECAY = final_weights.Row("decay", 6, widths=(32, 16), weight_decay=0.05, lr=0.1, steps=300)
DECAYS = {
    "full batch": DECAY,
    "mini-batches": replace(DECAY, loss="cross_entropy", bias="all", batch=4),
    "huber": replace(DECAY, loss="huber", first_layer_std=1e-4),
    "gelu": replace(DECAY, loss="logistic", activation="gelu", normalize="standardize"),
}


ATTACKS = ("rowspace", "published", "kkt")


@pytest.mark.long
def test_final_weights(tmp_path):
    rows = results("final_weights", tmp_path)
    assert not any(row["false_certificates"] for row in rows)
    assert {(row["training"]["name"], row["attack"]) for row in rows} == {
        (name, attack) for name in ("ten_classes_100", "mse_20", "margin_50") for attack in ATTACKS
    }
    (margin,) = [row for row in rows if row["training"]["name"] == "margin_50" and row["rank"]]
    assert margin["rank"] == margin["exact"] == margin["good"] == margin["n"] == 8


def test_results_of_other_rows_are_kept(tmp_path, capsys):
    flags = ("--rows", "mse_20", "--steps", "3", "--append")
    results("final_weights", tmp_path, *flags)
    kept = results("final_weights", tmp_path, *flags, "--seeds", "0", "1")
    assert [row["seed"] for row in kept] == [0, 0, 0, 1, 1, 1]
    lines = capsys.readouterr().out.splitlines()[-3:]
    for line, name in zip(lines, ATTACKS, strict=True):
        assert line.startswith(f"| mse_20 | {name} | 8 | 2 |")


@pytest.mark.parametrize(
    "name",
    [
        "full batch",
        "mini-batches",
        *(pytest.param(n, marks=pytest.mark.long) for n in ("huber", "gelu")),
    ],
)
def test_training_in_coordinates_of_the_span_is_plain_training(name):
    row = DECAYS[name]
    data = final_weights.images_of(row, None, 8, 0)
    x, y = data.x.flatten(1), final_weights.targets_of(row, data)
    plain = final_weights.trained(replace(row, plain=True), x, y, 5).state_dict()
    reduced = final_weights.trained(row, x, y, 5).state_dict()
    start = final_weights.network(row, x.shape[1], y.shape[1], 5).first_layer.weight.detach()
    assert plain.keys() == reduced.keys()
    for key, value in plain.items():
        assert float((value - reduced[key]).norm() / value.norm()) < 1e-4, key
    outside = start - start @ torch.linalg.pinv(x) @ x
    left = reduced["first_layer.weight"]
    left = left - left @ torch.linalg.pinv(x) @ x
    assert float((left - row.left * outside).norm()) < 1e-4 * float(left.norm()) + 1e-6


def test_every_row_forgets_its_start():
    decays = [row for row in final_weights.ROWS.values() if row.weight_decay]
    assert decays and all(row.exponent >= 10 and row.left < 1e-4 for row in decays)


@pytest.mark.long
def test_images_come_back_once_the_start_is_forgotten():
    row = replace(DECAY, widths=(200,), steps=1200)
    attacked = final_weights.Attacked.of(row, None, 8, 0)
    found, images = attacked.ours(10.0)
    assert row.exponent == pytest.approx(0.1 * 0.05 * 0.5 * 1201 / 0.1)
    assert found["left"] == pytest.approx(np.exp(-row.exponent), rel=0.1)
    assert (found["rank"], found["exact"], found["false_certificates"]) == (6, 6, 0)
    assert [found[f"oracle_{name}"] for name in ("rank", "recovered", "good")] == [6, 6, 6]
    assert images is not None and images.shape == (6, 3, 8, 8)
    assert found["null_good_without"] is None  # no other network was attacked
    same = final_weights.Attacked.of(row, None, 8, 0, images).published(1.0)
    assert same["null_good_without"] == 1.0 and same["false_certificates"] == 0


@pytest.mark.parametrize("normalize", ["standardize", "mean_image"])
def test_the_nearest_vectors_of_a_row_space_are_the_images_that_it_holds(normalize):
    data = Photos(4, image_size=8, normalize=normalize)
    data.setup()
    x, random = data.x.flatten(1), torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(x.shape[1], 12).requires_grad_(False)
    share = torch.randn(12, 3, generator=random)
    layer.weight.copy_(share @ x[:3])
    layer.bias.copy_(share.sum(1))
    nearest = final_weights.nearest_in_row_space(layer, Truth.of(data))
    error = (nearest - x).norm(dim=1) / x.norm(dim=1)
    assert error[:3].max() < 1e-3 and error[3] > 0.1
    layer.weight.zero_()
    assert len(final_weights.nearest_in_row_space(layer, Truth.of(data))) == 0


def test_an_image_that_the_weights_do_not_hold_is_no_direction():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20, generator=random)
    layer = torch.nn.Linear(20, 8).requires_grad_(False)
    share = torch.randn(8, 2, generator=random)
    layer.weight.copy_(share @ x[:2] + 1e-6 * torch.randn(8, 20, generator=random))
    layer.bias.copy_(share.sum(1))
    assert final_weights.oracle_rank(layer, x) == 2


def test_the_first_files_of_every_class_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(final_weights, "TUNED", 2)
    for name in [name for group in final_weights.GROUPS for name in group]:
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    data = final_weights.Untuned(20, root=str(tmp_path), selection="random", seed=1)
    data.setup()
    assert data.images is not None and data.images[:, 0].unique().tolist() == [2, 3]


def test_scaled_weights_have_the_published_margin():
    row = replace(final_weights.PUBLISHED, n=4, widths=(16, 8), steps=50)
    attacked = final_weights.Attacked.of(row, None, 8, 0)
    x, y = attacked.truth.x, attacked.y
    output = y * final_weights.scaled(attacked.model, x, y)(x)
    assert float(output.detach().min()) == pytest.approx(final_weights.PUBLISHED_MARGIN, rel=1e-4)


@pytest.mark.long
def test_attractors(tmp_path, capsys):
    row, null = results("attractors", tmp_path)
    assert row["recipe"] == "noise 20" and row["train_mse"] < 1e-10 and row["seed"] == 100
    assert row["exact"] and row["status"] and not row["in_span"]
    assert null["recipe"] == "null clean 20" and null["in_span"] and null["train_mse"] < 1e-10
    assert null["certified"] == row["false_certificates"] == 0
    kept = results("attractors", tmp_path, "--append", "--recipes", "clean 20", "--seconds", "1")
    assert [each["recipe"] for each in kept] == ["noise 20", "null clean 20", "clean 20"]
    spurious = sum(each["spurious_limits"] for each in kept if each is not kept[1])
    limits = null["fixed_points"] + null["cycles"]
    told = capsys.readouterr().out
    assert f"{spurious} limits that are no images, 0 false certificates. 1 network" in told
    assert f"{limits} limits, 0 certificates." in told and "| clean 20 | photos | 20 | 1 |" in told


@pytest.mark.parametrize("task", [Autoencode(), Next()])
def test_training_an_autoencoder_in_the_span_of_the_images_is_training_on_pixels(task):
    recipe = attractors.Recipe(4, 8, task, TensorAdam(), {"widths": [24, 16]})
    assert recipe.in_span
    data = attractors.images_of(recipe, "photos", None, 8, 1)
    plain = Autoencoder(data.d, data.d, seed=1, **recipe.model)
    attractors.fit(recipe, plain, data, recipe.steps)
    reduced = attractors.trained(recipe, data, recipe.steps, 1).state_dict()
    for name, value in plain.state_dict().items():
        assert float((value - reduced[name]).norm() / value.norm()) < 1e-4, name


def test_what_leaves_the_span_of_the_images_is_trained_on_pixels():
    on_pixels = {name for name, recipe in attractors.RECIPES.items() if not recipe.in_span}
    assert on_pixels == {"noise 20", "null noise 20", "adam 20", "rao 20"}


@pytest.mark.long
def test_protection(tmp_path, capsys):
    rows = results("protection", tmp_path)
    found = {(row["protection"], row["strength"]): row for row in rows}
    assert {name for name, _ in found} == {"none", *protection.STRENGTHS}
    assert not any(row["false_certificates"] for row in rows)
    plain = found["none", 0.0]
    assert plain["exact"] == plain["recovered"] == plain["train_fit"] == 1
    private = found["dp", max(protection.MULTIPLIERS)]
    for destroyed in (found["noise", max(protection.SIGMAS)], private):
        assert destroyed["exact"] == destroyed["recovered"] == 0
    assert found["noise", 0.01]["exact"] == 0 and found["noise", 0.01]["train_fit"] == 1
    assert 0.4 < private["held_out_fit"] < 0.6 and private["epsilon"] < 1
    assert "warning: only 4 training samples" in capsys.readouterr().out
    assert (tmp_path / "protection.png").stat().st_size


def test_private_training_without_noise_and_clip_is_training():
    family = replace(protection.FAMILIES["change"], steps=3, clip=1e6, batch=None)
    data = two_classes(None, 4, 8, 0, "standardize", 4)
    plain, private = (
        protection.train(family, data, 0, multiplier).model for multiplier in (None, 0.0)
    )
    for one, other in zip(plain.parameters(), private.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.long
def test_private_training_is_skipped_without_opacus(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(protection, "find_spec", lambda name: None)
    monkeypatch.setattr(protection, "SIGMAS", [])
    monkeypatch.setattr(protection, "SHARES", [])
    assert {row["protection"] for row in results("protection", tmp_path)} == {
        *("none", "rounding", "decay", "stopping")
    }
    assert "Opacus is not installed; pip install" in capsys.readouterr().out


@pytest.mark.long
def test_resume(tmp_path, monkeypatch):
    def started(argv, directory, threads):
        place = [f"--run.dir={directory.parent}", f"--run.name={directory.name}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return warm.Command(*argv, *place, home=ROOT, environment=environment)

    monkeypatch.setattr(resume, "started", started)
    (row,) = results("resume", tmp_path)
    assert row["equal"] and row["differing_files"] == []
    assert row["last_checkpoint"] in (0, 15, 30, 40)


def test_a_difference_between_two_runs_is_named(tmp_path, capsys):
    runs = [tmp_path / name for name in ("whole", "cut")]
    for run, weight in zip(runs, (1.0, 2.0), strict=True):
        (run / "wandb").mkdir(parents=True)
        (run / "wandb" / "log").write_text(run.name)  # W&B's files are not compared
        (run / "metrics.json").write_text(f'{{"seconds": {weight}, "n": 4}}')  # times are not
        state = {"state_dict": {"w": torch.tensor(weight)}, "optimizer_states": []}
        torch.save(state, run / "step=00000005.ckpt")
    (runs[1] / "grid.png").touch()
    whole, cut = map(resume.left_by, runs)
    assert resume.differing(whole, whole) == []
    names = resume.differing(cut, whole)
    assert names == ["grid.png", "step=00000005.ckpt"]
    row = {"killed_after_seconds": 1.0, "last_checkpoint": 5, "in": "training", "drafts_left": 0}
    rows = [{**row, "equal": True}, {**row, "equal": False, "differing_files": names}]
    resume.show(rows)
    assert ", ".join(names) in capsys.readouterr().out
    resume.refuse_differences(rows[:1])
    with pytest.raises(RunError, match="1 of 2 resumed runs differ from the uninterrupted run"):
        resume.refuse_differences(rows)


@pytest.mark.long
def test_training_speed(tmp_path):
    rows = results("training_speed", tmp_path)
    assert [row["what"] for row in rows][:3] == ["bare loop", "Lightning alone", "train.py"]
    assert len(rows) == 7 and all(row["steps_per_second"] > 0 for row in rows)
    assert rows[0]["over_bare"] == rows[0]["over_bare_processor"] == 1


def test_the_speed_is_that_of_most_stretches():
    slow = [(4.0 * i, 2.0 * i) for i in range(150)]
    usual = [(600 + 0.5 * i, 300 + 1.0 * i) for i in range(300)]
    taken = training_speed.stretches(slow + usual)
    assert len(taken) == 7 and taken[0] == (200, 100)
    assert training_speed.speeds(taken) == pytest.approx((2, 1))


@pytest.mark.parametrize("name", ["attack", "solver_comparison"])
def test_images_without_a_folder_are_skipped_in_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(attack, "run", lambda *args: {"peak_bytes": 0})
    monkeypatch.setattr(attack, "show", lambda rows: None)
    assert SCRIPTS[name].main(["--problems", "cifar", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("cifar: skipped, its images need --root FOLDER")


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_lists_the_flags(name, capsys):
    with pytest.raises(SystemExit) as ended:
        SCRIPTS[name].main(["--help"])
    assert ended.value.code == 0
    assert {"--quick", "--out"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("attack", ["--root", "/nowhere"], "no such folder"),
        ("attack", ["--seeds", "-1"], "below 0"),
        ("final_weights", ["--root", "/nowhere"], "no such folder"),
        ("final_weights", ["--rows", "cubic"], "cubic"),
        ("lattice", ["--root", "/nowhere"], "no such folder"),
        ("lattice", ["--parts", "colours"], "colours"),
        ("protection", ["--root", "/nowhere"], "no such folder"),
        ("protection", ["--families", "kkt"], "kkt"),
        ("resume", ["--kills", "0"], "below 1"),
        ("training_speed", ["--sizes", "huge"], "huge"),
        ("scaling", ["--p", "0"], "below 1"),
        ("scaling", ["--p", "many"], "many"),
        ("scaling", ["--ranks", "0"], "below 1"),
        ("scaling", ["--stored", "2"], "2"),
        ("solver_comparison", ["--problems", "mnist"], "mnist"),
        ("threshold", ["--ratios", "nan"], "nan"),
        ("threshold", ["--ratio", "2"], "--ratio"),
    ],
)
def test_bad_input_is_answered_with_one_line(name, flags, said, capsys):
    try:
        status = SCRIPTS[name].main(flags)
    except SystemExit as ended:  # argparse leaves by itself
        status = ended.code
    out, err = capsys.readouterr()
    assert status == 2 and not out
    assert len(err.splitlines()) == 1 and said in err


def test_a_script_runs_as_a_module_and_gives_its_status():
    command = [sys.executable, "-m", "benchmarks.attack", "--root", "/nowhere"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("python -m benchmarks.attack: --root /nowhere: ")


def test_a_device_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scaling.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_ranks_that_share_a_gpu_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert scaling.main(["--device", "cuda", "--ranks", "2"]) == 2
    assert "--ranks 2" in capsys.readouterr().err


def test_an_error_on_the_ranks_is_told():
    cell = scaling.Cell(10, 1, 4, 1, 2, True, "nowhere", 1, 1)
    with pytest.raises(RuntimeError, match="nowhere"):
        scaling.in_fresh_processes(cell)


@pytest.mark.long
def test_a_command_that_fails_is_told_in_its_own_words(tmp_path, capsys, monkeypatch):
    run = attack.run
    tiny = {"peak_bytes": 0}  # it would succeed
    monkeypatch.setattr(
        attack, "run", lambda name, *given: tiny if name == "tiny" else run(name, *given)
    )
    flags = ["--problems", "cifar8", "--root", str(tmp_path), "--out", str(tmp_path)]
    assert attack.main(flags) == 2
    assert "no class folder" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_the_published_attack_is_the_preset():
    attack = published(lr=20.0, max_seconds=5.0)
    settings = attack.settings
    assert (settings.spare, settings.restarts, settings.even_stage) == (0, 0, "never")
    assert settings.stop.loss == 1e-7 and attack.max_seconds == 5.0
    assert settings.solver == MomentumDescent(lr=20.0, momentum=0.9, surrogate_slope=0.02)


@pytest.mark.parametrize("ratio", [1.5, pytest.param(4, marks=pytest.mark.long)])
def test_the_published_attack_has_none_of_our_parts(ratio):
    trained = train(sphere(3, 10, round(ratio * 30)), None, 0)
    outcome = published(2.0, 2.0).reconstruct(trained.knowledge, generator(0, "candidates"))
    assert {(row.phase, row.candidates) for row in outcome.curve} == {("plain", 3)}
    assert outcome.numbers["restarts"] == 0


def test_a_trained_problem_has_what_the_attacker_knows():
    trained = train(sphere(4, 10, 60), None, seed=3)
    assert trained.knowledge.radius == 10**0.5 and trained.x.shape == (4, 10)
    assert trained.knowledge.facts == [
        *("final weights", "number of training samples", "norm of the inputs")
    ]


def test_a_trace_scores_inputs_only_and_its_clock_stands_still_meanwhile():
    x = torch.eye(3)
    trace = Trace(x)
    trace(SolverStep(0, "coarse", 1.0, 3, 5, 0.0), x)
    assert not trace.points
    trace(SolverStep(1, "even", 1.0, 4, 7, 0.0), torch.cat([-x[:1], x]))
    trace(SolverStep(2, "plain", 1.0, 3, 9, 0.0), -x)
    found, negated = trace.points
    assert (found.recovered, found.error, found.candidates) == (1, 0, 4)
    assert (negated.recovered, negated.applications) == (0, 9)
    assert found.seconds <= negated.seconds <= trace.seconds
    assert trace.reaching(recovered=0.5) is found and trace.reaching(error=-1) is None
    assert trace.curve() == [found, negated]


def test_times_sooner_needs_both():
    early, late = (Point(seconds, 1, "end", 1, 1.0, 0.0) for seconds in (2.0, 6.0))
    assert times_sooner(early, late) == 3
    assert times_sooner(None, late) is None and times_sooner(early, None) is None


def test_recorded_commands_name_no_folder():
    given = ["--root", "/data/x", "--out=/tmp/y", "--seeds", "1"]
    assert without_places(given) == ["--root", "FOLDER", "--out=FOLDER", "--seeds", "1"]


def test_tables_are_aligned():
    lines = table(["name", "s"], [["a", 1.23456], ["long name", None], ["b", 12345.6]]).splitlines()
    assert lines[2:] == ["a           1.23", "long name      -", "b          12346"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.long
def test_no_wrong_certificate_where_there_is_nothing_to_find(tmp_path):
    rows = results("lattice_null", tmp_path)
    assert sum(row["wrong"] for row in rows) == 0
    assert sum(row["accepted"] for row in rows if row["kind"] == "control") > 0


def test_images_enter_the_weights_in_a_picture(tmp_path):
    data, rowspace = Photos(n=4, image_size=8, batch_size=2), RowSpaceReconstructor()

    def network(source):
        return DeepMLP(source.d, 1, widths=[32])

    fit(tmp_path, data=data, optim=SGD(lr=1e-2), steps=2, attack=rowspace, model=network)
    picture = np.asarray(entering.draw(str(tmp_path), steps=3))
    side = entering.SIDE
    row = [picture[y * (side + entering.GAP) :][:side, entering.LABEL :] for y in range(3)]
    assert (row[0] == row[2]).all() and (row[1][..., 0].min() >= entering.EMPTY)


def test_published_attack_and_row_space_in_a_picture(tmp_path, capsys):
    run = tmp_path / "runs" / "margin"
    small = ["--data.n", "4", "--data.image_size", "8", "--model.widths", "[40, 40]"]
    small += ["--trainer.max_steps", "100", "--recon.enabled", "false"]
    config = ROOT / "configs" / "margin_photos.yaml"
    words = ["--config", config, *small, "--run.dir", run.parent, "--run.name", run.name]
    assert published_kkt.train.main([*map(str, words), "--wandb.mode", "disabled"]) == 0
    theirs, ours = results("published_kkt", tmp_path, "--run", str(run))
    assert theirs["steps"] == 20 and theirs["exact_fraction"] == 0
    assert ours["good_fraction"] == 1
    printed = capsys.readouterr().out
    assert "published, 20 of 50,000 steps: of 4 images" in printed
    assert "row space: of 4 images 4 recognisable" in printed
    side, gap, label = entering.SIDE, entering.GAP, entering.LABEL
    picture = np.asarray(Image.open(tmp_path / "published_kkt.png"))
    assert picture.shape == (3 * (side + gap), label + 4 * (side + gap), 3)
    rows = [picture[y * (side + gap) :][:side, label:].astype(float) for y in range(3)]
    assert np.abs(rows[2] - rows[0]).mean() < 10 < np.abs(rows[1] - rows[0]).mean()
