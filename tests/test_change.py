"""`reconstruct` with files of any network: `--before --after`, `--update` and `--weights`."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from datamodules import Photos
from lit_recon.errors import RunError
from lit_recon.knowledge import ChannelScale, MeanImageScale, PixelScale
from lit_recon.metrics import inputs_from_images
from lit_recon.records.checkpoints import load_any_weights
from tests.rowspaces import matching

Run = Callable[..., tuple[int, str, str]]
State = dict[str, Tensor]
SHAPE = (3, 8, 8)
D = 192
MEAN, STD = 0.43, 0.27
PHOTO = ["--data", "Photos", "--data.n", "2", "--data.image_size", "8"]
PIXELS = ["--pixels.shape", "[3, 8, 8]", "--pixels.mean", str(MEAN), "--pixels.std", str(STD)]
METHOD = ["--plugin", "tests.rows", "--recon", "RowsReconstructor", "--wandb.mode", "disabled"]
FILES = ["--before", "before.pt", "--after", "after.pt"]


def photos() -> Photos:
    data = Photos(n=2, image_size=8)
    data.setup()
    return data


def network() -> nn.Sequential:
    """A network with names in containers, which no file says anything of."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(D, 12), nn.ReLU())
    return nn.Sequential(body, nn.Linear(12, 1, bias=False))


def trained(x: Tensor) -> tuple[State, State]:
    """The weights of the network before and after a step of SGD on inputs (n, d)."""
    torch.manual_seed(0)
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    (net(x.float()) - 1).square().sum().backward()
    optimiser.step()
    return before, net.state_dict()


def on_one_image(scale: PixelScale) -> tuple[State, State, Tensor]:
    """The weights before and after a step on one image, and the image (1, c, h, w) uint8."""
    images = photos().images
    assert images is not None
    return *trained(inputs_from_images(images[:1], scale)), images[:1]


@pytest.fixture
def states(tmp_path: Path) -> tuple[State, State]:
    """Weights before and after, which lie in before.pt and after.pt."""
    before, after, _ = on_one_image(PixelScale(SHAPE, MEAN, STD))
    torch.save(before, tmp_path / "before.pt")
    torch.save(after, tmp_path / "after.pt")
    return before, after


def refused(answer: tuple[int, str, str], *words: str) -> None:
    """One line that holds all the words in this order, and status 2."""
    status, _, error = answer
    assert status == 2, error
    (line,) = error.splitlines()
    assert re.search(".*".join(map(re.escape, ("train.py: ", *words))), line), line


def results(place: str, step: int = 0) -> dict[str, Any]:
    return json.loads(
        (Path(place, "recon", "rows", f"step={step:08d}", "metrics.json")).read_text()
    )


def tensors(place: str, step: int = 0) -> State:
    return load_file(Path(place, "recon", "rows", f"step={step:08d}", "candidates.safetensors"))


# --- without the training data


@pytest.mark.slow
def test_an_outside_auditor_gets_candidates_and_certificates(
    states: Any, type_command: Run
) -> None:
    _, _, image = on_one_image(PixelScale(SHAPE, MEAN, STD))
    argv = ["reconstruct", *FILES, *PIXELS, *METHOD, "--recon.count", "3", "--out", "found"]
    status, out, error = type_command(*argv)
    assert (status, error) == (0, "")
    assert "step 0, rows: 3 candidates, 1 certified (0 s; the change has singular vectors)" in out
    found = results("found")
    assert (found["certified_fraction"], found["candidates"], found["d"]) == (1 / 3, 3, D)
    assert (found["rows_rank"], found["seconds"] > 0, found["images"]) == (1, True, [])
    needs_truth = {"matched_error", "direction_error", "recovered_fraction", "exact_fraction"}
    needs_truth |= {"psnr", "ssim", "null_direction_error", "rows_missing", "n", "k", "p"}
    assert {name for name in needs_truth if found[name] is not None} == set()
    assert found["knows"] == [
        "final weights",
        "first layer at an earlier checkpoint",
        "image shape and normalisation",
    ]
    held = tensors("found")
    assert held["certified"].tolist() == [True, False, False]
    assert torch.equal(held["images"][:1], image)
    # The files of a run, without training data.
    names = {str(path.relative_to("found")) for path in Path("found").rglob("*") if path.is_file()}
    step = "recon/rows/step=00000000"
    assert names == {
        *("config.yaml", "metrics.jsonl", "provenance.json", "report.html"),
        *(f"{step}/{name}" for name in ("candidates.safetensors", "curve.csv", "grid.png")),
        f"{step}/metrics.json",
    }
    assert "data" not in yaml.safe_load(Path("found/config.yaml").read_text())
    # The picture shows the certified image as it is.
    drawn = torch.from_numpy(np_of(f"found/{step}/grid.png"))
    assert contains(
        drawn, image[0].permute(1, 2, 0).repeat_interleave(14, 0).repeat_interleave(14, 1)
    )
    page = Path("found/report.html").read_text()
    assert "1 of 3 candidates from the weights are certified" in page
    assert "accepts 1 of 3 candidates" in page and "training data were not given" in page
    assert page.count("data:image/png") == 1 and "Sample by sample" not in page
    # Again, from the record, and the page alone.
    assert type_command(*argv)[1].count("done before") == 1
    again = ["reconstruct", "--config", "found/config.yaml", "--plugin", "tests.rows"]
    assert type_command(*again)[1].count("done before") == 1
    assert type_command("report", "--run", "found")[0] == 0


