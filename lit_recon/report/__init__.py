"""Pages, figures and the dashboard; they draw what the registry of numbers lists."""

import lit_recon.methods  # noqa: F401  every method enters its numbers into the registry
