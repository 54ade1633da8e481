"""Gauss-Newton on all weights of a dense network: its Gram matrix, its steps, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lit_recon.errors import InputError
from lit_recon.models import Autoencoder, ConvAutoencoder, DeepMLP, Model
from lit_recon.modules import Autoencode, GaussNewton
from lit_recon.modules.gauss_newton import GaussNewtonSteps, Linearised, range_of
from tests.test_autoencoding import POINTS, outside, rows, weights

N, D = 3, 6
Run = Callable[..., tuple[int, str, str]]


def inputs(n: int = N, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).double()


def network(**settings: object) -> Autoencoder:
    return Autoencoder(d=D, k=D, widths=[9, 5], **settings).double()  # type: ignore[arg-type]


def steps(model: Model, x: Tensor, count: int, damping: float = 1e-4) -> list[float]:
    """The losses after so many steps."""
    optimiser = GaussNewtonSteps(model.parameters(), damping, lambda: (model, x, x))
    losses = []
    for _ in range(count):
        optimiser.step()
        losses.append(float(F.mse_loss(model(x), x).detach()))
    return losses


def derivatives(model: Model, x: Tensor) -> Tensor:
    """(n k, weights) all derivatives, output by output."""
    trained = list(model.parameters())
    return torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(f, trained, retain_graph=True)])
            for f in model(x).flatten()
        ]
    )


@pytest.mark.parametrize("readout_std", [0.0, 0.7])
@pytest.mark.parametrize("bias", ["all", "none"])
def test_a_step_is_that_of_the_whole_matrix_of_derivatives(readout_std: float, bias: str) -> None:
    model: Model = network(readout_std=readout_std)
    if bias == "none":
        model = DeepMLP(d=D, k=D, widths=[9, 5], bias="none").double()
    x = inputs()
    at = Linearised.at(model, x, x)
    j = derivatives(model, x)
    gram, residual = j @ j.T, (x - model(x)).detach().flatten()
    diagonals = [m.diagonal() for m in (at.gram, at.outside) if m is not None]
    mu = 1e-3 * torch.cat(diagonals).mean()
    dual = torch.linalg.solve(gram + mu * torch.eye(len(gram)).double(), residual)
    changes, promised = at.change(1e-3)
    change = torch.cat([part.flatten() for part in changes])
    assert torch.allclose(change, j.T @ dual, rtol=1e-8, atol=1e-10)
    left = residual - j @ change
    assert promised == pytest.approx(float(residual @ residual - left @ left), rel=1e-8)


def test_a_readout_at_zero_has_no_range() -> None:
    assert range_of(torch.zeros(5, 3).double()).shape == (5, 0)
    at = Linearised.at(network(), inputs(), inputs())
    assert at.gram.shape == (0, 0)
    model, x = network(), inputs()
    steps(model, x, 1)
    assert Linearised.at(model, x, x).gram.shape == (N * N, N * N)


def test_few_steps_reach_rounding_and_everything_stays_in_the_span() -> None:
    model, x = network(), inputs()
    start = model.first_layer.weight.detach().clone()
    losses = steps(model, x, 8)
    assert losses[0] > losses[1] > losses[2] and losses[-1] < 1e-24
    moved = (model.first_layer.weight - start).detach()
    assert outside(moved, x) < 1e-10
    assert outside(model(inputs(20, seed=4)).detach(), x) < 1e-10


def test_a_step_that_raises_the_loss_is_damped_and_weights_never_get_worse() -> None:
    model, x = network(activation="sin", gain=4.0, readout_std=2.0), 5 * inputs()
    losses = steps(model, x, 30, damping=1e-12)
    assert all(b <= a for a, b in pairwise(losses))
    assert losses[-1] < losses[0]


def test_at_the_targets_the_weights_stay() -> None:
    model = network()
    zero = torch.zeros(N, D).double()
    before = [p.detach().clone() for p in model.parameters()]
    assert steps(model, zero, 2) == [0.0, 0.0]
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_weights_keep_their_precision() -> None:
    model, x = network().float(), inputs().float()
    assert steps(model, x, 6)[-1] < 1e-10
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(InputError, match="trains dense layers, not Conv2d; give Adam"):
        model: Model = ConvAutoencoder((3, 8, 8), k=192, depth=2)
        GaussNewton().check(model, Autoencode(), 1, 192)
    with pytest.raises(InputError, match="needs a matrix of 6000 rows here, of 4096 at most"):
        GaussNewton().check(
            Autoencoder(d=60, k=60, widths=[80], init="pytorch"), Autoencode(), 100, 60
        )
    GaussNewton().check(Autoencoder(d=600, k=600, widths=[80]), Autoencode(), 50, 600)
    with pytest.raises(InputError, match=r"--task.noise 0.1: GaussNewton trains on the inputs"):
        GaussNewton().check(network(), Autoencode(noise=0.1), N, D)
    with pytest.raises(InputError, match=r"--optim.damping 0.0: give a number above 0"):
        GaussNewton(damping=0.0)


FLAGS = [*POINTS[: POINTS.index("--optim")], "--task", "Autoencode", "--optim", "GaussNewton"]


def test_a_run_ends_in_few_steps_and_goes_on_to_the_bit(type_command: Run) -> None:
    flags = [*FLAGS, "--optim.stop_loss", "1e-20", "--trainer.precision", "64-true"]
    flags += ["--trainer.max_steps", "20", "--checkpoint.every_n_steps", "2"]
    for name in ("whole", "again"):
        assert type_command(*flags, "--run.name", name)[0] == 0
    last = rows("whole")[-1]
    assert last["step"] < 12
    assert [row["train/mse"] for row in rows("whole") if "train/mse" in row][-1] < 1e-20
    (ends := sorted((Path("runs", "again", "checkpoints")).glob("step=*")))[-1].unlink()
    assert type_command("--run.name", "again", "--run.resume", "true")[0] == 0
    step = int(ends[-1].stem.removeprefix("step="))
    pair = [weights(name, step) for name in ("whole", "again")]
    assert all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--data.batch_size", "2"], "--data.batch_size 2: GaussNewton takes all samples at once"),
        (["--task.noise", "0.1"], "--task.noise 0.1: GaussNewton trains on the inputs themselves"),
    ],
)
def test_one_line_for_what_it_cannot_do(flags: list[str], line: str, type_command: Run) -> None:
    status, _, error = type_command(*FLAGS, *flags)
    assert status == 2 and line in error and error.count("\n") == 1
