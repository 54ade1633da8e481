"""What the data modules promise, on photographs, small folders and a CIFAR-10 of ten images."""

from __future__ import annotations

import hashlib
import pickle
import re
import socket
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from datamodules import (
    MNIST,
    CIFAR10Subset,
    Digits,
    ImageFolderSubset,
    Photos,
    ReconDataModule,
    Sphere,
    downloads,
)
from datamodules import cifar as cifar_file
from datamodules import digits as digits_file
from datamodules import images as images_file
from lit_recon.errors import InputError
from lit_recon.knowledge import ChannelScale
from lit_recon.metrics.certificate import certify
from lit_recon.records.directory import RunDirectory
from lit_recon.records.truth import Truth


def ready(data: ReconDataModule) -> ReconDataModule:
    data.setup()
    return data


def pixels_of(data: ReconDataModule) -> torch.Tensor:
    """Integer pixels from standardised inputs, by the formula of PixelScale alone."""
    assert data.pixels is not None
    return ((data.x * data.pixels.std + data.pixels.mean) * 255).round().to(torch.uint8)


def picture(seed: int, size: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def write_folder(root: Path, counts: dict[str, int], size: tuple[int, ...] = (8, 8, 3)) -> Path:
    """ROOT/CLASS/1.png, 2.png, ...; every picture different, and grey where size has two sides."""
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(1, count + 1):
            array = picture(1000 * c + number, size)
            Image.fromarray(array).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", {"cat": 12, "dog": 11, "eel": 4})


# --- what all of them promise ---


@pytest.mark.parametrize(
    "data", [Photos(n=4, n_val=3), Sphere(n=4, d=7, n_val=3)], ids=["images", "vectors"]
)
def test_attributes_agree_with_each_other(data: ReconDataModule) -> None:
    ready(data)
    assert data.x.shape == (4, *data.input_shape) and data.x.dtype == torch.float32
    assert data.y.shape == (4, data.k) and data.y.dtype == torch.float32
    assert data.val_x.shape == (3, *data.input_shape)
    assert data.val_y.shape == (3, data.k)
    assert data.d == data.x[0].numel()
    assert len(set(data.indices)) == 4
    if data.images is None:
        assert data.pixels is None and data.class_names == [] and len(data.labels) == 0
    else:
        assert data.images.dtype == torch.uint8 and data.images.shape == data.x.shape
        assert data.val_images is not None and data.val_images.shape == data.val_x.shape


def test_second_setup_loads_nothing() -> None:
    data = ready(Photos(n=2))
    first = data.x
    data.setup("fit")
    assert data.x is first


def test_full_batch_is_everything_in_order_and_draws_from_no_global_generator() -> None:
    data = ready(Photos(n=6))
    before = torch.get_rng_state()
    batches = data.train_dataloader()
    for _ in range(2):
        ((x, y, samples),) = batches
        assert torch.equal(x, data.x) and torch.equal(y, data.y)
        assert x.data_ptr() == data.x.data_ptr()  # nothing is copied
        assert samples == slice(0, 6)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "module", [Photos, CIFAR10Subset, Digits, MNIST, ImageFolderSubset, Sphere]
)
def test_every_flag_has_a_help_text(module: type[ReconDataModule]) -> None:
    parser = ArgumentParser()
    flags = parser.add_class_arguments(module, "data")
    helps = {action.dest: action.help for action in parser._actions}
    assert len(flags) >= 6
    assert [flag for flag in flags if not helps[flag]] == []


# --- the road of all images ---


@pytest.mark.parametrize("image_size", [32, 8])
def test_inputs_give_back_the_exact_pixels(image_size: int) -> None:
    data = ready(Photos(n=8, image_size=image_size))
    assert data.images is not None
    assert data.input_shape == (3, image_size, image_size)
    assert torch.equal(pixels_of(data), data.images)


