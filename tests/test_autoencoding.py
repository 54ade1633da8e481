"""Training of autoencoders: a rotation-equivariant Adam, noise, and a readout in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F
from torch.optim import Optimizer

from datamodules import Sphere
from lit_recon.errors import InputError
from lit_recon.models import Autoencoder
from lit_recon.modules import Autoencode, Next, TensorAdam
from lit_recon.modules.noise import Noise, NoisyCopies
from lit_recon.modules.tensor_adam import PerTensorAdam, polish_readout
from lit_recon.records.checkpoints import load_weights

N, D = 4, 9
Run = Callable[..., tuple[int, str, str]]
Make = Callable[[Iterable[Parameter]], Optimizer]


def inputs(n: int = N, d: int = D, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=random, dtype=torch.float64)


def rotation(d: int = D) -> Tensor:
    q, _ = torch.linalg.qr(inputs(d, d, seed=1))
    return q


def autoencoder(**settings: Any) -> Autoencoder:
    model = Autoencoder(d=D, k=D, widths=[12, 7], seed=3, **settings).double()
    with torch.no_grad():  # biases take part in what is tested
        for layer in model.hidden:
            layer.bias.normal_(generator=torch.Generator().manual_seed(5))
    return model


def train(model: Autoencoder, x: Tensor, make: Make, steps: int = 60) -> Autoencoder:
    optimiser = make(model.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimiser.step()
    return model


def per_tensor(parameters: Iterable[Parameter]) -> Optimizer:
    return PerTensorAdam(parameters, lr=0.1)


def rotated(model: Autoencoder, q: Tensor) -> Autoencoder:
    """The network x -> q f(q^T x)."""
    other = autoencoder()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.first_layer.weight.copy_(model.first_layer.weight @ q.T)
        other.readout.weight.copy_(q @ model.readout.weight)
        other.readout.bias.copy_(q @ model.readout.bias)
    return other


def outside(rows: Tensor, span: Tensor) -> float:
    """The share of the norm of rows (m, d) that is outside of the span of others (n, d)."""
    q, _ = torch.linalg.qr(span.T)
    return float((rows - rows @ q @ q.T).norm() / rows.norm())


# --- Adam with one second moment for each tensor


@pytest.mark.parametrize("readout_std", [0.0, 0.5])
def test_training_a_rotated_problem_gives_the_rotated_network(readout_std: float) -> None:
    x, q = inputs(), rotation()
    probe = inputs(20, seed=7)

    def difference(make: Make) -> float:
        here = train(autoencoder(readout_std=readout_std), x, make)
        there = train(rotated(autoencoder(readout_std=readout_std), q), x @ q.T, make)
        output = here(probe) @ q.T
        return float(((there(probe @ q.T) - output).norm() / output.norm()).detach())

    assert difference(per_tensor) < 1e-10
    assert difference(lambda p: torch.optim.Adam(p, lr=0.1)) > 0.05


def test_everything_moves_in_the_span_of_the_inputs() -> None:
    x, noise = inputs(), inputs(30, seed=8)
    start, end = autoencoder(), train(autoencoder(), x, per_tensor)
    assert F.mse_loss(end(x), x) < 0.1 * F.mse_loss(start(x), x)
    moved = end.first_layer.weight - start.first_layer.weight
    assert outside(moved.detach(), x) < 1e-12
    assert outside(end.readout.weight.detach().T, x) < 1e-12
    assert outside(end(noise).detach(), x) < 1e-12
    # Another readout: outputs have a part in its range, and the first layer moves as before.
    start, end = (autoencoder(readout_std=0.5) for _ in range(2))
    train(end, x, per_tensor)
    moved = end.first_layer.weight - start.first_layer.weight
    assert outside(moved.detach(), x) < 1e-12 and outside(end(noise).detach(), x) > 0.1
    # Adam scales weights one by one.
    adam = train(autoencoder(), x, lambda p: torch.optim.Adam(p, lr=0.01))
    assert outside(adam(noise).detach(), x) > 0.05


def test_training_in_coordinates_of_the_span_is_the_same_training() -> None:
    x = inputs()
    q, _ = torch.linalg.qr(x.T)  # (d, n)
    whole = train(autoencoder(), x, per_tensor)
    small = Autoencoder(d=N, k=N, widths=[12, 7]).double()
    with torch.no_grad():
        for name, value in autoencoder().named_parameters():
            value = value @ q if name == "first_layer.weight" else value
            value = q.T @ value if name.startswith("readout") else value
            small.get_parameter(name).copy_(value)
    train(small, x @ q, per_tensor)
    assert torch.allclose(small(x @ q) @ q.T, whole(x), atol=1e-10)


def test_a_first_step_has_the_length_of_the_rate_in_every_tensor() -> None:
    weights = [Parameter(torch.zeros(3, 4)), Parameter(torch.zeros(5)), Parameter(torch.ones(2))]
    optimiser = PerTensorAdam(weights, lr=0.5)
    for weight, scale in zip(weights, (1e-6, 1.0, 1e6), strict=True):
        weight.grad = scale * torch.ones_like(weight)
    before = [weight.detach().clone() for weight in weights]
    optimiser.step()
    for weight, old in zip(weights, before, strict=True):
        assert float((weight - old).norm().detach()) == pytest.approx(0.5, rel=1e-5)
    weights[0].grad = None  # a weight that is not trained stays
    kept = weights[0].detach().clone()
    optimiser.step()
    assert torch.equal(weights[0], kept) and not torch.equal(weights[1], before[1])


def test_a_gradient_of_zero_makes_no_step() -> None:
    weight = Parameter(torch.ones(3))
    optimiser = PerTensorAdam([weight], lr=0.5)
    weight.grad = torch.zeros(3)
    optimiser.step()
    assert torch.equal(weight, torch.ones(3))


# --- the readout in closed form


def test_the_closed_form_reaches_the_targets() -> None:
    x = 10 * inputs(7)
    model = train(autoencoder(), x, per_tensor, steps=5)
    before = [value.detach().clone() for value in model.parameters()]
    assert F.mse_loss(model(x), x) > 1e-3
    polish_readout(model, x, x)
    assert F.mse_loss(model(x), x) < 1e-24
    changed = [
        name
        for (name, value), old in zip(model.named_parameters(), before, strict=True)
        if not torch.equal(value, old)
    ]
    assert changed == ["readout.weight", "readout.bias"]
    # The change is the smallest one: its rows are combinations of the features.
    h = torch.cat([model.features(x), torch.ones(7, 1, dtype=torch.float64)], 1).detach()
    change = torch.cat([model.readout.weight, model.readout.bias[:, None]], 1)
    change = change.detach() - torch.cat([before[-2], before[-1][:, None]], 1)
    assert outside(change, h) < 1e-9


def test_the_closed_form_keeps_the_precision_of_the_weights() -> None:
    x = inputs().float()
    model = autoencoder().float()
    polish_readout(model, x, x)
    assert all(value.dtype == torch.float32 for value in model.parameters())
    exact = model.double()
    assert 0 < F.mse_loss(exact(x.double()), x.double()) < 1e-12


# --- noise


@pytest.mark.parametrize("geometry", ["isotropic", "neighbours", "span"])
def test_noisy_copies_follow_the_inputs(geometry: Any) -> None:
    x, y = inputs(), inputs(seed=2)
    draw = NoisyCopies(Noise(0.5, geometry, copies=300), x)
    noisy, targets = draw(x, y, slice(None), step=3, rank=0, ranks=1)
    assert torch.equal(noisy[:N], x) and torch.equal(targets, y.repeat(301, 1))
    shift = (noisy[N:] - x.repeat(300, 1)).view(300, N, D)
    distances = torch.cdist(x, x) + torch.diag(torch.full((N,), torch.inf, dtype=x.dtype))
    typical = x.norm(dim=1).square().mean().sqrt().expand(N)
    length = 0.5 * (typical if geometry == "isotropic" else distances.amin(1))
    shares = shift.norm(dim=2) / length
    assert shares.max() <= 1 + 1e-6 and shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.amax(0).min() > 0.95
    share = outside(shift.reshape(-1, D), x)
    assert share < 1e-6 if geometry == "span" else share > 0.3


def test_a_draw_depends_on_seed_step_and_rank_alone() -> None:
    x = inputs()

    def draw(seed: int, step: int, rank: int) -> Tensor:
        return NoisyCopies(Noise(1.0, seed=seed), x)(
            x, x, slice(None), step=step, rank=rank, ranks=2
        )[0]

    first = draw(0, 4, 1)
    assert torch.equal(first, draw(0, 4, 1))
    assert not any(torch.equal(first, draw(*other)) for other in ((1, 4, 1), (0, 5, 1), (0, 4, 0)))
    part = NoisyCopies(Noise(1.0, "neighbours", copies=1), x)
    images, _ = part(
        x[[2, 0]].view(2, 1, 3, 3), x[[2, 0]], torch.tensor([2, 0]), step=0, rank=0, ranks=1
    )
    assert images.shape == (4, 1, 3, 3)


# --- whole runs


POINTS = ["--data", "Sphere", "--data.n", "4", "--data.d", "9", "--wandb.mode", "disabled"]
POINTS += ["--model", "Autoencoder", "--model.widths", "[12, 7]", "--recon.enabled", "false"]
POINTS += ["--optim", "TensorAdam", "--optim.lr", "0.1", "--task", "Autoencode"]
NOISE = ["--task.noise", "0.3", "--task.clean_share", "0.5"]


def rows(name: str) -> list[dict[str, Any]]:
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(name: str, step: int) -> dict[str, Tensor]:
    return load_weights(Path("runs", name, "checkpoints", f"step={step:08d}.ckpt"))


def test_a_run_ends_with_the_readout_in_closed_form(type_command: Run) -> None:
    flags = [*POINTS, "--optim.polish", "true", "--trainer.precision", "64-true", *NOISE]
    flags += ["--trainer.max_steps", "20", "--checkpoint.at_steps", "[19]", "--run.name", "r"]
    assert type_command(*flags)[0] == 0
    found = [row["train/mse"] for row in rows("r") if "train/mse" in row]
    assert found[0] > found[-2] > 1e-6 and found[-1] < 1e-20
    # The noise lasts for half of the steps; the loss is then that of the noisy copies too.
    noisy = [row["train/loss"] != row["train/mse"] for row in rows("r")]
    assert all(noisy[1:10]) and not any(noisy[10:-1])  # at first all outputs are 0
    # What a checkpoint holds is what was measured.
    data = Sphere(n=4, d=9)
    data.setup()
    x = data.x.double()
    model = Autoencoder(d=9, k=9, widths=[12, 7]).double()
    model.load_state_dict(weights("r", 20))
    assert float(F.mse_loss(model(x), x).detach()) == pytest.approx(found[-1], rel=1e-6)
    model.load_state_dict(weights("r", 19))
    assert F.mse_loss(model(x), x) > 1e-6


def test_a_run_that_stops_at_a_loss_ends_in_closed_form_too(type_command: Run) -> None:
    flags = [*POINTS, "--optim.polish", "true", "--optim.stop_loss", "0.1", "--run.name", "r"]
    assert type_command(*flags, "--optim", "Adam", "--optim.lr", "0.01")[0] == 0
    *_, before, last = [row for row in rows("r") if "train/mse" in row]
    assert before["train/mse"] > 1e-3 and last["train/mse"] < 1e-10 and last["step"] < 900


def test_an_interrupted_run_goes_on_to_the_bit(type_command: Run) -> None:
    """The rate follows the length of the whole run, and noise the step."""
    flags = [*POINTS, *NOISE, "--trainer.max_steps", "8", "--checkpoint.every_n_steps", "4"]
    for name in ("whole", "again"):
        assert type_command(*flags, "--run.name", name)[0] == 0
    checkpoints = Path("runs", "again", "checkpoints")
    (checkpoints / "step=00000008.ckpt").unlink()
    assert type_command("--run.name", "again", "--run.resume", "true")[0] == 0
    ends = [weights(name, 8) for name in ("whole", "again")]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    other = [*flags, "--run.seed", "1", "--data.seed", "0", "--model.seed", "0"]
    assert type_command(*other, "--run.name", "other")[0] == 0
    assert not torch.equal(weights("other", 8)["readout.weight"], ends[0]["readout.weight"])


def test_the_rate_falls_to_zero(type_command: Run) -> None:
    flags = [*POINTS, "--trainer.max_steps", "40", "--checkpoint.at_steps", "[1, 39]"]
    assert type_command(*flags, "--run.name", "r")[0] == 0
    lengths = [
        float((weights("r", b)["readout.weight"] - weights("r", a)["readout.weight"]).norm())
        for a, b in ((0, 1), (39, 40))
    ]
    assert lengths[0] == pytest.approx(0.1, rel=1e-4) and lengths[1] < 0.01 * lengths[0]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--data.n", "8", "--optim.polish", "true"],
            "--optim.polish true: needs a last layer as wide as the 8 samples, not 7",
        ),
        (
            ["--optim.polish", "true", "--optim.loss", "huber"],
            "--optim.polish true: solves for mse, and the loss is huber",
        ),
        (["--task", "Next", "--data.n", "1"], "--data.n 1: a sequence needs two inputs or more"),
        (["--task", "Labels"], "--task Labels: an autoencoder has 9 outputs, not 1"),
        (["--optim.lr", "1e20", "--trainer.max_steps", "30"], "not finite at step"),
    ],
)
def test_one_line_for_what_cannot_be_trained(
    flags: list[str], line: str, type_command: Run
) -> None:
    status, _, error = type_command(*POINTS, *flags)
    assert status in (1, 2) and line in error and error.count("\n") == 1


def test_a_convolutional_autoencoder_has_no_readout_to_solve_for(type_command: Run) -> None:
    flags = ["--data", "Photos", "--data.n", "2", "--data.image_size", "8", "--task", "Autoencode"]
    flags += ["--model", "ConvAutoencoder", "--model.depth", "3", "--recon.enabled", "false"]
    flags += ["--optim", "Adam", "--trainer.max_steps", "4", "--wandb.mode", "disabled"]
    assert type_command(*flags, "--run.name", "r")[0] == 0
    found = [row["train/mse"] for row in rows("r") if "train/mse" in row]
    assert found[-1] < found[0]
    status, _, error = type_command(*flags, "--optim.polish", "true")
    assert status == 2 and "--optim.polish true: ConvAutoencoder has no readout" in error


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Autoencode(noise=-1.0), "--task.noise -1.0: give a finite number, 0 or more"),
        (lambda: Autoencode(copies=0), "--task.copies 0: give at least 1"),
        (lambda: Next(clean_share=1.5), "--task.clean_share 1.5: give a number from 0 to 1"),
        (lambda: Next(seed=-1), "--task.seed -1: give 0 or more"),
        (lambda: TensorAdam(lr=-1.0), "--optim.lr -1.0: give a finite number, 0 or more"),
    ],
)
def test_settings_out_of_their_range(make: Callable[[], object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        make()
