"""Whatever the attack is given, it ends with a status and finite candidates, and raises nothing."""

import math

import pytest
import torch

from lit_recon.methods import ProjectionReconstructor
from lit_recon.methods.base import Reconstruction
from lit_recon.metrics.scores import score
from lit_recon.randomness import generator
from lit_recon.solvers import GaussNewton, MomentumDescent
from tests.problems import images, knowledge, readout_of, sphere, trained, with_readout

N, D, P = 4, 16, 300


def attack(known, **settings) -> Reconstruction:
    settings = {"max_seconds": 60.0, **settings}
    outcome = ProjectionReconstructor(**settings).reconstruct(known, generator(0, "candidates"))
    assert torch.isfinite(outcome.candidates).all()
    assert outcome.outcome.reason
    return outcome


def points(p: int = P, **model):
    return knowledge(trained(sphere(N, D, 0), p, **model), N, radius=D**0.5)


def pictures():
    u, pixels = images(3, 8, 0)
    x = ((u.double() / 255 - pixels.mean) / pixels.std).flatten(1).float()
    return knowledge(trained(x, 4 * 3 * pixels.d), 3, pixels)


@pytest.mark.parametrize("known", [points, pictures], ids=["points", "pictures"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"even_stage": "never"},
        {"spectral_start": False},
        {"spare": 0},
        {"hops": 0},
        {"solver": MomentumDescent()},
    ],
    ids=str,
)
def test_a_budget_that_is_spent_at_once_returns_the_start(known, settings):
    outcome = attack(known(), max_seconds=1e-9, **settings)
    assert outcome.status == "out_of_time"
    assert outcome.candidates.shape == (known().n, known().model.first_layer.shape[1])
    assert 0 < outcome.numbers["projection_loss"] <= 1
    assert outcome.curve == [] and outcome.numbers["restarts"] == 0
    if outcome.certificates is not None:
        assert not outcome.certificates.accepted.any()


@pytest.mark.parametrize("candidates", [P, P + 1, 2 * P])
def test_as_many_candidates_as_features_are_refused_with_a_status(candidates):
    outcome = attack(points(), candidates=candidates)
    assert outcome.status == "not_identifiable"
    assert outcome.candidates.shape == (candidates, D)
    assert math.isnan(outcome.numbers["projection_loss"]) and outcome.curve == []


def test_nearly_as_many_candidates_as_features_fit_anything_and_it_says_so():
    x = sphere(2, 3, 0)
    outcome = attack(knowledge(trained(x, 8), 2), candidates=7, restarts=1)
    assert outcome.status == "underdetermined"


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("known", [points, pictures], ids=["points", "pictures"])
def test_a_target_of_zeros_is_no_signal(known, k):
    told = known() if known is pictures else points(k=k)
    outcome = attack(with_readout(told, told.initial_readout))
    assert outcome.status == "no_signal"
    assert math.isnan(outcome.numbers["projection_loss"]) and math.isnan(
        outcome.at_truth(outcome.candidates)["oracle_loss"]
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("known", [points, pictures], ids=["points", "pictures"])
def test_weights_that_are_not_finite_have_a_status(known, bad):
    told = known()
    readout = readout_of(told).clone()
    readout[0, 5] = bad
    outcomes = [attack(with_readout(told, readout))]
    (rows,) = told.model.rows(range(told.model.p))
    rows[7, 3] = bad
    outcomes.append(attack(told))
    for outcome in outcomes:
        assert outcome.status == "nonfinite"
        assert len(outcome.candidates) == told.n
        assert math.isnan(outcome.numbers["projection_loss"]) and outcome.curve == []


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
@pytest.mark.parametrize("solver", [GaussNewton(), MomentumDescent()], ids=["newton", "descent"])
def test_a_layer_of_zeros_has_a_status(activation, solver):
    told = points(activation=activation)
    (rows,) = told.model.rows(range(P))
    rows.zero_()
    assert attack(told, solver=solver).status == "nonfinite"


@pytest.mark.parametrize("size", [1e-12, 1e12, 1e18])
def test_a_layer_of_any_size_is_attacked(size):
    told = points()
    (rows,) = told.model.rows(range(P))
    rows.mul_(size)
    assert attack(told).status == "converged"


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_a_descent_that_overflows_keeps_what_it_had(activation):
    told = points(activation=activation)
    outcome = attack(told, solver=MomentumDescent(lr=1e37), max_steps=50)
    assert outcome.status == "nonfinite"
    assert math.isfinite(outcome.numbers["projection_loss"])


@pytest.mark.parametrize("candidates", [1, 2])
def test_too_few_candidates_stall(candidates):
    outcome = attack(points(), candidates=candidates, restarts=1)
    assert outcome.status == "stalled"
    assert outcome.candidates.shape == (candidates, D)
    assert 1e-4 < outcome.numbers["projection_loss"] < 1
    matches = score(sphere(N, D, 0), outcome.candidates).metrics
    assert matches.recovered_fraction == 0.0


def test_more_candidates_than_samples_contain_the_samples():
    outcome = attack(points(), candidates=N + 2)
    assert outcome.status == "converged" and len(outcome.candidates) == N + 2
    assert score(sphere(N, D, 0), outcome.candidates).metrics.recovered_fraction == 1.0


def test_one_sample_one_dimension_and_two_features():
    x = sphere(1, 1, 0)
    assert attack(knowledge(trained(x, 2), 1, radius=1.0)).status == "converged"
    assert attack(knowledge(trained(x, 1), 1, radius=1.0)).status == "not_identifiable"


def test_weights_in_float64_converge_too():
    x = sphere(N, D, 0)
    known = knowledge(trained(x, P).double(), N, radius=D**0.5)
    outcome = attack(known)
    assert outcome.status == "converged" and outcome.numbers["restarts"] < 5
    assert score(x.double(), outcome.candidates).metrics.recovered_fraction == 1.0