def test_standardised_by_one_mean_and_one_unbiased_std() -> None:
    data = ready(Photos(n=6))
    assert data.pixels is not None and data.images is not None and data.val_images is not None
    values = data.images.double() / 255
    assert data.pixels.mean == pytest.approx(values.mean().item(), rel=1e-12)
    assert data.pixels.std == pytest.approx(values.numpy().std(ddof=1), rel=1e-12)
    assert data.pixels.shape == data.input_shape and data.radius is None
    assert data.x.double().mean().abs() < 1e-6 and abs(data.x.double().std() - 1) < 1e-6
    expected = (data.val_images.double() / 255 - data.pixels.mean) / data.pixels.std
    assert torch.equal(data.val_x, expected.float())


def test_sphere_changes_norms_and_nothing_else() -> None:
    plain, sphere = ready(Photos(n=6)), ready(Photos(n=6, normalize="sphere"))
    assert sphere.radius == pytest.approx(sphere.d**0.5)
    for x in (sphere.x, sphere.val_x):
        torch.testing.assert_close(x.flatten(1).norm(dim=1), torch.full((6,), sphere.d**0.5))
    cosines = torch.cosine_similarity(plain.x.flatten(1), sphere.x.flatten(1))
    torch.testing.assert_close(cosines, torch.ones(6))
    assert sphere.pixels == plain.pixels


def test_mean_image_is_subtracted_and_nothing_divided() -> None:
    data = ready(Photos(n=6, image_size=8, normalize="mean_image"))
    assert data.images is not None and data.val_images is not None and data.pixels is not None
    mean = (data.images.double() / 255).mean(0)
    torch.testing.assert_close(data.pixels.mean, mean)
    assert data.pixels.std == 1 and data.pixels.shape == data.input_shape and data.radius is None
    torch.testing.assert_close(data.x, (data.images.double() / 255 - mean).float())
    torch.testing.assert_close(data.val_x, (data.val_images.double() / 255 - mean).float())
    assert torch.equal(pixels_of(data), data.images)
    assert data.x.double().sum(0).abs().max() < 1e-6


@pytest.mark.parametrize("norm", [None, 5.0])
def test_norm_scales_all_images_by_one_number(norm: float | None) -> None:
    data = ready(Photos(n=6, image_size=8, normalize="norm", norm=norm))
    assert data.images is not None and data.pixels is not None and data.radius is None
    norms = data.x.double().flatten(1).norm(dim=1)
    assert (
        norms.max() == pytest.approx(32.0 if norm is None else norm) and norms.min() < norms.max()
    )
    grey = data.images.double() / 255 - 0.501
    scale = norms.max() / grey.flatten(1).norm(dim=1).max()
    torch.testing.assert_close(data.x, (scale * grey).float())
    assert data.pixels.mean == 0.501 and data.pixels.std == pytest.approx(float(1 / scale))
    assert torch.equal(pixels_of(data), data.images)
    # An image and its negative are told apart.
    signs = torch.tensor([1, -1, 1, -1, 1, -1])[:, None]
    found = certify(signs * data.x.flatten(1), data.pixels, both_signs=True)
    assert found.accepted.all() and torch.equal(found.sign, signs[:, 0].double())
    assert torch.equal(found.images, data.images)


def test_a_mean_image_that_leaves_a_zero_input_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"only": 1})
    one = ImageFolderSubset(n=1, root=str(root), normalize="mean_image")
    refused(one, "--data.n", "is the mean of all 1.*take more")
    for number, level in ((1, 8), (2, 9), (3, 10)):
        Image.fromarray(np.full((4, 4), level, dtype=np.uint8)).save(
            root / "only" / f"{number}.png"
        )
    middle = ImageFolderSubset(n=3, root=str(root), normalize="mean_image")
    refused(middle, "--data.n", "is the mean of all 3")
    ready(ImageFolderSubset(n=2, root=str(root), normalize="mean_image"))


