"""A profiler that does nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler


class NoProfiler(PassThroughProfiler):
    """Measures nothing, faster than Lightning's default.

    Lightning opens a profiler context about seventy times per training step. This class returns the
    same empty context each time; Lightning's default makes a new one.
    """

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self._nothing
