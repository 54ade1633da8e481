"""Sets up W&B; a failure of W&B never stops a training run, and W&B never asks a question.

`wandb` and Lightning are imported inside the functions: the import takes a second, and a run with
``--wandb.mode disabled`` does not need it.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from lit_recon.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

Mode = Literal["online", "offline", "disabled"]

STEP = "trainer/global_step"
"""Lightning's name for the training step, the x axis of every chart."""

_PROBE_SECONDS = 2.0
_INIT_SECONDS = 30.0  # by default W&B retries for 90 s, as long as the demo's whole run
_FINISH_SECONDS = 120.0  # by default W&B waits for ever; `wandb sync` uploads the rest
_SYNC_HINT = "`wandb sync` uploads the run later"


def choose_wandb_mode(mode: str) -> tuple[Mode, str]:
    """Decide the mode of W&B, in about two seconds and without asking the user.

    Args:
        mode: ``auto``, ``online``, ``offline`` or ``disabled``. ``auto`` follows the environment
            (``WANDB_MODE``, ``wandb offline``), and is online only with a key and a server that
            answers.

    Returns:
        The mode, and one line with the reason.

    Raises:
        InputError: another mode, or ``online`` without a key.
    """
    if mode == "disabled":
        return "disabled", "W&B: disabled by --wandb.mode."
    if mode == "offline":
        return "offline", f"W&B: offline by --wandb.mode; {_SYNC_HINT}."
    if mode not in ("auto", "online"):
        raise InputError("--wandb.mode", mode, "give auto, online, offline or disabled")
    try:
        configured, base_url = _open_session(None if mode == "auto" else mode)
        if configured == "disabled":
            return "disabled", "W&B: disabled by WANDB_MODE or `wandb disabled`."
        if configured in ("offline", "dryrun"):
            return "offline", f"W&B: offline by WANDB_MODE or `wandb offline`; {_SYNC_HINT}."
        missing = _missing_key()
    except Exception as error:  # a broken W&B set-up is no reason not to train
        return "offline", f"W&B: offline, because it cannot start ({_line(error)}); {_SYNC_HINT}."
    if missing and mode == "online":
        raise InputError("--wandb.mode", "online", f"{missing}; run `wandb login`, or give offline")
    if missing:
        return "offline", f"W&B: offline, because {missing}; {_SYNC_HINT}, after `wandb login`."
    if not _answers(base_url):
        return "offline", f"W&B: offline, because {base_url} does not answer; {_SYNC_HINT}."
    return "online", f"W&B: online at {base_url}."


def why_not_online() -> str | None:
    """Why W&B cannot be reached from here, in about two seconds; None if it can be."""
    try:
        configured, base_url = _open_session(None)
        missing = _missing_key()
    except Exception as error:  # a broken W&B set-up can fail in any way
        return f"it cannot start ({_line(error)})"
    if configured != "online":
        return f"it is {configured} here, by WANDB_MODE or `wandb {configured}`"
    if missing:
        return f"{missing}; run `wandb login`"
    return None if _answers(base_url) else f"{base_url} does not answer"


def make_wandb_logger(
    directory: Path,
    mode: Mode,
    *,
    project: str,
    name: str,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    metrics: Iterable[str] = (),
) -> WandbLogger | None:
    """Start the W&B run; if a mode fails, print the reason on one line and use a lesser mode.

    A resumed online run continues the same W&B run. A resumed offline run starts a new W&B run in
    the same group, because offline runs count steps from 0 again.

    Args:
        directory: the run directory; W&B's files go to ``directory/wandb``.
        mode: from `choose_wandb_mode`. Online falls back to offline, and offline to disabled.
        project: W&B project.
        name: the name in the dashboard.
        entity: user or team; None for the default of the API key.
        group: group in the dashboard; None for `name`, which groups the parts of a resumed run.
        tags: labels in the dashboard.
        config: the resolved configuration.
        metrics: the exact names of all numbers that will be logged. W&B draws a number over `STEP`
            only if it is named: globs do not match slashes, and if two globs match, W&B picks one
            at random.

    Returns:
        The logger, with the W&B run as its ``experiment``; None if W&B is disabled. On ranks other
        than 0, a logger without a run, which does nothing.
    """
    if mode == "disabled":
        return None
    from lightning.pytorch.loggers import WandbLogger
    from lightning.pytorch.utilities import rank_zero_only

    place: dict[str, Any] = {"save_dir": directory, "project": project, "name": name}
    if getattr(rank_zero_only, "rank", 0) != 0:
        return WandbLogger(**place)
    run = _start_run(
        mode,
        # W&B's own process writes the files, and it may have another current folder.
        dir=str(directory.absolute()),
        project=project,
        name=name,
        entity=entity,
        group=group or name,
        tags=list(tags),
        config=dict(config or {}),
    )
    if run is None:
        return None
    run.define_metric(STEP)
    for metric in metrics:
        run.define_metric(metric, step_metric=STEP)
    return WandbLogger(experiment=run, **place)


