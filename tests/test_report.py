"""Figures: true pixels, sorted, counted, and drawn without pyplot."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from lit_recon.metrics import Certificates, SampleScore, score
from lit_recon.report.candidates import MOST, candidates_figure
from lit_recon.report.grid import (
    GAP,
    HEADER,
    LABELS,
    MARGIN,
    TILE,
    figure_to_uint8,
    overlay_figure,
    reconstruction_grid,
    save_png,
)


def random_images(n: int, channels: int = 3, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    shape = (n, channels, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def row(index: int, error: float | None, *, exact: bool = False) -> SampleScore:
    return SampleScore(
        index=index,
        candidate=None if error is None else index,
        sign=1,
        direction_error=error,
        matched_error=error,
        psnr=None,
        ssim=None,
        exact=exact,
        certified=exact,
        recovered=error is not None and error < 0.1,
    )


def tile(picture: np.ndarray, line: int, column: int, side: int) -> np.ndarray:
    """(side, side, 3), one pixel of the picture for each of the image's in a tile."""
    factor = round(TILE / side)
    top = HEADER + line * (side * factor + GAP) + factor // 2
    left = MARGIN + LABELS + column * (side * factor + GAP) + factor // 2
    return picture[top : top + side * factor : factor, left : left + side * factor : factor]


