"""The work of a study's processes: the networks of one width on one data set.

This file imports little, because a process begins with its imports: what it needs from the flags
comes to it as numbers.
"""

from __future__ import annotations

import json

import pandas as pd
import torch
from safetensors.torch import load_file

from lit_recon.capacity.study import draws
from lit_recon.records.directory import RunDirectory

CELLS = "cells"  # folder of the samples, and of the rows of finished tasks


def samples_file(name: str) -> str:
    """Where a study keeps inputs `x` (n, d) and classes `labels` (n,), by the name of a point."""
    return f"{CELLS}/{name}.safetensors"


def build_cells(argv: list[str]) -> int:
    """A worker's command: build the networks of a job, and leave their rows; the exit status."""
    name, point, width, biases, seeds, activation, place = json.loads(argv[0])
    torch.set_num_threads(1)
    directory = RunDirectory(place)
    data = load_file(directory.path / samples_file(point))
    rows = pd.DataFrame(draws(data["x"], data["labels"], width, biases, seeds, activation))
    directory.write_text(f"{CELLS}/{name}.csv", rows.to_csv(index=False, lineterminator="\n"))
    return 0