def view_command(directory: Path) -> str | None:
    """The shell command that shows a run in the terminal, without an account.

    Args:
        directory: the run directory. Of a resumed run, the last part is shown.

    Returns:
        The command; None if the directory has no W&B files.
    """
    segments = [file.parent for file in directory.glob("wandb/*run-*/run-*.wandb")]
    if not segments:
        return None
    return f"{_wandb_program()} leet {shlex.quote(_short(max(segments, key=_started)))}"


def _open_session(mode: str | None) -> tuple[str, str]:
    """Load W&B's settings, silenced; the mode (`mode` None: the configured one) and the server."""
    import wandb

    overrides = {"silent": True} if mode is None else {"silent": True, "mode": mode}
    settings = wandb.setup(settings=wandb.Settings(**overrides)).settings
    return settings.mode, settings.base_url


def _missing_key() -> str | None:
    """Why there is no usable API key; None if there is one. Reads files only."""
    import wandb

    try:
        found = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        return f"the API key cannot be used ({_line(error)})"
    return None if found else "there is no API key"


def _answers(url: str) -> bool:
    """Whether a server accepts connections; two seconds at most, name look-up included."""
    address = _address(url)
    reached = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(address, timeout=_PROBE_SECONDS).close()
        except OSError:
            return
        reached.set()

    # A thread, because the name look-up has no timeout.
    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    knocker.join(_PROBE_SECONDS)
    return reached.is_set()


def _address(url: str) -> tuple[str, int]:
    """Host and port to connect to: those of the proxy, if there is one, else those of the URL."""
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return target.hostname or "", target.port or (443 if target.scheme == "https" else 80)


def _start_run(mode: Mode, **arguments: Any) -> Any:
    """The W&B run in the best mode that works, or None; prints one line for each failed mode."""
    if mode == "online":
        try:
            return _init("online", arguments)
        except Exception as error:
            print(f"W&B: offline, because the run could not start online ({_line(error)}).")
    try:
        return _init("offline", arguments)
    except Exception as error:
        print(f"W&B: disabled, because it cannot start ({_line(error)}).")
        return None


def _init(mode: Mode, arguments: Mapping[str, Any]) -> Any:
    import wandb

    _open_session(None)
    earlier = [path.name for path in Path(arguments["dir"]).glob("wandb/run-*-*")]
    return wandb.init(
        mode=mode,
        id=max(earlier).split("-", 2)[2] if earlier and mode == "online" else None,
        resume="allow",
        reinit="create_new",  # keep a run that is already open in this process
        settings=wandb.Settings(
            silent=True,
            console="off",  # do not record the progress bar
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
        ),
        **arguments,
    )


def _started(segment: Path) -> tuple[str, bool]:
    """Sort key: start time; at equal times, a failed online attempt comes before offline."""
    offline = segment.name.startswith("offline-")
    return segment.name.removeprefix("offline-")[: len("run-YYYYMMDD_HHMMSS")], offline


def _wandb_program() -> str:
    """`wandb`, or its path if the virtual environment is not active."""
    beside = Path(sys.executable).with_name("wandb")
    if shutil.which("wandb") or not beside.exists():
        return "wandb"
    return shlex.quote(_short(beside))


def _short(path: Path) -> str:
    """The path relative to the current directory if it lies below it, else the absolute path."""
    absolute = path.absolute()
    below = absolute.is_relative_to(Path.cwd())
    return str(absolute.relative_to(Path.cwd()) if below else absolute)


def _line(error: Exception) -> str:
    """The first line of an exception's message, or the name of its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
