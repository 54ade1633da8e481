"""What the projection attack asks for, does without, and takes as evidence against success."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lit_recon.errors import InputError
from lit_recon.knowledge import FACTS, DenseLayer, Knowledge
from lit_recon.methods import ProjectionReconstructor
from lit_recon.metrics.scores import score
from lit_recon.models import MLP
from tests.problems import sphere, taught, trained

N, D = 3, 16
X = sphere(N, D, 0)


def recovered(held: Knowledge, **settings: object) -> float:
    attack = ProjectionReconstructor(max_seconds=60, **settings)  # type: ignore[arg-type]
    share = score(X, attack.reconstruct(held).candidates).metrics.recovered_fraction
    assert share is not None
    return share


def test_every_fact_but_the_model_may_be_unknown() -> None:
    alone = Knowledge(trained(X, 300))
    assert alone.facts == ["final weights"]
    assert all(getattr(alone, fact) is None for fact in FACTS)
    # Random features start at 0 and do not see norms, and the number of samples can be counted.
    assert recovered(alone, candidates="auto") == 1
    with pytest.raises(InputError, match=r"--recon\.candidates null: needs the number of training"):
        ProjectionReconstructor().reconstruct(alone)


def test_the_number_of_samples_is_not_asked_for_where_it_is_found_or_given() -> None:
    for candidates, asked in ((None, True), ("auto", False), (3, False)):
        assert ("n" in ProjectionReconstructor(candidates=candidates).asks) is asked  # type: ignore[arg-type]
    # A wrong number that is not asked for changes nothing.
    held = Knowledge(trained(X, 300), n=50)
    found = ProjectionReconstructor(candidates="auto").reconstruct(held)
    assert len(found.candidates) == N
    assert found.knows == ["final weights"]


def test_evidence_that_is_not_there_is_refused() -> None:
    held = taught(MLP(d=D, k=1, n=N, width=240), X, steps=5, lr=1e-4)
    attack = ProjectionReconstructor(evidence="first_layer")
    with pytest.raises(
        InputError, match=r"--recon\.evidence first_layer: needs the first layer at"
    ):
        attack.reconstruct(held)
    with pytest.raises(ValueError, match="no such facts: \\['labels'\\]"):
        held.only({"labels"})


def test_an_optimiser_that_breaks_the_span_ends_the_attack_at_once() -> None:
    held = replace(Knowledge(trained(X, 300), n=N), optimiser_keeps_span=False)
    found = ProjectionReconstructor().reconstruct(held)
    assert (found.status, found.outcome.empty, found.numbers["applications"]) == (
        *("span_broken", True, 0),
    )
    assert "\n" not in found.outcome.reason
    assert recovered(held, evidence_against="ignore") == 1  # the fact was wrong here
    assert recovered(replace(held, optimiser_keeps_span=None)) == 1


@pytest.mark.parametrize("candidates", [None, "auto"])
def test_a_first_layer_without_low_rank_ends_the_attack_at_once(candidates: str | None) -> None:
    settings = {"evidence": "first_layer", "candidates": candidates, "max_steps": 5}
    # Enough samples: the first step of Adam, a matrix of signs, has a rank of 2^n - 1 at most.
    n = 8
    x = sphere(n, 64, 0)
    for make, status in ((torch.optim.SGD, None), (torch.optim.Adam, "no_low_rank")):
        model = MLP(d=64, k=1, n=n, width=400)
        start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer = make(model.parameters(), lr=1e-4)
        for _ in range(10):
            optimizer.zero_grad()
            (model(x) - 1).square().sum().backward()
            optimizer.step()
        held = Knowledge(
            model.eval(),
            initial_readout=start["readout.weight"],
            earlier_first_layer=DenseLayer.of(start, "first_layer", step=0),
            n=n,
        )
        found = ProjectionReconstructor(**settings).reconstruct(held)  # type: ignore[arg-type]
        assert (found.status == "no_low_rank") == (status == "no_low_rank")
        assert (found.numbers["applications"] == 0) == (status == "no_low_rank")
        ignored = ProjectionReconstructor(evidence_against="ignore", **settings)  # type: ignore[arg-type]
        assert ignored.reconstruct(held).numbers["applications"] > 0
