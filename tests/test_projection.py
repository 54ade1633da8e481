"""The attack as a whole, on small problems with known answers."""

import math
from dataclasses import replace

import pytest
import torch

from lit_recon.errors import InputError
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics.scores import score
from lit_recon.randomness import generator
from lit_recon.solvers import MomentumDescent
from tests.problems import images, knowledge, readout_of, sphere, trained, with_readout
from tests.rounding import TOLERANCE, OtherOrder, apart


def attack(known, seed=0, **settings):
    settings = {"max_seconds": 60.0, **settings}
    reconstructor = ProjectionReconstructor(**settings)
    return reconstructor.reconstruct(known, generator(seed, "candidates"))


def direction_error(x, candidates) -> float:
    error = score(x, candidates).metrics.direction_error
    assert error is not None
    return error


@pytest.mark.parametrize("seed", range(3))
def test_recovers_every_sample_from_noise(seed):
    x = sphere(6, 24, seed)
    outcome = attack(knowledge(trained(x, 6 * 24 * 3, seed=seed), 6, radius=24**0.5))
    assert outcome.status == "converged"
    assert score(x, outcome.candidates).metrics.recovered_fraction == 1.0
    assert direction_error(x, outcome.candidates) < 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_recovers_near_the_threshold_with_the_plain_loss(seed):
    x = sphere(5, 40, seed)
    outcome = attack(knowledge(trained(x, 2 * 5 * 40, seed=seed), 5, radius=40**0.5))
    assert score(x, outcome.candidates).metrics.recovered_fraction == 1.0


def test_recovers_from_several_outputs():
    x = sphere(6, 24, 0)
    outcome = attack(knowledge(trained(x, 300, k=3), 6, radius=24**0.5))
    assert direction_error(x, outcome.candidates) < 1e-3
    assert outcome.at_truth(x)["p_over_dn"] == 3 * 300 / (6 * 24)


@pytest.mark.parametrize("activation", ["relu+tanh", "elu"])
def test_activations_that_are_not_homogeneous_give_sign_and_norm(activation):
    x = sphere(4, 20, 0) * torch.tensor([[0.7], [1.0], [1.2], [1.5]])
    outcome = attack(knowledge(trained(x, 800, activation=activation), 4))
    error = score(x, outcome.candidates).metrics.matched_error
    assert error is not None and error < 1e-2
    assert not outcome.sign_blind
    floors = [outcome.at_truth(signed)["oracle_loss"] for signed in (x, -x)]
    assert floors[0] < 1e-8 and floors[1] > 1e-3  # the loss sees signs


def test_an_odd_activation_is_reported_as_sign_blind():
    x = sphere(3, 16, 0)
    outcome = attack(knowledge(trained(x, 600, activation="tanh"), 3, radius=4.0))
    assert outcome.sign_blind
    # The loss does not see signs, and without them all samples are there.
    floors = [outcome.at_truth(signed)["oracle_loss"] for signed in (x, -x)]
    assert max(floors) < 1e-8
    error = score(x, outcome.candidates, sign_blind=True).metrics.direction_error
    assert error is not None and error < 1e-2


@pytest.mark.parametrize("normalize", ["standardize", "sphere"])
def test_images_come_back_exact_with_certificates(normalize):
    u, pixels = images(4, 8, 0)
    x = ((u.double() / 255 - pixels.mean) / pixels.std).flatten(1)
    radius = None
    if normalize == "sphere":
        radius = pixels.d**0.5
        x = x * radius / x.norm(dim=1, keepdim=True)
    x = x.float()
    outcome = attack(knowledge(trained(x, 3 * 4 * pixels.d), 4, pixels, radius))
    certificates = outcome.certificates
    assert certificates is not None and certificates.accepted.all()
    metrics = score(
        x,
        outcome.candidates,
        pixels=pixels,
        images=u,
        decoded=certificates.images,
        certified=certificates.accepted,
    ).metrics
    assert metrics.exact_fraction == metrics.certified_fraction == 1.0


