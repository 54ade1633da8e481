"""Differences of neighbouring pixels: the integers in which the lattice is looked for.

A difference of two pixels is an integer and several times smaller than a pixel; so is the
difference of such differences in two colour channels. None of them changes if a constant is added
to an image, which is why neither the mean of the normalisation nor a constant image has a part in
the search.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.sparse.linalg import splu

from lit_recon.methods.rowspace.levels import Array, Integers


def planes(images: Array, shape: tuple[int, int, int]) -> Array:
    """One colour channel, and the differences of the others to it: (m, d) to (m, c, h w).

    Colours of a photograph differ less than brightness does. The middle channel is kept whole: of
    red, green and blue it is the one that the others are nearest to.
    """
    channels = images.reshape(len(images), shape[0], shape[1] * shape[2])
    kept = shape[0] // 2
    others = [channels[:, c] - channels[:, kept] for c in range(shape[0]) if c != kept]
    return np.stack([channels[:, kept], *others], 1)


class Differences:
    """A set of independent, small differences of neighbouring pixels.

    In every plane it is the spanning tree of the pixel grid whose edges are smallest over a basis,
    so that with one pixel of each plane they determine an image, and none follows from others.

    >>> image = np.array([[0.0, 1.0, 3.0, 3.0]])
    >>> sorted(Differences(image, (1, 2, 2))(image)[0].tolist())
    [-2.0, -1.0, 0.0]

    Args:
        basis: (r, d) rows whose differences shall be small.
        shape: (c, h, w) with c h w = d.
    """

    def __init__(self, basis: Array, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        height, width = shape[1:]
        pixel = np.arange(height * width).reshape(height, width)
        left = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
        right = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
        trees = []
        for plane in planes(basis, shape).swapaxes(0, 1):
            size = np.linalg.norm(plane[:, left] - plane[:, right], axis=0)
            size = size + 1e-9 * size.max() + np.finfo(float).tiny  # zero would mean: no edge
            grid = coo_matrix((size, (left, right)), shape=(pixel.size, pixel.size))
            trees.append(minimum_spanning_tree(grid).tocoo())
        self._plane = np.repeat(np.arange(shape[0]), [len(tree.row) for tree in trees])
        self._left = np.concatenate([tree.row for tree in trees])
        self._right = np.concatenate([tree.col for tree in trees])

    def __call__(self, images: Array) -> Array:
        """The differences of images: (m, d) to (m, d - c)."""
        values = planes(images, self.shape)
        return values[:, self._plane, self._left] - values[:, self._plane, self._right]

    def lifted(self, differences: Integers) -> Integers:
        """The images with these differences whose first pixel is 0 in every plane.

        Args:
            differences: (m, d - c) integers.

        Returns:
            (m, d) integers.
        """
        c, size = self.shape[0], self.shape[1] * self.shape[2]
        whole = np.zeros((len(differences), c, size), dtype=np.int64)
        for plane in range(c):
            own = np.flatnonzero(self._plane == plane)
            edge = np.arange(len(own))
            sign = np.concatenate([np.ones(len(own)), -np.ones(len(own))])
            ends = np.concatenate([self._left[own], self._right[own]])
            tree = csc_matrix((sign, (np.concatenate([edge, edge]), ends)), (len(own), size))
            pixels = splu(tree[:, 1:]).solve(differences[:, own].T.astype(float))
            whole[:, plane, 1:] = np.rint(pixels).T
        kept = c // 2
        others = [channel for channel in range(c) if channel != kept]
        channels = np.empty_like(whole)
        channels[:, kept] = whole[:, 0]
        channels[:, others] = whole[:, 1:] + whole[:, :1]
        return channels.reshape(len(whole), -1)

    @property
    def pixels(self) -> Integers:
        """How many pixels each difference takes, 2 or 4; its error has so many times a pixel's."""
        return np.where(self._plane == 0, 2, 4)
