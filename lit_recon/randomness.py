"""Random generators with separate streams for separate purposes.

Data, first-layer weights and attacks may all have seed 0. With one stream for all of them, the
candidates of an attack would start at the same numbers from which the training data were drawn.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """A CPU generator for one purpose.

    Args:
        seed: 0 or more.
        purpose: name of the stream, for example ``candidates``.
        index: 0 or more; another index is another stream, for example one for each epoch.
    """
    entropy = [seed, crc32(purpose.encode()), index]
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
