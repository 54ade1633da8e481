"""The commands of train.py in processes that are forked from one that has imported everything.

A new Python needs ten seconds of a core to import torch and Lightning, and the tests start many.
Such a process runs the same file with the same arguments, in a folder, an environment and, if
asked, a session of its own. Three things differ from a new one: modules have read the environment
before, the workers of a sweep are forked, and so is the second rank of a run. Some tests, at least
one for each of these, start a command as a user does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.strategies.launchers import subprocess_script

from lit_recon.sweeps import workers

ROOT = Path(__file__).parents[1]
PROGRAM = str(ROOT / "train.py")
_CONTEXT = multiprocessing.get_context("forkserver")


def context() -> multiprocessing.context.ForkServerContext:
    """Whose processes are forked from the server, which is started in the root of the clone."""
    here = Path.cwd()
    os.chdir(ROOT)  # the server looks for what it imports where it is started
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(here)
    return _CONTEXT


# In the place of the context of a sweep's workers; the server is started with the first one.
CONTEXT = SimpleNamespace(Pipe=_CONTEXT.Pipe, Process=lambda **given: context().Process(**given))


def foreign(home: Path) -> dict[str, str]:
    """The environment of a user who has another home, and no W&B."""
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    return environment | {"HOME": str(home), "OMP_NUM_THREADS": "1"}


class Command:
    """``python train.py ARGV`` that has been started; the part of ``Popen`` that tests use."""

    def __init__(
        self, *argv: str, home: Path, environment: Mapping[str, str], session: bool = False
    ) -> None:
        pipes = [_CONTEXT.Pipe(duplex=False) for _ in range(2)]
        outputs = [there for _, there in pipes]
        given = (list(argv), str(home), dict(environment), session, outputs)
        self._process = context().Process(target=_run, args=given)
        self._process.start()
        self._told = ["", ""]
        self._readers = [
            threading.Thread(target=self._read, args=(i, here), daemon=True)
            for i, (here, _) in enumerate(pipes)
        ]
        for there, reader in zip(outputs, self._readers, strict=True):
            there.close()
            reader.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def _read(self, index: int, pipe: Connection) -> None:
        with open(os.dup(pipe.fileno()), encoding="utf-8") as text:
            self._told[index] = text.read()
        pipe.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """stdout and stderr, when the command and all that write there have ended."""
        end = time.monotonic() + timeout
        waited: list[Any] = [*self._readers, self._process]
        for waiting in waited:
            waiting.join(max(0.0, end - time.monotonic()))
            if waiting.is_alive():
                raise subprocess.TimeoutExpired("train.py", timeout)
        return self._told[0], self._told[1]

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()


def _run(
    argv: list[str],
    home: str,
    environment: dict[str, str],
    session: bool,
    outputs: list[Connection],
) -> None:
    """The command, in its process."""
    if session:
        os.setsid()
    for descriptor, pipe in enumerate(outputs, 1):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    os.chdir(home)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    # The workers of a sweep come from the same server; Python would start one for each process.
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign]
    workers._CONTEXT = _CONTEXT  # type: ignore[assignment]
    sys.argv = [PROGRAM, *argv]
    if "--trainer.devices" in argv:
        _fork_the_second_rank()
    try:
        runpy.run_path(PROGRAM, run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _fork_the_second_rank() -> None:
    """It waits until Lightning starts it, in the state that a new process would have."""
    receiver, sender = os.pipe()
    second = os.fork()
    if second:
        os.close(receiver)
        start = partial(_Rank, second, sender)
        subprocess_script.subprocess = SimpleNamespace(Popen=start)  # type: ignore[assignment]
        return
    os.close(sender)
    with open(receiver, "rb") as pipe:
        told = pipe.read()
    if not told:  # the first rank has ended without
        os._exit(0)
    sys.argv, environment = pickle.loads(told)
    os.environ.clear()
    os.environ.update(environment)


class _Rank:
    """The second rank, started; the part of ``Popen`` that Lightning uses."""

    def __init__(
        self, pid: int, sender: int, command: list[str], env: dict[str, str], cwd: None
    ) -> None:
        assert command[:2] == [sys.executable, PROGRAM]
        self.pid = pid
        self.returncode: int | None = None
        with open(sender, "wb") as pipe:
            pipe.write(pickle.dumps((command[1:], env)))

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)
