"""The main job through its real entry point: what a run leaves, and what it must not touch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer, seed_everything
from PIL import Image
from safetensors.torch import load_file

import train
from callbacks import ReconstructionCallback, StepCheckpoint
from callbacks.reconstruction import NUMBERS
from datamodules import Photos
from lit_recon.methods import ProjectionReconstructor
from lit_recon.models import RandomFeatures
from lit_recon.modules import SGD, LeastSquares, Optim, Regression
from lit_recon.records.directory import RunDirectory

ROOT = Path(__file__).parents[1]
TINY = ["--data.n", "4", "--data.image_size", "8", "--model.p_over_dn", "4"]


def run(tmp_path: Path, *flags: str, name: str = "run", wandb: str = "disabled") -> Path:
    """A run that ends well; returns its directory."""
    place = ["--run.dir", str(tmp_path), "--run.name", name, "--wandb.mode", wandb]
    assert train.main([*flags, *place]) == 0
    return tmp_path / name


def metrics(directory: Path, step: int) -> dict:
    return json.loads((directory / "recon" / f"step={step:08d}" / "metrics.json").read_text())


def class_folders(root: Path, classes: list[str], size: int = 32, count: int = 6) -> Path:
    """Smooth random pictures in class folders."""
    random = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((size, size)).save(root / name / f"{i}.png")
    return root


def test_the_run_directory_and_its_numbers(tmp_path, capsys):
    directory = run(tmp_path, *TINY)
    printed = capsys.readouterr().out
    assert "4 of 4 images recovered, 4 exact to the pixel" in printed
    assert str(directory) in printed
    last = metrics(directory, 1)
    assert set(NUMBERS) <= set(last)
    assert last["recovered_fraction"] == last["exact_fraction"] == last["certified_fraction"] == 1
    assert last["direction_error"] < 1e-3 < last["null_direction_error"]
    assert last["status"] in ("certified", "converged")
    assert metrics(directory, 0)["status"] == "no_signal"
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    logged = {key: value for row in rows if row["step"] == 1 for key, value in row.items()}
    for name in NUMBERS:
        assert logged[f"recon/projection/{name}"] == last[name]
    assert logged["train/loss"] < 1e-8
    for step in (0, 1):
        folder = directory / "recon" / f"step={step:08d}"
        assert {file.name for file in folder.iterdir()} == {
            "metrics.json", "candidates.safetensors", "grid.png", "curve.csv",
        }  # fmt: skip
        assert (directory / "checkpoints" / f"step={step:08d}.ckpt").is_file()
    held = load_file(directory / "recon" / "step=00000001" / "candidates.safetensors")
    data = Photos(n=4, image_size=8)
    data.setup()
    assert data.images is not None
    assert sorted(held["images"].flatten(1).tolist()) == sorted(data.images.flatten(1).tolist())
    assert json.loads((directory / "provenance.json").read_text())["seed"] == 0


def test_config_of_a_run_gives_the_run_again(tmp_path):
    first = run(tmp_path, *TINY, name="first")
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["model"]["init_args"]["p"] == 4 * 4 * 192
    second = run(tmp_path, "--config", str(first / "config.yaml"), name="second")
    candidates = [
        load_file(d / "recon" / "step=00000001" / "candidates.safetensors")["candidates"]
        for d in (first, second)
    ]
    assert torch.equal(*candidates)


def test_the_default_is_the_demo():
    command = train.command_line()
    demo = command.parse(command.read(["--config", str(ROOT / "configs" / "rf_photos.yaml")]))
    configs = [command.parse(command.read([])), demo]
    for config in configs:
        train.settle_size(config, [])
    default, demo = (yaml.safe_load(command.dump(config)) for config in configs)
    default["model"]["init_args"]["p_over_dn"] = 3.0  # the constructor's own default
    assert default == demo


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_runs(path, tmp_path):
    flags = ["--config", str(path), "--recon.max_seconds", "3"]
    if "CIFAR10Subset" in path.read_text():
        root = class_folders(tmp_path / "images", ["frog", "truck"])
        flags += ["--data", "ImageFolderSubset", "--data.root", str(root)]
    if "Sphere" in path.read_text():
        flags += ["--data.n", "3", "--data.d", "16", "--model.p", "300"]
    else:
        flags += ["--data.n", "4", "--data.image_size", "8", "--model.p", "3000"]
    directory = run(tmp_path, *flags)
    assert metrics(directory, 1)["projection_loss"] is not None


def test_the_attack_never_reads_the_data(tmp_path):
    """After training the data are replaced by NaN; the reconstruction is the same to the bit."""

    class Spoiled(ReconstructionCallback):
        def _attack(self, pl_module, on_step):
            data = pl_module.trainer.datamodule
            data.x.fill_(float("nan"))
            data.y.fill_(float("nan"))
            data.images.zero_()
            pl_module.__dict__["_batch"] = None
            return super()._attack(pl_module, on_step)

    found = []
    for i, kind in enumerate((ReconstructionCallback, Spoiled)):
        # Step 0 is left out: there the data are still needed for training.
        _, callback = fit(tmp_path / str(i), LeastSquares(), kind, done=0)
        step = callback.directory.step_path(1)
        found.append(load_file(step / "candidates.safetensors")["candidates"])
    assert torch.isfinite(found[1]).all()
    assert torch.equal(*found)


@pytest.mark.parametrize(("optim", "batch_size"), [(LeastSquares(), None), (SGD(lr=1e-3), 2)])
def test_training_is_the_same_to_the_bit_with_and_without_the_attack(tmp_path, optim, batch_size):
    weights = [
        fit(tmp_path / str(i), optim, kind, batch_size=batch_size)[0]
        for i, kind in enumerate((ReconstructionCallback, None))
    ]
    assert weights[0].abs().sum() > 0
    assert torch.equal(*weights)


def fit(path: Path, optim: Optim, kind, batch_size=None, done=None):
    """Train on four small patches; returns the readout and the callback."""
    seed_everything(0, verbose=False)
    data = Photos(n=4, image_size=8, batch_size=batch_size)
    data.setup()
    module = Regression(RandomFeatures(d=data.d, k=data.k, n=4, p_over_dn=4.0), optim)
    directory = RunDirectory(path)
    checkpoint = StepCheckpoint(at_steps=[3])
    callbacks = [checkpoint]
    callback = None
    if kind is not None:
        callback = kind(ProjectionReconstructor(max_seconds=10), checkpoint, directory)
        callbacks.append(callback)
    if done is not None:
        directory.step_path(done).mkdir(parents=True)
        directory.write_json(f"recon/step={done:08d}/metrics.json", {})
    trainer = Trainer(
        max_steps=1 if isinstance(optim, LeastSquares) else 8,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=path,
    )
    trainer.fit(module, data)
    return module.model.readout.weight.detach(), callback


def test_offline_wandb_holds_the_same_numbers_and_a_visible_picture(tmp_path, capsys):
    directory = run(tmp_path, *TINY, wandb="offline")
    assert "leet" in capsys.readouterr().out
    (segment,) = (directory / "wandb").glob("offline-run-*")
    inspect = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", segment]
    shown = subprocess.run([*map(str, inspect)], capture_output=True, text=True, check=True)
    text = shown.stdout
    for name in ("direction_error", "exact_fraction", "certified_fraction", "grid", "images"):
        assert f"recon/projection/{name}" in text
    assert "trainer/global_step" in text
    pictures = list((segment / "files" / "media").rglob("*grid*.png"))
    assert len(pictures) == 2
    pixels = np.asarray(Image.open(pictures[0]))
    assert pixels.dtype == np.uint8
    assert pixels.min() < 20 and pixels.max() > 235


def test_a_finished_step_is_not_done_again_on_resume(tmp_path, capsys):
    flags = ["--data", "Sphere", "--data.n", "3", "--data.d", "8", "--model.p", "200"]
    sgd = ["--optim", "SGD", "--optim.lr", "1e-3", "--recon.max_seconds", "3"]
    directory = run(tmp_path, *flags, *sgd, "--trainer.max_steps", "4")
    kept = (directory / "recon" / "step=00000004" / "metrics.json").stat().st_mtime_ns
    run(tmp_path, *flags, *sgd, "--trainer.max_steps", "7", "--run.resume", "true")
    assert (directory / "recon" / "step=00000004" / "metrics.json").stat().st_mtime_ns == kept
    straight = run(tmp_path, *flags, *sgd, "--trainer.max_steps", "7", name="straight")
    saved = [
        torch.load(d / "checkpoints" / "step=00000007.ckpt", weights_only=True)["state_dict"]
        for d in (directory, straight)
    ]
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


def test_adam_is_warned_about_and_p_below_n_is_an_answer(tmp_path):
    flags = ["--data", "Sphere", "--data.n", "6", "--data.d", "8", "--model.p", "3"]
    with pytest.warns(UserWarning, match="leaves the span"):
        directory = run(tmp_path, *flags, "--optim", "Adam", "--trainer.max_steps", "2")
    assert metrics(directory, 2)["status"] == "not_identifiable"


BAD = [
    (["--data.n", "1000"], "--data.n"),
    (["--data.n", "3"], "--data.n"),
    (["--data.n", "four"], "--data.n"),
    (["--data.classes", "[china, moon]"], "--data.classes"),
    (["--data.image_size", "7"], "--data.image_size"),
    (["--data", "ImageFolderSubset", "--data.root", "/nowhere"], "--data.root"),
    (["--data", "ImageFolderSubset"], "--data.root"),
    (["--data", "Nothing"], "--data"),
    (["--model.p", "0"], "--model.p"),
    (["--model.p_over_dn", "-1"], "--model.p_over_dn"),
    (["--model.p", "9", "--model.p_over_dn", "3"], "--model.p_over_dn"),
    (["--model.activation", "gelu"], "--model.activation"),
    (["--optim", "SGD", "--optim.lr", "-1"], "--optim.lr"),
    (["--optim", "SGD", "--optim.lr", "nan"], "--optim.lr"),
    (["--recon.max_seconds", "0"], "--recon.max_seconds"),
    (["--recon.solver", "os.system"], "--recon.solver"),
    (["--trainer.max_step", "3"], "--trainer.max_step"),
    (["--modle.p", "3"], "--modle.p"),
    (["--config", "missing.yaml"], "missing.yaml"),
    (["--run.seed", "-1"], "--run.seed"),
    (["recnstruct"], "recnstruct"),
]


@pytest.mark.parametrize(("flags", "named"), BAD, ids=lambda v: " ".join(v) if v[1:] else None)
def test_bad_input_is_one_line_that_names_the_flag(flags, named, tmp_path, capsys):
    place = ["--run.dir", str(tmp_path), "--wandb.mode", "disabled"]
    assert train.main([*flags, *place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("model:\n  class_path: RandomFeatures\n  init_args: {width: 3}\n", "width"),
        ("colour: red\n", "colour"),
        ("recon:\n  class_path: os.system\n", "os.system"),
        ("model: [\n", "config"),
    ],
)
def test_a_bad_configuration_is_one_line(content, named, tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    assert train.main(["--config", str(file), "--run.dir", str(tmp_path / "runs")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_a_taken_name_and_an_unusable_folder_are_refused(tmp_path, capsys):
    run(tmp_path, *TINY)
    place = ["--run.name", "run", "--wandb.mode", "disabled"]
    assert train.main([*TINY, *place, "--run.dir", str(tmp_path)]) == 2
    assert "--run.resume" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert train.main([*TINY, *place, "--run.dir", str(tmp_path / "file")]) == 2
    assert "--run.dir" in capsys.readouterr().err


def test_nan_in_training_says_so_and_keeps_the_files(tmp_path, capsys):
    flags = [*TINY, "--optim", "SGD", "--optim.lr", "1e30", "--trainer.max_steps", "50"]
    place = ["--run.dir", str(tmp_path), "--run.name", "nan", "--wandb.mode", "disabled"]
    assert train.main([*flags, *place]) == 1
    (line,) = (e for e in capsys.readouterr().err.splitlines() if "not finite" in e)
    assert "--optim.lr" in line
    assert metrics(tmp_path / "nan", 0)["status"] == "no_signal"
    assert (tmp_path / "nan" / "checkpoints" / "step=00000000.ckpt").is_file()
    assert (tmp_path / "nan" / "metrics.jsonl").is_file()


def test_an_interrupted_reconstruction_leaves_whole_files_and_can_go_on(
    tmp_path, capsys, monkeypatch
):
    place = ["--run.dir", str(tmp_path), "--run.name", "stop", "--wandb.mode", "disabled"]
    attack = ProjectionReconstructor.reconstruct

    def interrupted(self, knowledge, generator, on_step=None):
        if knowledge.target.any():
            raise KeyboardInterrupt
        return attack(self, knowledge, generator, on_step)

    monkeypatch.setattr(ProjectionReconstructor, "reconstruct", interrupted)
    assert train.main([*TINY, *place]) == 130
    directory = tmp_path / "stop"
    assert [p.name for p in (directory / "recon").iterdir()] == ["step=00000000"]
    monkeypatch.setattr(ProjectionReconstructor, "reconstruct", attack)
    assert train.main([*TINY, *place, "--run.resume", "true"]) == 0
    assert metrics(directory, 1)["exact_fraction"] == 1


def test_help_is_quick_and_lists_every_flag(capsys):
    script = "import sys, train; train.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0
    assert train.main(["fit", "--help"]) == 0
    listed = capsys.readouterr().out
    for flag in (
        "--data.noise",
        "--model.p_over_dn",
        "--optim.momentum",
        "--trainer.max_steps",
        "--checkpoint.at_steps",
        "--recon.solver.lr",
        "--wandb.mode",
        "--run.seed",
    ):
        assert flag in listed