@pytest.mark.parametrize("normalize", ["standardize", "mean_image", "norm"])
def test_the_scale_comes_back_from_a_run_directory(tmp_path: Path, normalize: str) -> None:
    data = ready(Photos(n=4, image_size=8, normalize=normalize))  # type: ignore[arg-type]
    Truth.of(data).write(RunDirectory(tmp_path))
    assert Truth.read(tmp_path).pixels == data.pixels
    with safe_open(tmp_path / "data.safetensors", framework="pt") as file:
        assert ("mean_image" in file.keys()) == (normalize == "mean_image")  # noqa: SIM118


def test_a_mean_image_of_another_size_is_refused(tmp_path: Path) -> None:
    data = ready(Photos(n=4, image_size=8, normalize="mean_image"))
    Truth.of(data).write(RunDirectory(tmp_path))
    file = tmp_path / "data.safetensors"
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        facts = opened.metadata()
    save_file(tensors | {"mean_image": tensors["mean_image"][:, :4, :4].clone()}, file, facts)
    with pytest.raises(InputError, match=r"cannot be read \(the mean image must be \(3, 8, 8\)"):
        Truth.read(tmp_path)


def test_a_scale_for_each_channel_comes_back_from_a_run_directory(tmp_path: Path) -> None:
    truth = Truth.of(ready(Photos(n=4, image_size=8)))
    scale = ChannelScale.of((3, 8, 8), [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    replace(truth, pixels=scale).write(RunDirectory(tmp_path))
    assert Truth.read(tmp_path).pixels == scale


def test_down_sampling_averages_squares_and_rounds_halves_up(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"only": 1})
    array = np.zeros((4, 4), dtype=np.uint8)
    array[:2, :2] = [[1, 0], [0, 1]]  # mean 0.5
    array[:2, 2:] = [[1, 0], [0, 0]]  # mean 0.25
    array[2:, 2:] = 255
    Image.fromarray(array).save(root / "only" / "1.png")
    data = ready(ImageFolderSubset(n=1, root=str(root), image_size=2))
    assert data.images is not None
    assert data.images.tolist() == [[[[1, 0], [0, 255]]]]


def test_two_classes_give_signs_and_others_one_hot(folder: Path) -> None:
    two = ready(ImageFolderSubset(n=4, root=str(folder), classes=["dog", "cat"], n_val=3))
    assert two.y.tolist() == [[-1], [-1], [1], [1]]
    assert two.val_y.tolist() == [[-1], [-1], [1]]  # the odd one goes to the first class
    assert two.labels.tolist() == [0, 0, 1, 1] and two.class_names == ["dog", "cat"]
    three = ready(ImageFolderSubset(n=6, root=str(folder)))
    assert three.class_names == ["cat", "dog", "eel"] and three.k == 3
    assert torch.equal(three.y, torch.eye(3).repeat_interleave(2, dim=0))
    one = ready(ImageFolderSubset(n=3, root=str(folder), classes=["cat"]))
    assert one.k == 1 and one.y.tolist() == [[1], [1], [1]]


def test_random_selection_is_fixed_by_its_seed() -> None:
    first, again = (ready(Photos(selection="random", seed=3)) for _ in range(2))
    other = ready(Photos(selection="random", seed=4))
    assert first.indices == again.indices and torch.equal(first.x, again.x)
    assert first.indices != other.indices
    assert ready(Photos(selection="random", seed=3, n_val=50)).indices == first.indices


# --- Photos ---


def test_photos_train_above_and_hold_out_below() -> None:
    data = ready(Photos(n=286, n_val=146))
    source = data.source()  # type: ignore[attr-defined]
    assert {name: len(pool) for name, pool in source.train.items()} == {"china": 143, "flower": 178}
    assert {name: len(pool) for name, pool in source.val.items()} == {"china": 80, "flower": 73}
    rows = [
        {index % 260 // 20 for pool in part.values() for index in pool}
        for part in (source.train, source.val)
    ]
    assert rows == [set(range(9)), set(range(9, 13))]
    assert data.images is not None and data.val_images is not None
    seen = {image.numpy().tobytes() for image in data.images}
    assert len(seen) == 286
    assert not seen & {image.numpy().tobytes() for image in data.val_images}


def test_photos_are_cut_where_their_indices_say() -> None:
    from sklearn.datasets import load_sample_image

    data = ready(Photos(n=4))
    assert data.images is not None
    for image, index, label in zip(data.images, data.indices, data.labels.tolist(), strict=True):
        assert index // 260 == label
        row, column = divmod(index % 260, 20)
        photo = load_sample_image(f"{data.class_names[label]}.jpg")
        patch = photo[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), patch)


def test_the_first_photos_are_detailed_and_apart() -> None:
    data = ready(Photos(n=10))
    assert data.images is not None
    assert data.images.float().flatten(1).std(dim=1).min() > 20
    for chosen in (data.indices[:5], data.indices[5:]):
        places = torch.tensor([divmod(index % 260, 20) for index in chosen]).float()
        assert torch.pdist(places).min() >= 2
    assert ready(Photos(n=20)).indices[:5] == data.indices[:5]  # more photos keep the first ones


def test_class_order_is_the_given_one() -> None:
    data = ready(Photos(n=2, classes=["flower", "china"]))
    assert data.class_names == ["flower", "china"]
    assert [index // 260 for index in data.indices] == [1, 0]


# --- ImageFolderSubset ---


def test_folder_takes_files_in_natural_order_and_holds_out_the_next(folder: Path) -> None:
    data = ready(ImageFolderSubset(n=20, root=str(folder), classes=["cat", "dog"], n_val=3))
    assert data.images is not None and data.val_images is not None
    assert data.indices == [*range(10), *range(12, 22)]
    for place, number in ((0, 1), (1, 2), (9, 10)):  # 2.png before 10.png
        expected = np.asarray(Image.open(folder / "cat" / f"{number}.png"))
        assert np.array_equal(data.images[place].permute(1, 2, 0).numpy(), expected)
    held_out = [folder / "cat" / "11.png", folder / "cat" / "12.png", folder / "dog" / "11.png"]
    for image, path in zip(data.val_images, held_out, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))


def test_folder_holds_out_all_that_is_left_by_default(folder: Path) -> None:
    data = ready(ImageFolderSubset(n=6, root=str(folder), classes=["eel", "cat"]))
    assert len(data.val_x) == 4  # one eel and three cats
    assert data.val_y.flatten().tolist() == [-1, 1, 1, 1]


@pytest.mark.parametrize("part", ["test", "val"])
def test_folder_with_parts_holds_out_from_the_second(tmp_path: Path, part: str) -> None:
    write_folder(tmp_path / "train", {"a": 3, "b": 3})
    write_folder(tmp_path / part, {"a": 2, "b": 2})
    Image.fromarray(picture(77)).save(tmp_path / part / "b" / "0.png")
    data = ready(ImageFolderSubset(n=6, root=str(tmp_path), n_val=4))
    assert data.class_names == ["a", "b"] and data.val_images is not None
    assert np.array_equal(data.val_images[2].permute(1, 2, 0).numpy(), picture(77))


def test_folder_reads_only_what_it_needs(folder: Path) -> None:
    (folder / "cat" / "12.png").write_bytes(b"no picture")
    (folder / "cat" / "notes.txt").write_text("no picture either")
    assert len(ready(ImageFolderSubset(n=4, root=str(folder), classes=["cat", "dog"])).x) == 4


def test_grey_folder_has_one_channel_until_a_colour_image_comes(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 3, "b": 3}, size=(8, 6))
    assert ready(ImageFolderSubset(n=4, root=str(root))).input_shape == (1, 8, 6)
    Image.fromarray(picture(5, (8, 6, 3))).save(root / "b" / "1.png")
    mixed = ready(ImageFolderSubset(n=4, root=str(root)))
    assert mixed.input_shape == (3, 8, 6) and mixed.images is not None
    assert torch.equal(mixed.images[0, 0], mixed.images[0, 2])  # grey, in three channels


