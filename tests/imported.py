"""What the server of warm.py has imported: all that the commands import when they are at work."""

from __future__ import annotations

import matplotlib.backends.backend_svg  # noqa: F401
import torch

import benchmarks.records  # noqa: F401
import lit_recon.audit.audit
import lit_recon.audit.loggers
import lit_recon.audit.reconstruct
import lit_recon.fit.run
import lit_recon.fit.settings
import lit_recon.report.command
import lit_recon.sweeps.command  # noqa: F401
import tests.problems  # noqa: F401
import train

torch.set_num_threads(1)
train.command_line()
