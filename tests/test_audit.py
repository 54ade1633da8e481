"""`audit`: the verdict, its exit status, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from safetensors.torch import save_file
from torch import Tensor

import train
from lit_recon.__main__ import main
from lit_recon.audit.verdict import RATES, Attacked, Rate, Share, verdict_of
from lit_recon.knowledge import PixelScale
from lit_recon.records.truth import Truth
from tests.strangers.patch_model import PatchModel
from tests.strangers.plain_mlp import PlainMLP
from tests.test_anybody import MEAN, STD, Images, fit

N = 6
SCALE = ["--pixels.mean", str(MEAN), "--pixels.std", str(STD)]
SHAPE = ["--pixels.shape", "[3, 8, 8]"]
DATA = ["--data", "Photos", "--data.n", str(N), "--data.image_size", "8"]
MODULE = ["--module", "tests.strangers.plain_mlp.PlainMLP"]


class Others(Images):
    """As many images, and none that `Images` has."""

    def __init__(self) -> None:
        super().__init__(3 * N)
        mine = {image.tobytes() for image in Images(N).images}
        others = [image for image in self.images if image.tobytes() not in mine]
        self.images = others[:N]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: before and after training, after Adam, and after training on other images."""
    root = tmp_path_factory.mktemp("files")
    seed_everything(0, verbose=False)
    start = PlainMLP()
    torch.save({"state_dict": start.state_dict(), "hyper_parameters": {}}, root / "before.ckpt")
    for name, data in {"after": Images(N), "adam": Images(N), "control": Others()}.items():
        module = PlainMLP(adam=name == "adam")
        module.load_state_dict(start.state_dict())
        fit(module, data, root, []).save_checkpoint(root / f"{name}.ckpt")
    return root


def pair(files: Path, after: str = "after") -> list[str]:
    return ["--before", str(files / "before.ckpt"), "--after", str(files / f"{after}.ckpt")]


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return found


