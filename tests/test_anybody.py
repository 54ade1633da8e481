"""The callback in Trainers and modules that the project never saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import FSDPStrategy
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import (
    Compose,
    Lambda,
    Normalize,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
    v2,
)

from datamodules import Photos
from lit_recon import PixelScale, ReconstructionCallback, RowSpaceReconstructor
from lit_recon.audit.loaders import truth_of
from lit_recon.audit.transforms import scale_of, transform_of
from lit_recon.errors import InputError
from lit_recon.knowledge import ChannelScale
from tests.strangers.dense_resnet import DenseResNet
from tests.strangers.patch_model import PatchModel
from tests.strangers.plain_mlp import PlainMLP

ROOT = Path(__file__).parents[1]
MEAN, STD = [0.5, 0.45, 0.4], [0.25, 0.25, 0.2]
N = 6


class Images(Dataset[Any]):
    """Patches of photographs with a transform, as datasets of torchvision have it."""

    def __init__(self, n: int, size: int = 8, names: bool = False, flip: bool = False) -> None:
        data = Photos(n, image_size=size)
        data.setup()
        assert data.images is not None
        self.images = [image.permute(1, 2, 0).numpy() for image in data.images]
        turned = [v2.ToImage(), RandomHorizontalFlip()] if flip else []
        last = v2.ToDtype(torch.float32, scale=True) if flip else ToTensor()
        self.transform = Compose([*turned, last, Normalize(MEAN, STD)])
        self.names = names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        image, label = self.transform(self.images[i]), i % 2
        return {"image": image, "label": label} if self.names else (image, label)


def fit(
    module: LightningModule,
    dataset: Dataset[Any],
    root: Path,
    callbacks: Sequence[Any],
    logger: Logger | bool = False,
    held_out: Dataset[Any] | None = None,
    **flags: Any,
) -> Trainer:
    """Six epochs of three steps, with a checkpoint after three of them."""
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    trainer = Trainer(
        max_epochs=6,
        num_sanity_val_steps=0,
        default_root_dir=root,
        callbacks=list(callbacks),
        logger=logger,
        **quiet | flags,
    )
    loader = DataLoader(dataset, batch_size=2, shuffle=True)
    trainer.fit(module, loader, None if held_out is None else DataLoader(held_out, batch_size=2))
    return trainer


def saving(root: Path, **flags: Any) -> ModelCheckpoint:
    return ModelCheckpoint(root / "saved", every_n_epochs=3, save_top_k=-1, **flags)


def results(folder: Path, method: str = "rowspace") -> dict[int, dict[str, Any]]:
    """What metrics.json holds, by step."""
    files = sorted(folder.glob(f"recon/{method}/step=*/metrics.json"))
    return {int(file.parent.name[5:]): json.loads(file.read_text()) for file in files}


@pytest.mark.parametrize("adam", [False, pytest.param(True, marks=pytest.mark.long)])
def test_training_is_the_same_with_it_and_the_images_come_back(tmp_path: Path, adam: bool) -> None:
    images = Images(N + 2)
    inside, outside = Subset(images, range(N)), Subset(images, range(N, N + 2))
    ended = []
    for with_it in (False, True):
        seed_everything(0, verbose=False)
        module, root = PlainMLP(adam=adam), tmp_path / str(with_it)
        # The attack is listed first, so that it has to wait for the callback that saves.
        audit = (
            [ReconstructionCallback(max_seconds=9, folder=tmp_path / "found")] if with_it else []
        )
        logger = CSVLogger(root)
        fit(module, inside, root, [*audit, saving(root)], logger, outside)
        ended.append({**module.state_dict(), "random": torch.get_rng_state()})
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    found = results(tmp_path / "found")
    assert list(found) == [9, 18]
    for step in found.values():
        assert step["exact_fraction"] == (0 if adam else 1)
        assert step["n"] == N
        assert step["null_good_fraction"] is not None  # against the validation set
    assert (tmp_path / "found" / "report.html").is_file()
    (metrics,) = tmp_path.glob("True/lightning_logs/version_0/metrics.csv")
    assert "recon/rowspace/exact_fraction" in metrics.read_text().splitlines()[0]
    assert found[18]["knows"][1] == "first layer at an earlier checkpoint"
    if not adam:  # all images are back, and no other method could add any
        assert not results(tmp_path / "found", "rowspace_final")


def test_layers_are_found_in_the_order_in_which_inputs_meet_them(tmp_path: Path) -> None:
    seed_everything(1, verbose=False)
    audit = ReconstructionCallback(folder=tmp_path / "found")
    fit(DenseResNet(), Images(N, names=True), tmp_path, [saving(tmp_path), audit])
    assert results(tmp_path / "found")[18]["exact_fraction"] == 1


@pytest.mark.parametrize("convolution", [False, True])
def test_a_patch_embedding_gives_patches_of_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], convolution: bool
) -> None:
    seed_everything(1, verbose=False)
    audit = ReconstructionCallback(folder=tmp_path / "found", max_seconds=9)
    module = PatchModel(16, 8, convolution=convolution)
    fit(module, Images(4, size=16), tmp_path, [saving(tmp_path), audit])
    told = capsys.readouterr().out
    assert "attractors does not apply" in told
    assert "patches of 3x8x8, 4 in an image, which are attacked as small images" in told
    found = results(tmp_path / "found" / "patches")[12]
    assert (found["n"], found["exact_fraction"], found["certified_fraction"]) == (16, 1, 1)
    assert (tmp_path / "found" / "patches" / "report.html").is_file()


def test_patches_that_a_change_cannot_hold_do_not_come_back(tmp_path: Path) -> None:
    seed_everything(1, verbose=False)  # 24 patches of 48 values, some of them nearly alike
    audit = ReconstructionCallback(folder=tmp_path / "found", max_seconds=5)
    trainer = fit(PatchModel(), Images(N), tmp_path, [saving(tmp_path), audit])
    assert trainer.global_step == 18
    for found in results(tmp_path / "found" / "patches").values():
        assert (found["status"], found["certified_fraction"]) == ("imprecise", None)


@pytest.mark.parametrize(
    "flags",
    [
        {"plugins": [AsyncCheckpointIO()]},
        {"accumulate_grad_batches": 3},
        # Gradients are rounded to 8 bits, which leaves no lattice.
        {"precision": "bf16-mixed"},
    ],
    ids=["async", "accumulated", "bf16"],
)
def test_any_way_of_training_and_saving(tmp_path: Path, flags: dict[str, Any]) -> None:
    seed_everything(2, verbose=False)
    method = RowSpaceReconstructor(separation="lattice")
    audit = ReconstructionCallback(method, max_seconds=5, folder=tmp_path / "found")
    last = saving(tmp_path, save_weights_only=True)
    trainer = fit(PlainMLP(), Images(N), tmp_path, [audit, last], **flags)
    found = results(tmp_path / "found")
    assert max(found) == trainer.global_step
    assert found[max(found)]["exact_fraction"] == (0 if "precision" in flags else 1)


def test_tensorboard_gets_numbers_and_the_picture(tmp_path: Path) -> None:
    reason = "TensorBoard is not installed"
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    seed_everything(0, verbose=False)
    audit = ReconstructionCallback(folder=tmp_path / "found")
    logger = TensorBoardLogger(tmp_path, name="board", version="one")
    fit(PlainMLP(), Images(N), tmp_path, [saving(tmp_path), audit], logger)
    events = reader.EventAccumulator(str(tmp_path / "board" / "one"))
    events.Reload()
    shares = events.Scalars("recon/rowspace/exact_fraction")
    assert [(event.step, event.value) for event in shares] == [(9, 1.0), (18, 1.0)]
    assert [event.step for event in events.Images("recon/rowspace/grid")] == [9, 18]


def test_without_scores_the_data_stay_unread_and_certificates_speak(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    audit = ReconstructionCallback(RowSpaceReconstructor(), folder=tmp_path / "a", score=False)
    fit(PlainMLP(), Images(N), tmp_path, [saving(tmp_path), audit])
    found = results(tmp_path / "a")[18]
    assert (found["n"], found["exact_fraction"], found["certified_fraction"]) == (None, None, 1)
    assert "number of training samples" not in found["knows"]
    kept = load_file(
        tmp_path / "a" / "recon" / "rowspace" / "step=00000018" / "candidates.safetensors"
    )
    truth = torch.stack([torch.as_tensor(i).permute(2, 0, 1) for i in Images(N).images])
    back = {image.numpy().tobytes() for image in kept["images"]}
    assert back == {image.numpy().tobytes() for image in truth}
    assert not (tmp_path / "a" / "data.safetensors").exists()


class TwoInputs(PlainMLP):
    """Its forward pass cannot be run on an image alone."""

    def forward(self, x: Tensor, twice: Tensor | None = None) -> Tensor:
        assert twice is not None
        return self.net(x) * twice

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self(images, torch.tensor(2.0)), labels)


def test_a_method_without_its_facts_leaves_the_training_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed_everything(0, verbose=False)
    audit = ReconstructionCallback(folder=tmp_path / "found", score=False, max_seconds=1)
    trainer = fit(PlainMLP(adam=True), Images(N), tmp_path, [saving(tmp_path), audit])
    assert trainer.global_step == 18
    told = capsys.readouterr().out
    assert told.count("projection does not apply, it needs: number of training samples") == 1


def test_a_module_that_takes_more_than_an_image_gives_its_first_layer(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    audit = ReconstructionCallback(folder=tmp_path / "found")
    fit(TwoInputs(), Images(N), tmp_path, [saving(tmp_path), audit])
    assert results(tmp_path / "found")[18]["exact_fraction"] == 1


def test_a_pixel_scale_is_taken_where_no_transform_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Images(N)
    x = torch.stack([images[i][0] for i in range(N)])
    data = TensorDataset(x, torch.arange(N) % 2)
    scales: dict[str, PixelScale | None] = {
        "without": None,
        "with": ChannelScale.of((3, 8, 8), MEAN, STD),
    }
    scales["wrong"] = PixelScale((3, 8, 8), 0.5, 0.3)
    for name, pixels in scales.items():
        seed_everything(0, verbose=False)
        audit = ReconstructionCallback("RowSpaceReconstructor", pixels, folder=tmp_path / name)
        fit(PlainMLP(), data, tmp_path, [saving(tmp_path), audit])
        told = capsys.readouterr().out
        assert ("pixel scale is not known" in told) == (name == "without")
        assert ("no whole pixels" in told) == (name == "wrong")
        found = results(tmp_path / name)[18]
        assert (found["certified_fraction"] == 1) == (name == "with")


def test_what_cannot_be_attacked_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method Wizard: there are RowSpaceReconstructor, "):
        ReconstructionCallback("Wizard")
    with pytest.raises(InputError, match="max_seconds 0: give seconds above 0"):
        ReconstructionCallback(max_seconds=0)
    sharded: Any = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    with pytest.raises(InputError, match="with FSDPStrategy: may keep weights in parts"):
        ReconstructionCallback().setup(sharded, PlainMLP(), "fit")
    wrong = ReconstructionCallback(pixels=PixelScale((3, 4, 4), 0.5, 0.5), folder=tmp_path)
    with pytest.raises(InputError, match=r"are of the shape \[3, 4, 4\], and an input is"):
        fit(PlainMLP(), Images(N), tmp_path, [saving(tmp_path), wrong])
    named = ReconstructionCallback("AttractorReconstructor", folder=tmp_path / "attractors")
    with pytest.raises(InputError, match="needs a network whose output is as large"):
        fit(PlainMLP(), Images(N), tmp_path, [saving(tmp_path), named])


def test_truth_needs_samples_that_stay_as_they_are() -> None:
    scale = ChannelScale.of((3, 8, 8), MEAN, STD)
    truth, why = truth_of(Images(4), [Images(2)], scale)
    assert truth is not None and why == ""
    assert truth.images is not None and len(truth.held_out) == 2
    assert truth.names == ["0", "1", "0", "1"]
    seed_everything(0, verbose=False)
    before = torch.get_rng_state()
    assert (
        truth_of(Images(12, flip=True), [], scale)[1] == "transforms change its samples at random"
    )
    assert torch.equal(before, torch.get_rng_state())
    texts: Any = ["no", "tensors"]
    assert truth_of(texts, [], None)[1] == "its samples are no tensors of one shape"
    assert truth_of(TensorDataset(torch.zeros(2001, 3)), [], None)[1].endswith("more than 2000")
    assert truth_of(iter(()), [], None)[1] == "the training set has no length"


SHAPE = (3, 8, 8)
TWICE = [ToTensor(), Normalize([0.5] * 3, [0.5] * 3), Normalize([0.2] * 3, [2.0] * 3)]


@pytest.mark.parametrize(
    ("chain", "scale"),
    [
        (Compose([ToTensor()]), PixelScale(SHAPE, 0.0, 1.0)),
        (ToTensor(), PixelScale(SHAPE, 0.0, 1.0)),
        (Compose([Resize(8), ToTensor(), Normalize(0.5, 0.5)]), PixelScale(SHAPE, 0.5, 0.5)),
        (Compose(TWICE), PixelScale(SHAPE, 0.6, 1.0)),
        (
            v2.Compose(
                [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
            ),
            ChannelScale.of(SHAPE, MEAN, STD),
        ),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), None),
        (Compose([ToTensor(), Resize(8)]), None),
        (Compose([ToTensor(), Lambda(torch.sqrt)]), None),
        (Normalize(0.5, 0.5), None),
        (None, None),
    ],
)
def test_scales_of_transforms(chain: Any, scale: PixelScale | None) -> None:
    assert scale_of(chain, SHAPE) == scale


def test_a_flat_input_has_no_scale_and_a_subset_has_that_of_its_set() -> None:
    assert scale_of(ToTensor(), (192,)) is None
    images = Images(2)
    assert transform_of(Subset(images, [0])) is images.transform
    assert transform_of(torch.utils.data.ConcatDataset([images, images])) is images.transform
    assert transform_of(TensorDataset(torch.zeros(2))) is None


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_end_with_the_same_results(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "from pathlib import Path\n"
        "from lightning import seed_everything\n"
        "from tests.test_anybody import *\n"
        "if __name__ == '__main__':\n"
        "    seed_everything(0, verbose=False)\n"
        "    audit = ReconstructionCallback('RowSpaceReconstructor', folder='found')\n"
        "    two = {'devices': 2, 'strategy': 'ddp'}\n"
        "    data = Images(N, names=True)\n"
        "    fit(DenseResNet(), data, Path('.'), [saving(Path('.')), audit], **two)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "two.py"]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    found = results(tmp_path / "found")
    assert list(found) == [6, 12]  # half as many steps
    assert found[12]["exact_fraction"] == 1
    assert ended.stdout.count("step 12, rowspace") == 1