def rgb(image: Tensor) -> np.ndarray:
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_shows_true_pixels_sorted_by_error(channels: int) -> None:
    images = random_images(3, channels)
    found = images.clone()
    found[0] = 255 - found[0]
    found[2, :, 0, 0] ^= 1  # one level
    rows = [row(0, 1.5), row(1, 2e-6, exact=True), row(2, 0.01)]
    picture = figure_to_uint8(reconstruction_grid(images, found, rows, "title", amplify=4))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    for column, index in enumerate((1, 2, 0)):
        truth, back = rgb(images[index]), rgb(found[index])
        difference = np.abs(truth.astype(int) - back).clip(max=255 // 4 + 1) * 4
        np.testing.assert_array_equal(tile(picture, 0, column, 8), truth)
        np.testing.assert_array_equal(tile(picture, 1, column, 8), back)
        np.testing.assert_array_equal(tile(picture, 2, column, 8), difference.clip(0, 255))


def test_grid_says_what_it_shows() -> None:
    images = random_images(4)
    rows = [row(0, 0.3), row(1, 2.34e-6, exact=True), row(2, 0.012), row(3, None)]
    words = texts(reconstruction_grid(images, images, rows, "step 100"))
    assert "step 100" in words and "|difference| ×4" in words
    captions = [word for word in words if word.startswith("#")]
    assert captions == ["#1  2.3e-6", "#2  1.2e-2", "#0  3.0e-1", "#3  no candidate"]
    verdicts = [w for w in words if "recovered" in w or "exact" in w][1:]
    assert verdicts == ["exact, certified", "recovered", "not recovered", "not recovered"]
    assert "2 recovered" in words[1] and "1 exact" in words[1]


def test_grid_leaves_the_middle_out_and_says_so() -> None:
    images = random_images(40)
    rows = [row(i, 0.01 * (i + 1)) for i in range(40)]
    words = texts(reconstruction_grid(images, images, rows, max_shown=6))
    captions = [word.split()[0] for word in words if word.startswith("#")]
    assert captions == ["#0", "#1", "#2", "#37", "#38", "#39"]
    assert "best 3 and worst 3, 34 not shown" in words[1]


@pytest.mark.parametrize("n", [2, 10, 100])
def test_no_text_leaves_the_picture(n: int) -> None:
    images = random_images(n)
    rows = [row(i, 10.0 ** -(i % 7)) for i in range(n)]
    figure = reconstruction_grid(images, images, rows, "ProjectionReconstructor, step 1000")
    height, width, _ = figure_to_uint8(figure).shape
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_grid_rejects_what_does_not_belong_together() -> None:
    images = random_images(2)
    with pytest.raises(ValueError, match="belong together"):
        reconstruction_grid(images, images, [row(0, 0.1)])
    with pytest.raises(ValueError, match="belong together"):
        overlay_figure(torch.zeros(2, 3), torch.zeros(2, 3), [row(0, 0.1)])


def test_overlay_draws_every_sample_with_its_candidate() -> None:
    x = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    candidates = -x.flip(0)[:4]  # sample 0 has no candidate
    rows = score(x, candidates, sign_blind=True).rows
    figure = overlay_figure(x, candidates, rows, "Sphere")
    captions = [word for word in texts(figure) if word.startswith("#")]
    assert len(captions) == 5 and captions[-1] == "#0  no candidate"
    assert len(figure.axes) == 5
    for axes in figure.axes[:4]:  # negated candidates of sign-blind scoring lie on the diagonal
        offsets = np.asarray(axes.collections[0].get_offsets())
        np.testing.assert_allclose(offsets[:, 0], offsets[:, 1], atol=1e-6)
    assert not figure.axes[4].collections
    assert figure_to_uint8(figure).shape[2] == 3


def test_png_is_whole_and_alone(tmp_path) -> None:
    images = random_images(2)
    figure = reconstruction_grid(images, images, [row(0, 0.1), row(1, 0.2)])
    pixels = figure_to_uint8(figure)
    save_png(pixels, tmp_path / "grid.png")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]
    read = (imread(tmp_path / "grid.png")[..., :3] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(read, pixels)


def test_pyplot_is_left_alone() -> None:
    images = random_images(2)
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else None
    reconstruction_grid(images, images, [row(0, 0.1), row(1, 0.2)])
    assert sys.modules.get("matplotlib.pyplot") is pyplot
    assert (pyplot.get_fignums() if pyplot else None) == before


# --- candidates alone, where the training data are not known


def certificates(images: Tensor, accepted: list[bool]) -> Certificates:
    ones = torch.ones(len(images), dtype=torch.float64)
    return Certificates(torch.tensor(accepted), ones, ones, images, ones)


def words_in(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("channels", [1, 3])
def test_certified_candidates_come_first_in_true_pixels(channels: int) -> None:
    images = random_images(3, channels)
    figure = candidates_figure(
        torch.zeros(3, channels * 64), certificates=certificates(images, [False, True, False])
    )
    picture, factor = figure_to_uint8(figure), round(TILE / 8)
    for place, index in enumerate((1, 0, 2)):
        left = MARGIN + place * (8 * factor + GAP) + factor // 2
        shown = picture[HEADER + factor // 2 :, left:][: 8 * factor : factor, : 8 * factor : factor]
        assert np.array_equal(shown, rgb(images[index]))
    written = words_in(figure)
    assert "3 candidates  ·  1 certified" in written
    assert "#1  certified" in written and "#0  not certified" in written


def test_images_of_an_unknown_scale_are_stretched_to_their_own_range() -> None:
    candidates = torch.linspace(-3, 5, 64)[None] * torch.tensor([[1.0], [0.01]])
    figure = candidates_figure(candidates, shape=(1, 8, 8))
    assert "each image stretched to its own range" in words_in(figure)
    picture, factor = figure_to_uint8(figure), round(TILE / 8)
    for place in range(2):
        left = MARGIN + place * (8 * factor + GAP) + factor // 2
        shown = picture[HEADER + factor // 2 :, left:][: 8 * factor : factor, : 8 * factor : factor]
        assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize("shape", [None, (8,), (2, 2, 2)])
def test_candidates_that_cannot_be_drawn_as_images_are_lines(shape: tuple[int, ...] | None) -> None:
    figure = candidates_figure(torch.randn(2, 8), shape=shape)
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert "coordinates of each candidate" in words_in(figure)


@pytest.mark.parametrize(
    ("m", "shown", "words"), [(0, 0, "0 candidates"), (MOST + 5, MOST, "5 not")]
)
def test_no_candidates_and_too_many(m: int, shown: int, words: str) -> None:
    figure = candidates_figure(torch.zeros(m, 4), title="found", shape=(1, 2, 2))
    assert len(figure.images) == shown and words in words_in(figure)
    assert figure_to_uint8(figure).shape[2] == 3