def test_two_files_give_a_verdict(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit"
    assert main(["audit", *pair(files), *SHAPE, *SCALE, "--out", str(out)]) == 3
    verdict = told(out)
    assert (verdict["level"], verdict["exit_status"], verdict["numbers"]["certified"]) == (
        "exact",
        3,
        N,
    )
    words = "6 images were read out of the weights, exact in every pixel, each with a certificate."
    assert verdict["words"] == [words]
    assert [method["method"] for method in verdict["methods"]] == ["rowspace"]
    assert {entry["method"] for entry in verdict["not_tried"]} == {
        *("rowspace_final", "attractors", "projection", "kkt")
    }
    assert len(verdict["files"]["after"]) == 64
    assert words in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert words in page and "What this verdict does not say" in page


def test_with_the_data_the_controls_stand_beside(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    control = ["--control", str(files / "control.ckpt")]
    flags = [*pair(files), *DATA, *SCALE, *control, "--out", str(out), "--max-seconds", "20"]
    assert train.main(["audit", *flags]) == 3
    numbers = told(out)["numbers"]
    assert (numbers["members"]["count"], numbers["members"]["total"]) == (N, N)
    assert numbers["members"]["low"] == pytest.approx(0.5407, abs=1e-4)  # .025^(1/6)
    assert numbers["held_out"]["count"] == numbers["control"]["count"] == 0
    assert numbers["recognisable"]["count"] == N
    assert numbers["rates"][0]["members"]["count"] == N
    assert "Of the given images, a network that was not trained on them gave 0 of 6" in str(
        told(out)["words"]
    )


def test_data_that_were_not_trained_on_are_no_success(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    other = [*DATA, "--data.selection", "random", "--data.seed", "5"]
    flags = [*pair(files), *MODULE, *other, *SCALE, "--out", str(out), "--max-seconds", "20"]
    assert train.main(["audit", *flags]) == 3  # images came back, but not these
    numbers = told(out)["numbers"]
    assert (numbers["certified"], numbers["members"]["count"]) == (N, 0)


@pytest.mark.parametrize("module", [[], MODULE])
def test_nothing_comes_back_after_adam(files: Path, tmp_path: Path, module: list[str]) -> None:
    out = tmp_path / "audit"
    flags = [*pair(files, "adam"), *module, *SHAPE, *SCALE, "--max-seconds", "3"]
    assert main(["audit", *flags, "--out", str(out)]) == 0
    assert told(out)["words"] == ["Nothing came back."]
    assert told(out)["limits"][0].startswith("A model from which nothing came back")


def test_final_weights_alone_and_an_update(files: Path, tmp_path: Path) -> None:
    weights = ["--weights", str(files / "after.ckpt"), *SHAPE, *SCALE, "--out", str(tmp_path / "w")]
    assert main(["audit", *weights]) == 0  # without decay the start hides the images
    assert told(tmp_path / "w")["methods"][0]["status"] == "not_forgotten"
    states = [
        torch.load(files / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("before", "after")
    ]
    change = {name: states[1][name] - states[0][name] for name in ("net.1.weight", "net.1.bias")}
    save_file(change, tmp_path / "update.safetensors")
    update = ["--update", str(tmp_path / "update.safetensors"), "--out", str(tmp_path / "u")]
    assert main(["audit", *update, *SHAPE, *SCALE]) == 3
    assert told(tmp_path / "u")["numbers"]["certified"] == N


def test_two_layers_with_biases_take_seconds(tmp_path: Path) -> None:
    seed_everything(3, verbose=False)
    net = torch.nn.Sequential(torch.nn.Linear(192, 96), torch.nn.Tanh(), torch.nn.Linear(96, 2))
    data = Images(8)
    x = torch.stack([data[i][0] for i in range(8)]).flatten(1)
    y = torch.arange(8) % 2
    torch.save(net.state_dict(), tmp_path / "before.pt")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    torch.save(net.state_dict(), tmp_path / "after.pt")
    files = [f"--{name}={tmp_path / name}.pt" for name in ("before", "after")]
    assert main(["audit", *files, *SHAPE, *SCALE, f"--out={tmp_path / 'out'}"]) == 3
    assert told(tmp_path / "out")["numbers"]["certified"] == 8


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--after missing: give one of --before with --after, --update, --weights, and --run"),
        (["--before=B"], "--after missing: give the checkpoint to compare with --before"),
        (["--after=A", *SCALE], "--before missing: give an earlier checkpoint, or the later one"),
        (["--before=B", "--after=A"], "--pixels.mean missing: give shape, mean and std"),
        (["--before=B", "--after=A", *SCALE], "--pixels.shape missing: give channels"),
        (["--before=B", "--after=B", *SHAPE, *SCALE], "is the same in --before, so nothing"),
        (["--before=B", "--after=B", *SHAPE, *SCALE, *MODULE], "the same weights in --before"),
        (["--before=B", "--after=cut", *SHAPE, *SCALE], "is no whole checkpoint"),
        (["--before=B", "--after=empty", *SHAPE, *SCALE], "it is cut off, or not a file of torch"),
        (["--before=B", "--after=evil", *SHAPE, *SCALE], "nothing but numbers and plain contain"),
        (["--before=B", "--after=evil", *SHAPE, *SCALE, *MODULE], "nothing but numbers"),
        (["--before=B", "--after=none", *SHAPE, *SCALE], "is missing"),
        (
            [
                "--before=B",
                "--after=A",
                *SHAPE,
                *SCALE,
                "--module=tests.strangers.dense_resnet.Net",
            ],
            "--module Net: the LightningModules are: DenseResNet",
        ),
        (
            [
                *("--before=B", "--after=A", *SHAPE, *SCALE),
                "--module=tests.strangers.dense_resnet.DenseResNet",
            ],
            "its hyper_parameters do not make a DenseResNet (TypeError",
        ),
        (
            ["--before=B", "--after=A", *SHAPE, *SCALE, "--module=no.such"],
            "--module no.such: its package cannot be imported (ModuleNotFoundError",
        ),
        (["--before=B", "--after=A", *SHAPE, *SCALE, "--max-seconds=0"], "give seconds above 0"),
        (["--before=B", "--after=A", *SHAPE, *SCALE, "--control=A"], "needs --data"),
        (["--run=runs/none"], "is for python train.py audit, in the clone"),
        (["--run=runs/none", *SHAPE], "is for files; the run has it"),
        (["--weights=A", "--run=r"], "give one of"),
        (["--weights=A", "--before=B", *SCALE], "--before B: is not for --weights; leave it out"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file in {"B": "before", "A": "after"}.items():
        Path(name).symlink_to(files / f"{file}.ckpt")
    Path("cut").write_bytes((files / "after.ckpt").read_bytes()[:900])
    Path("empty").touch()
    torch.save({"state_dict": Evil()}, "evil")
    before = sorted(tmp_path.iterdir())
    assert main(["audit", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert sorted(tmp_path.iterdir()) == before  # neither results, nor what `Evil` would make


def test_a_place_that_is_taken_is_refused(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*pair(files), *SHAPE, *SCALE, "--out", str(tmp_path)]
    assert main(["audit", *flags]) == 2
    assert "is there already; give a new one" in capsys.readouterr().err
    assert main(["help"]) == 2
    assert main([]) == 0
    assert "Tries every attack" in capsys.readouterr().out


PATCHES = ["--module", "tests.strangers.patch_model.PatchModel"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Checkpoints of a transformer with a patch embedding, before and after training."""
    root = tmp_path_factory.mktemp("patches")
    seed_everything(1, verbose=False)
    module = PatchModel(16, 8, convolution=True)
    start = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(start, root / "before.ckpt")
    fit(module, Images(4, size=16), root, []).save_checkpoint(root / "after.ckpt")
    return [f"--{name}={root / name}.ckpt" for name in ("before", "after")]


def test_patches_have_a_verdict_of_their_own(
    embedded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "audit"
    data = ["--data", "Photos", "--data.n", "4", "--data.image_size", "16", "--data.n_val", "5"]
    flags = [*embedded, *PATCHES, *data, *SCALE, "--max-seconds", "20", "--out", str(out)]
    assert train.main(["audit", *flags]) == 3
    verdict = told(out)
    assert (verdict["level"], verdict["numbers"]["level"]) == ("exact", "nothing")
    parts = verdict["numbers"]["patches"]
    assert (parts["certified"], parts["members"]["count"], parts["members"]["total"]) == (16,) * 3
    assert (parts["held_out"]["count"], parts["held_out"]["total"]) == (0, 20)
    assert verdict["words"][0].startswith("16 patches were read out of the weights")
    assert "3x8x8, 4 in an image" in capsys.readouterr().out
    assert 'href="patches/report.html"' in (out / "report.html").read_text()
    assert "16 of 16" in (out / "patches" / "report.html").read_text()


def test_patches_from_files_alone(
    embedded: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = ["--layer", "embedding", *SCALE, "--out", str(tmp_path / "audit")]
    assert main(["audit", *embedded, *layer, "--pixels.shape", "[3, 16, 16]"]) == 2
    assert "--pixels.shape '[3, 8, 8]' attacks these" in capsys.readouterr().err
    assert main(["audit", *embedded, *layer, "--pixels.shape", "[3, 8, 8]"]) == 3
    assert told(tmp_path / "audit")["numbers"]["certified"] == 16


# --- the verdict alone


def images(n: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 4, 4), generator=random, dtype=torch.uint8)


def truth(n: int) -> Truth:
    scale, pictures = PixelScale((1, 4, 4), 0.5, 0.25), images(n)
    x, held_out = (((u / 255 - 0.5) / 0.25).flatten(1) for u in (pictures, images(9, seed=1)))
    return Truth(x, held_out, pictures, scale, None, [], [], list(range(n)))


def numbers(**known: Any) -> dict[str, Any]:
    names = ("recovered", "exact", "good", "null_good")
    shares = {f"{name}_fraction": None for name in names}
    nulls = {"null_good_rows": None, "null_good_mean": None}
    return {**shares, **nulls, "sure": False, "method": "toy", "reason": "so it is", **known}


def test_certified_images_count_once_for_all_methods() -> None:
    every = torch.tensor([True, True, False])
    results = [Attacked(numbers(exact_fraction=0.5), images(3), every) for _ in range(2)]
    verdict = verdict_of(results, truth(4), results)
    assert (verdict.level, verdict.certified, verdict.status) == ("exact", 2, 3)
    assert verdict.members == verdict.control == Share.of(2, 4)
    assert verdict.held_out == Share.of(0, 9)


def test_a_certified_image_that_was_held_out_is_counted() -> None:
    result = Attacked(numbers(exact_fraction=0.0), images(2, seed=1), torch.tensor([True, False]))
    verdict = verdict_of([result], truth(4))
    assert verdict.members == Share.of(0, 4)
    assert verdict.held_out == Share.of(1, 9)


@pytest.mark.parametrize(
    ("good", "null", "level"),
    [(1.0, 0.05, "recognisable"), (0.1, 0.05, "nothing"), (1.0, 1.0, "nothing")],
)
def test_recognisable_images_count_beyond_chance(good: float, null: float, level: str) -> None:
    found = numbers(good_fraction=good, null_good_fraction=null, exact_fraction=0.0)
    verdict = verdict_of([Attacked(found)], truth(20))
    assert verdict.level == level
    assert verdict.status == (3 if level == "recognisable" else 0)


def test_a_method_that_is_sure_without_certificates_is_heard() -> None:
    none = torch.zeros(2, dtype=torch.bool)
    verdict = verdict_of([Attacked(numbers(sure=True), images(2), none)], None)
    assert (verdict.level, verdict.status) == ("uncertified", 3)
    assert verdict.words[1] == "toy: so it is."
    assert not Attacked(numbers(sure=True), images(2), none).complete
    assert Attacked(numbers(sure=True), images(2), ~none).complete


def test_images_are_told_from_held_out_ones_at_fixed_rates() -> None:
    members, held_out = torch.linspace(0.5, 1, 11), torch.linspace(0, 0.75, 1000)
    none, tenth, one = (Rate.of(rate, members, held_out) for rate in RATES)
    assert none.members == Share.of(5, 11)
    assert tenth.members == one.members == Share.of(6, 11)  # one may be above, or ten
    result = Attacked(numbers(exact_fraction=1.0), likeness=(members, held_out[-300:]))
    verdict = verdict_of([Attacked(numbers(), likeness=(members, members)), result], truth(4))
    assert [rate.members is None for rate in verdict.rates] == [False, True, False]
    assert "without a false positive among 300 held-out ones: 5 of 11" in verdict.words[-3]
    assert "300 held-out images are too few for a false-positive rate of 0.1 %" in verdict.words[-1]
    assert verdict_of([Attacked(numbers(), likeness=(members, members[:0]))], truth(4)).rates == ()


def test_inputs_that_are_no_images() -> None:
    x = torch.zeros(5, 16)
    data = Truth(x, x[:0], None, None, None, [], [], list(range(5)))
    back = verdict_of([Attacked(numbers(recovered_fraction=0.6))], data)
    assert (back.level, back.inputs, back.words[0]) == (
        "inputs",
        Share.of(3, 5),
        "Training inputs that came back: 3 of 5 (95 % interval: 15 to 95 %).",
    )
    none = verdict_of([Attacked(numbers(recovered_fraction=0.0))], data)
    assert (none.status, none.words) == (0, ["Nothing came back."])


@pytest.mark.slow
def test_a_run_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", "DeepMLP", "--model.widths", "[32]", "--optim", "SGD", "--optim.lr", "1e-3"]
    fit_flags = ["--data.n", "4", "--data.image_size", "8", "--trainer.max_steps", "3"]
    rest = ["--run.name", "small", "--recon.enabled", "false", "--wandb.mode", "disabled"]
    assert train.main([*model, *fit_flags, *rest]) == 0
    assert train.main(["audit", "--run", "runs/small", "--out", "audit"]) == 3
    assert told(Path("audit"))["numbers"]["members"]["count"] == 4
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Photos" not in page  # the defaults of --data are not the data of the run


PATCH_MODEL = """
from torch import nn
from lit_recon.models import Model

class PatchNet(Model):
    def __init__(self, k: int, units: int = 40) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, units, 8, stride=8)
        self.head = nn.Linear(4 * units, k)

    def forward(self, x):
        return self.head(self.embed(x).relu().flatten(1))
"""


@pytest.mark.slow
def test_the_patches_that_a_run_reads_are_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(train, "PLUGINS", [])  # of the process
    Path("my_patch_net.py").write_text(PATCH_MODEL)
    plugin = ["--plugin", "my_patch_net"]
    model = ["--model", "PatchNet", "--optim", "SGD", "--optim.lr", "1e-2"]
    fit_flags = ["--data.n", "2", "--data.image_size", "16", "--trainer.max_steps", "3"]
    rest = ["--run.name", "small", "--recon.enabled", "false", "--wandb.mode", "disabled"]
    assert train.main([*plugin, *model, *fit_flags, *rest]) == 0
    assert train.main(["audit", *plugin, "--run", "runs/small", "--out", "audit"]) == 3
    assert "reads patches of 3x8x8, 4 in an image" in capsys.readouterr().out
    patches = told(Path("audit"))["numbers"]["patches"]
    assert patches["level"] == "exact" and patches["members"]["count"] == 8
    assert Path("audit/patches/report.html").is_file()