def test_width_follows_height(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 2}, size=(8, 12, 3))
    assert ready(ImageFolderSubset(n=2, root=str(root), image_size=4)).input_shape == (3, 4, 6)


# --- CIFAR10Subset ---


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive like CIFAR-10's of a frog and a truck in each of six files; returns its path."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "made" / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name: str, seed: int) -> list[str]:
        return write(name, {"data": picture(seed, (2, 3072)), "labels": [6, 9]})

    train = [batch(f"data_batch_{number}", number) for number in range(1, 6)]
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 6)])
    name, md5 = write("batches.meta", {"label_names": cifar_file.CLASSES})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    archive = tmp_path / "made" / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def test_cifar_from_an_archive_in_root(tiny_cifar: Path) -> None:
    data = ready(CIFAR10Subset(n=4, root=str(tiny_cifar.parent), download=False))
    assert data.indices == [0, 2, 1, 3] and data.class_names == ["frog", "truck"]
    assert data.y.flatten().tolist() == [-1, -1, 1, 1] and data.images is not None
    assert np.array_equal(data.images[0].numpy().reshape(-1), picture(1, (2, 3072))[0])
    assert data.val_images is not None and len(data.val_images) == 2
    assert np.array_equal(data.val_images[1].numpy().reshape(-1), picture(6, (2, 3072))[1])
    assert torch.equal(pixels_of(data), data.images)


