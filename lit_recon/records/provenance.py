"""The provenance of a run: code, machine and command, without names of users or hosts."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lit_recon import __version__
from lit_recon.records.directory import RunDirectory

FILE = "provenance.json"

_PACKAGES = ("torch", "lightning", "torchvision", "torchmetrics", "wandb", "numpy", "scipy")


def provenance(argv: Sequence[str], seed: int, device: object) -> dict[str, object]:
    """The facts that are needed to repeat a run.

    Args:
        argv: the command line, as ``sys.argv``. The home directory in it becomes ``~``, because
            its path often holds the user's name.
        seed: the run's seed.
        device: the device that the run trains on, a ``torch.device`` or its name.

    Returns:
        Values of JSON types, None where a fact is not known. No host name, no user name, no
        environment variables.
    """
    return {
        "started_utc": _now(),
        "command": without_home(shlex.join(argv)),
        "seed": seed,
        "device": str(device),
        "gpu": _gpu_name(),
        "cpu": _cpu_name(),
        "cores": cores(),
        "platform": platform.platform(),
        "versions": _versions(),
        "git": _git_state(Path(__file__)),
    }


def finish(directory: RunDirectory) -> None:
    """Write the end time of a complete run to its provenance.json."""
    directory.write_json(FILE, {**directory.read_json(FILE), "finished_utc": _now()})


def is_finished(directory: RunDirectory) -> bool:
    """Whether the run is complete; false if it has not started.

    Raises:
        RunError: its provenance.json is damaged.
    """
    return (directory.path / FILE).exists() and directory.read_json(FILE).get(
        "finished_utc"
    ) is not None


def without_home(command: str) -> str:
    """A command line with ``~`` for the home directory."""
    home = str(Path.home())
    if home == os.sep:  # in some containers; every path begins with it
        return command
    return re.sub(rf"{re.escape(home)}(?=[/\s']|$)", "~", command)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    """Package versions from the installed metadata, without importing the packages."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "lit_recon": __version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _git_state(file: Path) -> dict[str, object] | None:
    """Commit of the git checkout that tracks `file`, and whether a tracked file differs from it.

    None if no checkout tracks the file. A virtual environment can lie in a checkout of other code,
    whose commit has no meaning here.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit = _git(file, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {
        "commit": commit,
        "dirty": _git(file, "status", "--porcelain", "--untracked-files=no") != "",
    }


def _git(file: Path, *arguments: str) -> str | None:
    """The output of git in the directory of `file`; None if it fails or is not installed."""
    # In a git hook, GIT_DIR and similar variables point to another checkout.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=file.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def cores() -> int | None:
    """The number of cores that this process may use; Slurm and containers can limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _cpu_name() -> str | None:
    return _linux_cpu_name() or _mac_cpu_name() or platform.processor() or None


def _linux_cpu_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def _mac_cpu_name() -> str | None:
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _gpu_name() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
