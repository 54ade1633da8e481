"""Random generators that share no stream.

Data, first-layer weights and attacks may all have seed 0. With one stream for all, the candidates
of an attack would start at the very numbers that made the training data.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one purpose; seeds of 0 or more, any index."""
    entropy = [seed, crc32(purpose.encode()), index]
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