@pytest.fixture
def mirror(tiny_cifar: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the tiny archive on a web server of this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=tiny_cifar.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{tiny_cifar.name}"
        server.shutdown()


def test_cifar_downloads_from_a_mirror_and_mends_what_is_broken(
    mirror: str, tmp_path: Path
) -> None:
    root = tmp_path / "new"
    (root / "cifar-10-batches-py").mkdir(parents=True)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half a file")
    (root / "cifar-10-python.tar.gz").write_bytes(b"half an archive")
    data = ready(CIFAR10Subset(n=10, root=str(root), url=mirror))
    assert len(data.x) == 10
    again = ready(CIFAR10Subset(n=10, root=str(root), download=False))
    assert torch.equal(again.x, data.x)
    assert not list(root.glob("download-*")) and not list(root.glob("unpack-*"))


def test_cifar_refuses_an_archive_with_another_checksum(
    mirror: str, tiny_cifar: Path, tmp_path: Path
) -> None:
    tiny_cifar.write_bytes(b"something else")
    root = tmp_path / "new"
    with pytest.raises(InputError, match="fetching it failed") as caught:
        CIFAR10Subset(root=str(root), url=mirror).setup()
    assert caught.value.flag == "--data.root"
    assert list(root.iterdir()) == []


def test_cifar_without_network_says_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cifar-10-python.tar.gz"
        with pytest.raises(InputError) as caught:
            CIFAR10Subset(root=str(tmp_path), url=url).prepare_data()
    message = str(caught.value)
    assert caught.value.flag == "--data.root" and "\n" not in message
    for remedy in ("cifar-10-python.tar.gz", "--data.url", "ImageFolderSubset", "Photos"):
        assert remedy in message
    assert socket.getdefaulttimeout() is None and list(tmp_path.iterdir()) == []


# --- Sphere ---


def test_sphere_points_have_norm_root_d() -> None:
    data = ready(Sphere(n=20, d=50, n_val=7))
    assert data.radius == pytest.approx(50**0.5) and data.input_shape == (50,) and data.k == 1
    for x in (data.x, data.val_x):
        torch.testing.assert_close(x.norm(dim=1), torch.full((len(x),), 50**0.5))


def test_without_noise_one_direction_explains_all_targets() -> None:
    data = ready(Sphere(n=40, d=10, noise=0.0, n_val=15))
    direction = torch.linalg.lstsq(data.x.double(), data.y.double()).solution
    torch.testing.assert_close(
        data.val_x.double() @ direction, data.val_y.double(), atol=1e-5, rtol=0
    )


def test_noise_has_the_stated_size() -> None:
    clean, noisy = (ready(Sphere(n=4000, d=10, noise=noise)) for noise in (0.0, 0.5))
    assert torch.equal(clean.x, noisy.x)
    assert (noisy.y - clean.y).std().item() == pytest.approx(0.5, rel=0.05)
    assert clean.y.std().item() == pytest.approx(1, rel=0.6)  # ||G||, which is random


def test_sphere_is_fixed_by_its_seed_and_not_by_n_val() -> None:
    first, again = ready(Sphere(seed=1)), ready(Sphere(seed=1, n_val=3))
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert not torch.equal(first.x, ready(Sphere(seed=2)).x)
    assert not torch.equal(first.x, first.val_x)


# --- one line for every bad input ---

BAD_ARGUMENTS = [
    (Photos, {"n": 0}, "--data.n", "at least 1"),
    (Photos, {"n": 5}, "--data.n", "among 2 classes; give 4 or 6"),
    (Photos, {"n": 1}, "--data.n", "give 2"),
    (Photos, {"n_val": -1}, "--data.n_val", "at least 0"),
    (Photos, {"seed": -1}, "--data.seed", "at least 0"),
    (Photos, {"batch_size": 0}, "--data.batch_size", "at least 1"),
    (Photos, {"classes": ["china", "moon"]}, "--data.classes", "moon.*china, flower"),
    (Photos, {"classes": []}, "--data.classes", "at least one class"),
    (Photos, {"classes": ["china", "china"]}, "--data.classes", "once"),
    (Photos, {"image_size": 12}, "--data.image_size", "32, 16, 8, 4, 2, 1"),
    (Photos, {"image_size": 0}, "--data.image_size", "32 by 32"),
    (Photos, {"selection": "last"}, "--data.selection", "first or random"),
    (Photos, {"normalize": "minmax"}, "--data.normalize", "norm or raw"),
    (Photos, {"norm": 8.0}, "--data.norm", "needs --data.normalize norm, mean_image, raw"),
    (Photos, {"normalize": "norm", "norm": 0.0}, "--data.norm", "above 0"),
    (Photos, {"normalize": "norm", "norm": float("nan")}, "--data.norm", "above 0"),
    (CIFAR10Subset, {"n": 11, "classes": None}, "--data.n", "among 10 classes; give 10 or 20"),
    (CIFAR10Subset, {"classes": ["frog", "unicorn"]}, "--data.classes", "unicorn.*airplane"),
    (CIFAR10Subset, {"image_size": 64}, "--data.image_size", "32, 16"),
    (CIFAR10Subset, {"url": "my mirror"}, "--data.url", "https://"),
    (ImageFolderSubset, {}, "--data.root", "needs it"),
    (Sphere, {"n": 0}, "--data.n", "at least 1"),
    (Sphere, {"d": 0}, "--data.d", "at least 1"),
    (Sphere, {"noise": -0.1}, "--data.noise", "at least 0"),
    (Sphere, {"noise": float("nan")}, "--data.noise", "at least 0"),
    (Sphere, {"noise": float("inf")}, "--data.noise", "at least 0"),
]


@pytest.mark.parametrize(("module", "arguments", "flag", "says"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused_at_once(
    module: type[ReconDataModule], arguments: dict, flag: str, says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        module(**arguments)
    assert caught.value.flag == flag and "\n" not in str(caught.value)


def refused(data: ReconDataModule, flag: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        data.setup()
    assert caught.value.flag == flag and "\n" not in str(caught.value)


def test_more_images_than_a_class_holds() -> None:
    refused(Photos(n=288), "--data.n", "class china holds 143 images, not 144")
    refused(Photos(n_val=152), "--data.n_val", "class flower has 73 images")


def test_bad_folders_are_refused(tmp_path: Path, folder: Path) -> None:
    refused(ImageFolderSubset(root=str(tmp_path / "none")), "--data.root", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(ImageFolderSubset(root=str(tmp_path / "empty")), "--data.root", "no class folder")
    refused(ImageFolderSubset(root=str(folder / "cat")), "--data.root", "no class folder")
    refused(ImageFolderSubset(root=str(folder)), "--data.n", "among 3 classes; give 9 or 12")
    refused(ImageFolderSubset(n=15, root=str(folder)), "--data.n", "class eel holds 4 images")
    refused(ImageFolderSubset(n=3, root=str(folder), n_val=30), "--data.n_val", "eel has 3 images")
    unknown = ImageFolderSubset(root=str(folder), classes=["cow", "cat"])
    refused(unknown, "--data.classes", "cow.*cat, dog, eel")
    uneven = ImageFolderSubset(n=3, root=str(folder), image_size=3)
    refused(uneven, "--data.image_size", "8 by 8 pixels; give one of 8, 4, 2, 1")


def test_unknown_class_names_at_most_ten(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {f"class{number}": 1 for number in range(12)}, size=(2, 2))
    with pytest.raises(InputError) as caught:
        ImageFolderSubset(root=str(root), classes=["cat"], n=1).setup()
    assert "class9, ..." in str(caught.value) and "class10" not in str(caught.value)


def test_bad_files_are_named(folder: Path) -> None:
    file = folder / "cat" / "2.png"
    named = re.escape(str(file))
    data = dict(n=4, root=str(folder), classes=["cat", "dog"], n_val=0)
    whole = file.read_bytes()
    for content in (b"no picture", whole[:-40]):
        file.write_bytes(content)
        refused(ImageFolderSubset(**data), "--data.root", f"{named}.*cannot be read")  # type: ignore[arg-type]
    Image.fromarray(picture(1, (9, 8, 3))).save(file)
    refused(ImageFolderSubset(**data), "--data.root", f"{named}.*8 by 9 pixels.*1.png has 8 by 8")  # type: ignore[arg-type]
    Image.fromarray(np.full((8, 8), 1000, dtype=np.uint16)).save(file)
    refused(ImageFolderSubset(**data), "--data.root", f"{named}.*more than 8 bits")  # type: ignore[arg-type]


def test_images_without_contrast_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 9, dtype=np.uint8)).save(tmp_path / "a" / "1.png")
    refused(ImageFolderSubset(n=1, root=str(tmp_path)), "--data.n", "pixels .* are the same")
    Image.fromarray(np.full((4, 4), 8, dtype=np.uint8)).save(tmp_path / "a" / "2.png")
    Image.fromarray(np.full((4, 4), 10, dtype=np.uint8)).save(tmp_path / "a" / "3.png")
    flat = ImageFolderSubset(n=3, root=str(tmp_path), normalize="sphere")
    refused(flat, "--data.normalize", "no direction")


# --- groups of classes ---


def numbered_folder(root: Path, order: str) -> Path:
    """Pictures whose names are numbered over all classes: the letters of `order` are classes."""
    for number, name in enumerate(order):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(root / name / f"{number}.png")
    return root


def test_groups_take_the_first_images_of_all_their_classes_in_file_order(tmp_path: Path) -> None:
    root = str(numbered_folder(tmp_path / "pictures", "abcdaabbccdd"))
    data = ready(ImageFolderSubset(n=6, root=root, groups=[["b", "a"], ["c", "d"]], n_val=2))
    assert data.class_names == ["b+a", "c+d"] and data.k == 1
    assert data.y.flatten().tolist() == [-1, -1, -1, 1, 1, 1]
    assert data.images is not None and data.val_images is not None
    expected = [0, 1, 4, 2, 3, 8]  # numbers of the files
    assert np.array_equal(
        data.images.permute(0, 2, 3, 1).numpy(), np.stack([picture(number) for number in expected])
    )
    assert data.val_images.permute(0, 2, 3, 1).numpy().tolist() == [
        picture(number).tolist() for number in (5, 9)
    ]
    three = ready(ImageFolderSubset(n=3, root=root, groups=[["b"], ["a", "c"], ["d"]]))
    assert three.k == 3 and torch.equal(three.y, torch.eye(3))


def test_groups_of_a_source_without_an_order_take_turns() -> None:
    pools = {"a": [5, 1], "b": [9, 8, 7]}
    assert images_file._merged(pools, ["a", "b", "missing"], None) == [5, 9, 1, 8, 7]
    assert images_file._merged(pools, ["a", "b"], int) == [1, 5, 7, 8, 9]
    assert images_file._merged(pools, ["a"], int) == [5, 1]  # as without groups


def test_random_groups_draw_from_all_their_classes() -> None:
    data = ready(Digits(n=40, groups=[["zero", "two"], ["one"]], selection="random", seed=3))
    there = Digits(n=1797 // 10 * 10, n_val=0).source().train
    first = set(data.indices[:20])
    assert first <= set(there["zero"]) | set(there["two"])
    assert first & set(there["zero"]) and first & set(there["two"])


@pytest.mark.parametrize(
    ("groups", "classes", "words"),
    [
        ([["china"], ["flower"]], ["china", "flower"], "either this or --data.classes"),
        ([["china"]], None, "two groups or more"),
        ([["china"], []], None, "two groups or more"),
        ([["china", "flower"], ["flower"]], None, "flower: name every class once"),
        ([["china"], ["temple"]], None, "temple: no such class; there are china, flower"),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    groups: list[list[str]], classes: list[str] | None, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        ready(Photos(groups=groups, classes=classes))
    assert caught.value.flag == "--data.groups"


def test_n_divides_among_groups(tiny_cifar: Path) -> None:
    groups = [["frog", "truck"], ["cat"], ["dog"]]
    with pytest.raises(InputError, match="does not divide among 3 classes"):
        CIFAR10Subset(n=10, groups=groups, root=str(tiny_cifar.parent))
    data = CIFAR10Subset(n=4, groups=[["truck", "cat"], ["dog", "frog"]], download=False)
    data.root = str(tiny_cifar.parent)
    assert ready(data).indices == [1, 3, 0, 2]


# --- digits ---


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = ready(Digits(n=20))
    assert data.images is not None and data.input_shape == (1, 8, 8)
    assert data.class_names == digits_file.CLASSES and data.k == 10
    bunch = load_digits()
    assert bunch.target[data.indices].tolist() == [c for c in range(10) for _ in range(2)]
    grey = torch.from_numpy(bunch.images[data.indices])
    assert (data.images[:, 0] * (16 / 255)).round().equal(grey)
    assert int(data.images.max()) == 255
    assert torch.equal(pixels_of(data), data.images)


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    """A folder with files like MNIST's: ten training images and ten of the test split."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, part in enumerate(("train", "t10k")):
        images, labels = picture(seed, (10, 28, 28)), np.arange(10, dtype=np.uint8)
        head = b"\x00\x00\x08\x03" + np.array([10, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = b"\x00\x00\x08\x01" + np.array([10], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return tmp_path / "data"


def test_mnist_from_its_files(tiny_mnist: Path) -> None:
    groups = [digits_file.CLASSES[0::2], digits_file.CLASSES[1::2]]
    data = ready(MNIST(n=4, root=str(tiny_mnist), download=False, groups=groups))
    assert data.indices == [0, 2, 1, 3] and data.k == 1
    assert data.images is not None and data.val_images is not None
    assert np.array_equal(data.images[:, 0].numpy(), picture(0, (10, 28, 28))[[0, 2, 1, 3]])
    assert np.array_equal(data.val_images[:, 0].numpy(), picture(1, (10, 28, 28))[[0, 2, 1, 3]])


def test_mnist_that_is_missing_or_broken_says_what_would_do(
    tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    with pytest.raises(InputError, match=r"MNIST is not there; put train-images.*--data Digits"):
        ready(MNIST(root=str(tmp_path / "empty"), download=False))
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # refuses at once
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError, match="fetching it failed") as caught:
        ready(MNIST(root=str(tmp_path / "new")))
    assert caught.value.flag == "--data.root" and "\n" not in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []
    (tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be read"):
        ready(MNIST(root=str(tiny_mnist)))
