"""Processes that import once and run one command after another, each with a share of the machine.

A worker has a session of its own, so that Ctrl-C in the terminal reaches the sweep alone, which
passes it on and waits until every run has closed its files. It ends with the sweep's process,
however that ends. A worker that dies costs one run and is replaced.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

Main = Callable[[list[str]], int]

# Fresh processes: a fork would copy torch's threads and locks, and cannot use CUDA.
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Task:
    """One command.

    Attributes:
        name: of the run.
        argv: its command line.
        log: the file to which its output is appended.
    """

    name: str
    argv: list[str]
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        name: of the run.
        failure: None, or why it failed, in one line.
    """

    name: str
    failure: str | None


def outcomes(
    tasks: Iterator[Task], main: Main, shares: Sequence[Mapping[str, str]]
) -> Generator[Outcome, None, None]:
    """Run all commands; whatever ends this, the processes end first.

    Args:
        tasks: the commands; each is asked for when it is to start.
        main: runs a command line and returns its exit status; a function that can be pickled.
        shares: one worker each, with these environment variables.
    """
    workers: list[Worker] = []
    try:
        workers += [Worker(main, share) for share in shares]
        idle = list(workers)
        while True:
            for worker, task in zip(idle, tasks, strict=False):
                worker.start(task)
            busy = {worker.connection: worker for worker in workers if worker.task}
            if not busy:
                return
            idle = []
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                outcome = worker.outcome()
                if not worker.usable:
                    worker.end()
                    fresh = Worker(main, worker.share)
                    workers[workers.index(worker)] = worker = fresh
                idle.append(worker)
                yield outcome
    finally:
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.end()


class Worker:
    """The sweep's end of one process."""

    def __init__(self, main: Main, share: Mapping[str, str]) -> None:
        self.share = share
        self.task: Task | None = None
        self.usable = True
        self.connection, there = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(there, main, dict(share)))
        # Inherited: Ctrl-C before the process has its own session would end it with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        there.close()

    def start(self, task: Task) -> None:
        self.task = task
        self.connection.send(task)

    def outcome(self) -> Outcome:
        """How the task ended, once the connection can be read."""
        assert self.task is not None
        name, self.task = self.task.name, None
        try:
            failure, self.usable = self.connection.recv()
        except EOFError:
            self._process.join()
            failure, self.usable = _death(self._process.exitcode), False
        return Outcome(name, failure)

    def interrupt(self) -> None:
        """Ask the process to leave its task, and to end."""
        if self.task is not None and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGINT)
        self.connection.close()

    def end(self) -> None:
        """Wait for the end of the process; a second Ctrl-C meanwhile ends it at once."""
        self.connection.close()
        try:
            self._process.join()
        except KeyboardInterrupt:
            self._process.kill()
            self._process.join()


def last_words(log: Path) -> str:
    """The last line of a log, which says why a command failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    line = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return line.strip().removeprefix("train.py: ")


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"its process was killed ({name}), perhaps for memory; fewer --jobs take less"
    return f"its process died with status {exitcode}"


def _work(connection: Connection, main: Main, share: Mapping[str, str]) -> None:
    """The other end: one task after another, until the connection closes."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that came before is forgotten
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.update(share)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            connection.send((_run(main, task), _usable()))
        except (KeyboardInterrupt, ConnectionError):  # the sweep ends, and waits for no answer
            return


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _run(main: Main, task: Task) -> str | None:
    """Run a task with its output in its log; None or why it failed."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    sys.argv[1:] = task.argv  # the command in provenance.json, and of further ranks of the run
    with task.log.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(task.argv)
    except Exception:
        traceback.print_exc()
        status = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
        sys.stderr.flush()
    os.environ.clear()
    os.environ.update(before)
    gc.collect()
    return None if status == 0 else last_words(task.log)


def _usable() -> bool:
    """Whether another run can follow: a process group of several ranks cannot be left behind."""
    distributed = sys.modules.get("torch.distributed")
    return not (distributed and distributed.is_available() and distributed.is_initialized())
