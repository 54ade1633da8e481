"""Chooses candidates without the truth: several that agree are evidence of one training image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from lit_recon.metrics.likeness import ncc


@dataclass(frozen=True)
class Clusters:
    """Groups of candidates that agree, the largest first.

    Attributes:
        candidates: (k, c, h, w), one for each group.
        sizes: (k,) int64, how many candidates each group has; a larger group is better evidence.
        labels: (m,) int64, the group of each candidate, -1 where it is in none.
    """

    candidates: Tensor
    sizes: Tensor
    labels: Tensor


def cluster(
    candidates: Tensor, above: float = 0.9, least: int = 2, *, average: bool = True
) -> Clusters:
    """Group candidates so that all pairs of a group have an NCC above a threshold.

    For attacks with more candidates than training images, whose candidates meet at the same image.
    It needs no ground truth, as the rule of Oz et al. (2024, arXiv 2407.15845), who group
    embeddings. Groups are those of complete linkage. Candidates that come from different starts are
    evidence; copies of one candidate are not. Among 1,500 images of CIFAR-10 no pair has an NCC
    above 0.87.

    >>> one, other = torch.eye(9)[:2].reshape(2, 1, 1, 3, 3)
    >>> found = cluster(torch.cat([one, other, 2 * one, one + 5]))
    >>> found.sizes.tolist(), found.labels.tolist()
    ([3], [0, -1, 0, 0])

    Args:
        candidates: (m, c, h, w); those that are not finite are in no group.
        above: NCC that all pairs of a group exceed, in [-1, 1].
        least: candidates in the smallest group that counts.
        average: a group is represented by the mean of its candidates, which has less noise than
            each of them; else by its medoid, the candidate that agrees best with the others.
    """
    labels = torch.full((len(candidates),), -1)
    usable = torch.isfinite(candidates).flatten(1).all(1).nonzero()[:, 0]
    agreement = ncc(candidates[usable], candidates[usable])
    groups = [
        usable[members] for members in _groups(agreement, above).values() if len(members) >= least
    ]
    groups.sort(key=len, reverse=True)
    chosen = candidates.new_zeros((len(groups), *candidates.shape[1:]))
    for i, members in enumerate(groups):
        labels[members] = i
        held = candidates[members]
        chosen[i] = held.mean(0) if average else held[ncc(held, held).sum(1).argmax()]
    return Clusters(chosen, torch.tensor([len(group) for group in groups]).long(), labels)


def _groups(agreement: Tensor, above: float) -> dict[int, Tensor]:
    """The members of each group of an (m, m) agreement, by the group's number."""
    if len(agreement) < 2:
        return {i: torch.tensor([i]) for i in range(len(agreement))}
    distance = (1 - agreement).clamp_min(0).fill_diagonal_(0)
    tree = linkage(squareform(distance.numpy(), checks=False), method="complete")
    # fcluster takes pairs at the limit in; the limit itself is not above it.
    numbers = torch.from_numpy(fcluster(tree, 1 - above - 1e-12, criterion="distance"))
    return {int(i): (numbers == i).nonzero()[:, 0] for i in numbers.unique()}