def np_of(path: str) -> Any:
    return np.asarray(Image.open(path))[..., :3].copy()


def contains(picture: Tensor, part: Tensor) -> bool:
    """Whether a picture (H, W, 3) holds a part (h, w, 3), pixel by pixel."""
    h, w = part.shape[:2]
    starts = (picture[: -h + 1, : -w + 1] == part[0, 0]).all(2).nonzero().tolist()
    return any(torch.equal(picture[y : y + h, x : x + w], part) for y, x in starts)


def test_a_scale_for_each_channel(tmp_path: Path, type_command: Run) -> None:
    means, stds = [0.5, 0.45, 0.4], [0.25, 0.24, 0.3]
    before, after, image = on_one_image(ChannelScale.of(SHAPE, means, stds))
    torch.save(before, "before.pt")
    torch.save(after, "after.pt")
    scale = ["--pixels.shape", "[3, 8, 8]", "--pixels.mean", str(means)]
    argv = ["reconstruct", *FILES, *METHOD, *scale]
    assert type_command(*argv, "--pixels.std", str(stds), "--out", "found")[0] == 0
    assert torch.equal(tensors("found")["images"], image)
    assert results("found")["certified_fraction"] == 1
    assert type_command(*argv, "--pixels.std", "0.25", "--out", "wrong")[0] == 0
    assert results("wrong")["certified_fraction"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("mean_image", [False, True])
def test_final_weights_alone_give_every_image(
    mean_image: bool, tmp_path: Path, type_command: Run
) -> None:
    """The file holds what weight decay leaves of a start, and the training images."""
    images = Photos(n=4, image_size=8)
    images.load()
    assert images.images is not None
    u = images.images.double() / 255
    scale = MeanImageScale(SHAPE, u.mean(0)) if mean_image else PixelScale(SHAPE, MEAN, STD)
    x = inputs_from_images(images.images, scale)
    random = torch.Generator().manual_seed(0)
    c = torch.randn(48, 4, generator=random, dtype=torch.float64)
    start = 1e-7 * torch.randn(48, D + 1, generator=random, dtype=torch.float64)
    torch.save(
        {
            "body.0.weight": (c @ x + start[:, :-1]).float(),
            "body.0.bias": (c.sum(1) + start[:, -1]).float(),
            "head.weight": torch.randn(2, 48, generator=random),
        },
        "final.pt",
    )
    np.save("mean.npy", u.mean(0).numpy())
    given = ["--pixels.mean_image", "mean.npy"] if mean_image else PIXELS[2:]
    argv = ["reconstruct", "--weights", "final.pt", "--pixels.shape", "[3, 8, 8]", *given]
    status, _, error = type_command(*argv, "--out", "found")
    assert (status, error) == (0, "")
    folder = Path("found/recon/rowspace_final/step=00000000")
    held = load_file(folder / "candidates.safetensors")
    assert matching(held["images"][held["certified"]], images.images) == {0, 1, 2, 3}
    knows = json.loads((folder / "metrics.json").read_text())["knows"]
    assert knows == ["final weights", scale.words]
    again = ["reconstruct", "--config", "found/config.yaml"]
    assert "done before" in type_command(*again)[1]


def test_of_several_earlier_files_one_is_chosen(states: Any, type_command: Run) -> None:
    _, after = states
    torch.save(after, "same.pt")
    several = ["--before", "same.pt,before.pt", "--after", "after.pt", *METHOD]
    status, out, error = type_command("reconstruct", *several, *PIXELS, "--out", "found")
    assert (status, error) == (0, "")
    assert "before.pt, chosen of 2 by singular values" in out
    assert yaml.safe_load(Path("found/config.yaml").read_text())["before"] == "before.pt"
    refused(type_command("reconstruct", *several), "--pixels.shape missing", "several --before")
    wrong = [word.replace("same.pt", "none.pt") for word in several]
    refused(type_command("reconstruct", *wrong, *PIXELS), "--before none.pt")
    refused(type_command("reconstruct", "--before", ",", *several[2:], *PIXELS), "--before ','")


def test_what_is_not_known_of_pixels_is_not_asserted(states: Any, type_command: Run) -> None:
    argv = ["reconstruct", *FILES, *METHOD, "--recon.count", "2"]
    for place, flags in (("image", ["--pixels.shape", "[3, 8, 8]"]), ("vector", [])):
        status, out, error = type_command(*argv, *flags, "--out", place)
        assert (status, error) == (0, "")
        assert "rows: 2 candidates (0 s" in out
        found = results(place)
        assert found["certified_fraction"] is None
        assert found["knows"][2:] == ["shape of an input"]
        assert tensors(place).keys() == {"candidates"}
        page = Path(place, "report.html").read_text()
        assert "2 candidates from the weights, without a certificate" in page


def test_methods_side_by_side_without_the_training_data(states: Any, type_command: Run) -> None:
    argv = ["reconstruct", *FILES, *PIXELS, *METHOD, "--out", "found"]
    assert type_command(*argv)[0] == 0
    shutil.copytree("found/recon/rows", "found/recon/others")
    status, _, error = type_command("report", "--run", "found")
    assert (status, error) == (0, "")
    page = Path("found/report.html").read_text()
    assert "2 methods side by side" in page and " of 0" not in page
    assert page.count("<td>1 of 1</td>") == 2  # certified


def test_a_new_directory_is_made_without_a_name(states: Any, type_command: Run) -> None:
    assert type_command("reconstruct", *FILES, *METHOD)[0] == 0
    (made,) = Path("runs").iterdir()
    assert made.name.startswith("change-") and results(str(made))["candidates"] == 1


# --- with the training data


def test_training_data_that_are_given_score_it(tmp_path: Path, type_command: Run) -> None:
    data = photos()
    before, after = trained(data.x)
    torch.save({"state_dict": before, "global_step": 5}, "before.ckpt")
    torch.save({"state_dict": after, "global_step": 8, "epoch": 4}, "after.ckpt")
    files = ["--before", "before.ckpt", "--after", "after.ckpt"]
    argv = ["reconstruct", *files, *METHOD, *PHOTO, "--out", "found", "--recon.count", "2"]
    status, out, error = type_command(*argv)
    assert (status, error) == (0, "")
    assert "step 8, rows: 0 of 2 images recovered" in out
    found = results("found", step=8)
    assert (found["n"], found["d"], len(found["images"]), found["rows_missing"]) == (2, D, 2, 0)
    assert found["direction_error"] is not None and found["knows"][2:] == [
        "image shape and normalisation"
    ]
    assert Path("found/data.safetensors").is_file()
    assert "Image by image" in Path("found/report.html").read_text()


# --- files of any kind


def save(state: State, kind: str, file: str) -> str:
    """Save weights in one of the formats that people use."""
    path = {"safetensors": f"{file}.safetensors", "lightning": f"{file}.ckpt"}.get(
        kind, f"{file}.pth"
    )
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "lightning":
        torch.save({"state_dict": state, "global_step": 3, "epoch": 1, "loops": {}}, path)
    elif kind == "nested":
        torch.save({"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}}, path)
    elif kind == "old":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({name: value.to(kind_dtype(kind)) for name, value in state.items()}, path)
    return path


def kind_dtype(kind: str) -> torch.dtype:
    return getattr(torch, kind)


@pytest.mark.parametrize(
    "kind", ["float32", "float64", "bfloat16", "lightning", "nested", "old", "safetensors"]
)
def test_formats(kind: str, states: tuple[State, State], type_command: Run) -> None:
    before, after = (save(state, kind, name) for state, name in zip(states, "ba", strict=True))
    step = 3 if kind == "lightning" else 0
    argv = ["reconstruct", "--before", before, "--after", after, *METHOD, *PIXELS]
    assert type_command(*argv, "--out", "found")[0] == 0
    x = states[1]["0.1.weight"] - states[0]["0.1.weight"]
    direction = torch.linalg.svd(x.double(), full_matrices=False).Vh[0]
    found = tensors("found", step)["candidates"][0].double()
    assert abs(float(direction @ found)) > (0.95 if kind == "bfloat16" else 1 - 1e-6)
    assert results("found", step)["certified_fraction"] == (0 if kind == "bfloat16" else 1)


def test_an_update_is_a_change_from_zero(states: tuple[State, State], type_command: Run) -> None:
    update = {name: value - states[0][name] for name, value in states[1].items()}
    torch.save(update, "update.pt")
    argv = ["reconstruct", *METHOD, *PIXELS]
    assert type_command(*argv, "--update", "update.pt", "--out", "update")[0] == 0
    assert type_command(*argv, *FILES, "--out", "change")[0] == 0
    ours, theirs = tensors("update"), tensors("change")
    assert torch.equal(ours["images"], theirs["images"]) and bool(ours["certified"].all())
    assert "lit_recon" in Path("update/report.html").read_text()


def test_a_layer_can_be_named(states: tuple[State, State], type_command: Run) -> None:
    convolution = {"stem.weight": torch.zeros(4, 3, 3, 3)}
    for state, file in zip(states, ("before.pt", "after.pt"), strict=True):
        torch.save(convolution | state, file)
    argv = ["reconstruct", *FILES, *METHOD, *PIXELS]
    refused(type_command(*argv), "--layer missing", "stem.weight", "(4, 3, 3, 3)", "0.1, 1")
    assert type_command(*argv, "--layer", "0.1", "--out", "found")[0] == 0
    assert results("found")["certified_fraction"] == 1
    # A network that is one layer has no dotted name.
    for state, file in zip(states, ("before.pt", "after.pt"), strict=True):
        torch.save({"weight": state["0.1.weight"], "bias": state["0.1.bias"]}, file)
    assert type_command(*argv, "--out", "alone")[0] == 0
    assert results("alone")["certified_fraction"] == 1


def test_safetensors_do_not_say_which_layer_is_first(
    states: tuple[State, State], type_command: Run
) -> None:
    files = []
    for state, name in zip(states, ("before", "after"), strict=True):
        renamed = {
            key.replace("0.1", "stem").replace("1.w", "head.w"): v for key, v in state.items()
        }
        files += [f"--{name}", save(renamed, "safetensors", name)]
    argv = ["reconstruct", *files, *METHOD]
    refused(type_command(*argv), "--layer missing", "has no order of layers; ", "stem")
    assert type_command(*argv, "--layer", "stem", "--out", "named")[0] == 0
    assert type_command(*argv, *PIXELS, "--out", "found")[0] == 0  # 192 columns: it is clear
    assert results("found")["certified_fraction"] == 1


@pytest.mark.slow
def test_one_directory_takes_several_checkpoints_of_a_training(
    states: tuple[State, State], type_command: Run
) -> None:
    for step in (4, 9):
        torch.save({"state_dict": states[1], "global_step": step}, f"{step}.ckpt")
    torch.save({"state_dict": states[1], "global_step": 9}, "other.ckpt")
    argv = ["reconstruct", "--before", "before.pt", *METHOD, *PIXELS, "--out", "found", "--after"]
    for step in (4, 9):
        assert type_command(*argv, f"{step}.ckpt")[0] == 0
        assert results("found", step)["certified_fraction"] == 1
    refused(type_command(*argv, "other.ckpt"), "--out found", "has other results of step 9")
    other = ["--pixels.std", "0.3"]
    refused(type_command(*argv, "4.ckpt", *other), "--out found", "another --pixels.std")
    refused(type_command("reconstruct", "--run", "found"), "--run found", "has results of files")


# --- what is wrong, in one line


class Code:
    """What a pickle of it does when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.fixture
def wrong(states: tuple[State, State], type_command: Run) -> None:
    """Files that cannot be used, beside before.pt and after.pt."""
    before, after = states
    changes: dict[str, Any] = {
        "wider.pt": {**before, "0.1.weight": torch.zeros(13, D)},
        "other.pt": {f"net.{name}": value for name, value in before.items()},
        "vectors.pt": {"a.weight": torch.zeros(3), "b.bias": torch.zeros(3)},
        "whole.pt": {"a.weight": torch.zeros(3, 3, dtype=torch.int64)},
        "zero.pt": {name: torch.zeros_like(value) for name, value in after.items()},
        "nan.pt": {**after, "0.1.weight": after["0.1.weight"] * torch.nan},
        "recurrent.pt": {"lstm.weight_ih_l0": torch.zeros(8, D), **after},
        "numbers.pt": [1, 2],
        "empty.pt": {},
    }
    Path("nothing.npy").touch()
    np.save("small.npy", np.zeros((3, 4, 4)))
    np.save("levels.npy", np.full(SHAPE, 127))
    np.save("mean.npy", np.full(SHAPE, 0.5))
    for name, content in changes.items():
        torch.save(content, name)
    Path("code.pt").write_bytes(pickle.dumps({"state_dict": Code()}, protocol=2))
    Path("bytes.pt").write_bytes(bytes(range(256)))
    Path("bytes.safetensors").write_bytes(bytes(range(256)))


UPDATE = "--update after.pt "
BOTH = "--before before.pt --after after.pt "
MEAN_IMAGE = UPDATE + "--pixels.shape [3,8,8] --pixels.mean_image "


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--before before.pt", "--after missing: give a checkpoint to compare with --before"),
        ("--after after.pt", "--before missing: give a checkpoint to compare with --after"),
        ("--run r --before before.pt", "--before before.pt: is not for --run; leave it out"),
        ("--run r --layer x", "--layer x: is not for --run; leave it out"),
        ("--run r --pixels.mean 0.5", "--pixels.mean 0.5: --run gives it; leave it out"),
        ("--checkpoint a --update b", "--update b: is not for --checkpoint; leave it out"),
        (BOTH + "--update x", "--update x: is not for --before; leave it out"),
        (BOTH + "--initial x", "--initial x: is not for --before; leave it out"),
        (UPDATE + "--before before.pt", "--update after.pt: is not for --before; leave it out"),
        (UPDATE + "--steps all", "--steps all: is not for --update; leave it out"),
        (
            "--before after.pt --after after.pt",
            "--after after.pt: its layer 0.1 is the same in --b",
        ),
        ("--update zero.pt", "--update zero.pt: its layer 0.1 is 0"),
        ("--update nan.pt", "--update nan.pt: its layer 0.1 has values that are not finite"),
        (
            "--before wider.pt --after after.pt",
            "--before wider.pt: the weight of 0.1 has the shape ",
        ),
        (
            "--before other.pt --after after.pt",
            "--before other.pt: has no layer 0.1, as --after has",
        ),
        ("--before no.pt --after after.pt", "--before no.pt: no.pt is missing"),
        ("--update no.safetensors", "--update no.safetensors: no.safetensors is missing"),
        ("--update bytes.pt", "--update bytes.pt: bytes.pt is no whole checkpoint"),
        ("--update bytes.safetensors", "--update bytes.safetensors: bytes.safetensors is no whole"),
        ("--update code.pt", "--update code.pt: code.pt holds posix.mkdir, and nothing but"),
        ("--update numbers.pt", "--update numbers.pt: numbers.pt holds no state dict"),
        ("--update empty.pt", "--update empty.pt: empty.pt holds no state dict"),
        ("--update vectors.pt", "--update vectors.pt: has no dense layer"),
        ("--update whole.pt", "--update whole.pt: has no dense layer"),
        (
            "--update recurrent.pt",
            "--layer missing: the first weight of recurrent.pt, lstm.weight_ih",
        ),
        (BOTH + "--layer 0.2", "--layer 0.2: is not in after.pt; its dense layers are 0.1, 1"),
        (UPDATE + "--device meta", "--device meta: cannot be used here"),
        (UPDATE + "--pixels.shape [3,8]", "--pixels.shape [3, 8]: give channels, height and width"),
        (UPDATE + "--pixels.shape [3,8,0]", "--pixels.shape [3, 8, 0]: give channels, height and"),
        (
            UPDATE + "--pixels.shape [3,8,9]",
            "--pixels.shape [3, 8, 9]: has 216 values in an input,",
        ),
        (UPDATE + "--pixels.mean 0.5", "--pixels.shape missing: give channels, height and width"),
        (UPDATE + "--pixels.mean x", "--pixels.mean x: give a number, a list such as"),
        (
            UPDATE + "--pixels.shape [3,8,8] --pixels.mean 0.5",
            "--pixels.std missing: give --pixels.m",
        ),
        (
            UPDATE + "--pixels.shape [3,8,8] --pixels.std 0.5",
            "--pixels.mean missing: give --pixels.m",
        ),
        (
            UPDATE + "--pixels.shape [3,8,8] --pixels.mean 2 --pixels.std 1",
            "--pixels.mean 2.0: give",
        ),
        (
            UPDATE + "--pixels.shape [3,8,8] --pixels.mean 0 --pixels.std 0",
            "--pixels.std 0.0: give",
        ),
        (
            UPDATE + "--pixels.shape [3,8,8] --pixels.mean [0.5,0.5] --pixels.std 1",
            "--pixels.mean [0.5, 0.5]: give one number, or one for each of 3 channels",
        ),
        (
            MEAN_IMAGE + "absent.npy",
            "--pixels.mean_image absent.npy: give an array that numpy.save",
        ),
        (MEAN_IMAGE + "nothing.npy", "--pixels.mean_image nothing.npy: give an array that numpy"),
        (MEAN_IMAGE + "code.pt", "--pixels.mean_image code.pt: give an array that numpy.save"),
        (MEAN_IMAGE + "small.npy", "--pixels.mean_image small.npy: holds [3, 4, 4], and --pixels."),
        (MEAN_IMAGE + "levels.npy", "--pixels.mean_image levels.npy: give floating-point numbers"),
        (
            MEAN_IMAGE + "mean.npy --pixels.mean 0",
            "--pixels.mean 0.0: leave it out, or --pixels.me",
        ),
        (MEAN_IMAGE + "mean.npy --pixels.std 0", "--pixels.std 0.0: give one number above 0 with"),
        (UPDATE + "--pixels.mean_image mean.npy", "--pixels.shape missing: give channels, height"),
        ("--weights zero.pt", "--weights zero.pt: its layer 0.1 is 0"),
        ("--weights after.pt --before before.pt", "--weights after.pt: is not for --before; leave"),
        (
            UPDATE + "--data.n 2 --pixels.mean 0.5",
            "--pixels.mean 0.5: --data gives it; leave it out",
        ),
        (
            UPDATE + "--data.n 2",
            "--data [3, 32, 32]: has 3072 values in an input, and the layer 0.1",
        ),
        (
            UPDATE + "--recon ProjectionReconstructor",
            "--recon ProjectionReconstructor: attacks a lin",
        ),
        (UPDATE + "--out before.pt/x", "--out before.pt/x: "),
    ],
)
def test_wrong_files_and_flags_are_one_line(
    argv: str, line: str, wrong: None, type_command: Run
) -> None:
    given = argv.split()
    method = METHOD if "--recon" not in given else METHOD[4:]
    refused(type_command("reconstruct", *given, *method), line)
    assert not Path("executed").exists() and not Path("runs").exists()


def test_a_layer_that_is_not_dense(tmp_path: Path, type_command: Run) -> None:
    state = {"stem.weight": torch.ones(4, 3, 3, 3), "head.weight": torch.ones(2, 4)}
    torch.save(state, "update.pt")
    argv = ["reconstruct", "--update", "update.pt", *METHOD]
    shape = "(4, 3, 3, 3), in update.pt; its dense layers are head"
    refused(type_command(*argv, "--layer", "stem"), "--layer stem: is not dense", shape)
    refused(
        type_command(*argv),
        "--layer missing: the first weight of update.pt, stem.weight",
        shape[:12],
    )


def test_weights_of_any_file_need_tensors_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        load_any_weights(tmp_path)
    torch.save({"step": 3, "weights": {"a": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(RunError, match="holds no state dict"):
        load_any_weights(tmp_path / "other.pt")


def test_help_names_the_flags(type_command: Run) -> None:
    status, out, _ = type_command("reconstruct", "--help")
    assert status == 0
    for flag in ("before", "after", "update", "layer", "pixels.shape", "pixels.mean", "pixels.std"):
        assert f"    --{flag}\n" in out
    assert "a number, a list such as '[0.4, 0.5]' or null; default null" in out