@pytest.mark.rounding
def test_the_same_generator_gives_the_same_candidates_and_the_model_is_left_alone():
    x = sphere(4, 16, 0)
    model = trained(x, 300)
    known = knowledge(model, 4, radius=4.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = attack(known)
    with OtherOrder(0):
        second = attack(known)
    assert first.outcome == second.outcome
    assert apart(first.candidates, second.candidates) < TOLERANCE
    # Cut short, attacks from other noise would be far apart.
    cut = [attack(known, seed, max_steps=1, restarts=0, rounds=0) for seed in (0, 0, 1)]
    assert apart(cut[0].candidates, cut[1].candidates) < TOLERANCE
    assert apart(cut[0].candidates, cut[2].candidates) > 0.1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_reference_to_the_start_is_subtracted():
    x = sphere(4, 16, 0)
    known = knowledge(trained(x, 300), 4, radius=4.0)
    start = torch.randn_like(readout_of(known))
    shifted = replace(with_readout(known, readout_of(known) + start), initial_readout=start)
    assert direction_error(x, attack(shifted).candidates) < 1e-2


def test_the_size_of_the_readout_does_not_matter():
    x = sphere(4, 16, 0)
    known = knowledge(trained(x, 300), 4, radius=4.0)
    for scale in (1e-30, 1e36):
        outcome = attack(with_readout(known, readout_of(known) * scale))
        assert direction_error(x, outcome.candidates) < 1e-2


def test_the_budget_returns_the_best_so_far_with_an_honest_status():
    x = sphere(20, 60, 0)
    outcome = attack(knowledge(trained(x, 1500), 20, radius=60**0.5), max_seconds=0.3)
    assert outcome.status == "out_of_time"
    assert outcome.seconds < 5
    assert outcome.candidates.shape == (20, 60)
    assert math.isfinite(outcome.numbers["projection_loss"])


def test_what_cannot_be_attacked_has_a_status():
    x = sphere(4, 16, 0)
    known = knowledge(trained(x, 300), 4)
    still = with_readout(known, torch.zeros_like(readout_of(known)))
    broken = with_readout(known, readout_of(known) * float("nan"))
    assert attack(still).status == "no_signal"
    assert attack(broken).status == "nonfinite"
    assert attack(knowledge(trained(x, 3), 4)).status == "not_identifiable"
    assert attack(known, candidates=400).status == "not_identifiable"
    for outcome in (attack(still), attack(broken)):
        assert outcome.candidates.shape == (4, 16)
        assert math.isnan(outcome.numbers["projection_loss"])


def test_a_loss_at_its_floor_below_the_threshold_is_no_success():
    x = sphere(6, 24, 0)
    outcome = attack(knowledge(trained(x, 80), 6, radius=24**0.5))
    assert outcome.status == "underdetermined"
    share = score(x, outcome.candidates).metrics.recovered_fraction
    assert share is not None and share < 0.5


def test_the_papers_solver_recovers_an_easy_problem():
    x = sphere(2, 20, 0)
    outcome = attack(
        knowledge(trained(x, 800), 2, radius=20**0.5),
        solver=MomentumDescent(lr=4.0),
        spare=0,
        restarts=3,
        even_stage="never",
        max_steps=3000,
        loss=1e-7,
    )
    assert score(x, outcome.candidates).metrics.recovered_fraction == 1.0
    assert {row.phase for row in outcome.curve} == {"plain"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_seconds", 0.0),
        ("max_seconds", float("nan")),
        ("restarts", -1),
        ("candidates", 0),
        ("spare", -1),
        ("max_steps", 0),
        ("loss", float("nan")),
    ],
)
def test_settings_out_of_range_are_refused_by_flag(setting, value):
    with pytest.raises(InputError, match=f"--recon.{setting}"):
        ProjectionReconstructor(**{setting: value})


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("claimed", [1, 5])
def test_the_number_of_samples_is_found_without_being_told(n, claimed):
    x = sphere(n, 24, n)
    known = knowledge(trained(x, n * 24 * 5, seed=n), claimed, radius=24**0.5)
    outcome = attack(known, candidates="auto")
    assert len(outcome.candidates) == n
    assert outcome.status == "converged"
    assert direction_error(x, outcome.candidates) < 1e-3
    assert {"count"} < {row.phase for row in outcome.curve}


def test_the_number_of_samples_is_found_from_the_plain_loss():
    x = sphere(4, 20, 0)
    known = knowledge(trained(x, 500, k=2, activation="tanh"), 4, radius=20**0.5)
    outcome = attack(known, candidates="auto")
    assert len(outcome.candidates) == 4
    # tanh is odd: candidates come back up to sign, and are scored so.
    error = score(x, outcome.candidates, sign_blind=outcome.sign_blind).metrics.direction_error
    assert error is not None and error < 1e-2


def test_the_number_of_images_is_found_and_all_are_certified():
    u, pixels = images(5, 8, 0)
    x = (u.flatten(1).double() / 255 - pixels.mean) / pixels.std
    known = knowledge(trained(x.float(), 5 * 192 * 4), 5, pixels)
    outcome = attack(known, candidates="auto")
    assert outcome.status == "certified"
    assert len(outcome.candidates) == 5


@pytest.mark.slow
def test_no_number_of_candidates_explains_noise():
    known = knowledge(trained(sphere(3, 12, 0), 400), 3, radius=12**0.5)
    noise = torch.randn(1, 400, generator=torch.Generator().manual_seed(7))
    outcome = attack(with_readout(known, noise), candidates="auto", restarts=1, max_seconds=20)
    assert outcome.status in ("stalled", "out_of_time")
    assert 1 <= len(outcome.candidates) < 400 / 12
