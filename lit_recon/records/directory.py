"""The directory of one run: every file in it is whole or not there, whenever the run is killed.

Files are written beside their place and renamed into it. The leftovers of a killed run are known by
their names, ``.NAME.tmp-XXXXXXXX``, and removed by the next run that starts in the directory.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from lit_recon.errors import InputError, RunError
from lit_recon.files import LEFTOVER, beside, sync, whole_file

# What a file system, a shell and a W&B run name all take.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,127}")
SWEEP_FILE = "sweep.json"
RESULTS = "recon"  # the folder of the results of a run's own settings
_MARKS = {"run": ("config.yaml", "provenance.json"), "sweep": (SWEEP_FILE,)}
# A disk without room for this has none for a run; a smaller probe would pass on one that is full.
_PROBE_BYTES = 1 << 20


class RunDirectory:
    """Reads and writes the directory of one run.

    The constructor only names a directory that is there, for `reconstruct`, `report` and the ranks
    beside rank 0; a new run starts with `create`. Writing that fails raises `RunError`.
    Reconstructions are in its folder `results`: of one method, ``recon/METHOD`` or, of other
    settings than the run's, ``recon-VARIANT/METHOD``.
    """

    def __init__(self, path: str | os.PathLike[str], results: str = RESULTS) -> None:
        self._path = Path(path)
        self._results = results

    @classmethod
    def create(
        cls,
        dir: str | os.PathLike[str],
        name: str | None = None,
        *,
        stem: str = "run",
        resume: bool = False,
        overwrite: bool = False,
        kind: Literal["run", "sweep"] = "run",
    ) -> RunDirectory:
        """Claims ``dir/name`` for a run that starts now.

        Args:
            dir: where the runs are; made if it is missing.
            name: the run's name; None for ``STEM-YYYYMMDD-HHMMSS`` in local time, never one that
                is taken.
            stem: the start of an automatic name.
            resume: go on in the directory of an earlier run; without one, start it.
            overwrite: replace an earlier run. Only a directory that looks like a run is deleted,
                and only once its successor is known to be writable.
            kind: what the directory is for. A sweep's holds runs, some of them perhaps at work,
                which look after their own leftovers.

        Raises:
            InputError: a name that is taken or cannot be one, flags that contradict each other, a
                full or read-only disk.
        """
        if resume and overwrite:
            raise InputError("--run.overwrite", "true", "contradicts --run.resume true")
        if resume and name is None:
            raise InputError("--run.resume", "true", "needs --run.name, the run to go on with")
        if name is not None and not _NAME.fullmatch(name):
            remedy = "give letters, digits and any of _ . = + - (not first), at most 128"
            raise InputError("--run.name", repr(name), remedy)
        root = Path(dir)
        with _usable(root):
            if root.exists() and not root.is_dir():
                raise InputError("--run.dir", root, "is a file; give a folder")
            root.mkdir(parents=True, exist_ok=True)
            if name is None:
                return cls(_claim_automatic(root, stem))
            _remove_leftovers(root, f".{name}.tmp-")
            return cls(_claim_named(root / name, kind, resume=resume, overwrite=overwrite))

    @property
    def path(self) -> Path:
        """The directory itself."""
        return self._path

    @property
    def results(self) -> str:
        """The name of the folder of reconstructions in it."""
        return self._results

    @property
    def checkpoints(self) -> Path:
        """Where ModelCheckpoint writes; not made here."""
        return self._path / "checkpoints"

    def step_path(self, step: int) -> Path:
        """Where the reconstruction at training step `step` is, if it has been done."""
        return self._path / self._results / f"step={step:08d}"

    def steps(self) -> list[int]:
        """The training steps whose reconstructions are there."""
        folders = (self._path / self._results).glob("step=*")
        return sorted(int(folder.name.removeprefix("step=")) for folder in folders)

    def has_step(self, step: int) -> bool:
        """Whether the reconstruction at training step `step` is there; if it is, it is whole."""
        return self.step_path(step).is_dir()

    def write_text(self, relative: str, text: str) -> Path:
        """Writes the file `relative`, replacing one that is there, and returns its path."""
        return self.write_bytes(relative, text.encode())

    def write_bytes(self, relative: str, content: bytes) -> Path:
        """The same for bytes."""
        path = self._path / relative
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                draft.write_bytes(content)
        return path

    def write_json(self, relative: str, obj: object) -> Path:
        """Writes `obj` as strict JSON with two spaces of indentation; see `plain`."""
        return self.write_text(relative, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")

    def read_json(self, relative: str) -> dict[str, Any]:
        """The object in the file `relative`.

        Raises:
            RunError: it cannot be read, or holds no JSON object.
        """
        path = self._path / relative
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error})") from error
        if not isinstance(found, dict):
            raise RunError(f"{path} is damaged (it holds no object)")
        return found

    def append_jsonl(self, relative: str, obj: object) -> Path:
        """Appends `obj` as one line of strict JSON, in a single write; see `plain`.

        A crash can leave the last line half written. The next append drops such a tail first, so
        that every line of the file parses.
        """
        path = self._path / relative
        line = json.dumps(plain(obj), allow_nan=False) + "\n"
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_line(path, line.encode())
        return path

    @contextmanager
    def step_directory(self, step: int) -> Iterator[Path]:
        """A directory to fill with the results at training step `step`.

        It takes its place, `step_path`, when the block ends, and is removed if the block raises.

        Raises:
            RunError: the step is done already, or the disk is full.
        """
        path = self.step_path(step)
        if path.exists():
            raise RunError(f"{path} is there already; a step that is done is not done again")
        temporary = beside(path)
        try:
            with _writing(path):
                temporary.mkdir(parents=True)
                yield temporary
                _sync_tree(temporary)
                temporary.rename(path)
                sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def older_layout(path: Path) -> str | None:
    """What is wrong with results that an earlier version has left, and what to do; None: nothing.

    It had one method, and its steps directly in the folder of results.
    """
    folder = next((step.parent for step in sorted(path.glob(f"{RESULTS}*/step=*"))), None)
    if folder is None:
        return None
    there = f"{folder.name}/METHOD"
    return (
        f"has results of an older version in {folder.name}/step=...; move them to {there}/step=...,"
        " where METHOD is the word in their metrics.json, or run it again"
    )


def refuse_older_layout(flag: str, path: str | os.PathLike[str]) -> None:
    """Refuse a run whose results an earlier version has left.

    Raises:
        InputError: it is one.
    """
    reason = older_layout(Path(path))
    if reason is not None:
        raise InputError(flag, path, reason)


def plain(value: object) -> object:
    """`value` as strict JSON knows it: a number that is NaN or infinite becomes null.

    Tensors, arrays and their scalars become lists and numbers, paths strings, mappings objects with
    string keys, sequences arrays.

    Raises:
        TypeError: for anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, neither of which this file imports
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _claim_automatic(root: Path, stem: str) -> Path:
    """Makes ``STEM-TIME`` or, where runs start in the same second, ``STEM-TIME-2`` and so on."""
    base = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    attempt = 1
    while True:
        path = root / (base if attempt == 1 else f"{base}-{attempt}")
        with suppress(FileExistsError):  # mkdir tells and takes in one step, unlike exists()
            return _make(path)
        attempt += 1


def _claim_named(path: Path, kind: str, *, resume: bool, overwrite: bool) -> Path:
    try:
        return _make(path)
    except FileExistsError:
        if not (resume or overwrite):
            _refuse_taken(path)
    replaces_link = overwrite and path.is_symlink()  # whose target is somewhere else for a reason
    if not path.is_dir() or not _is_ours(path, _MARKS[kind]) or replaces_link:
        remedy = f"is there and is no {kind} directory; give another name, or move it away"
        raise InputError("--run.name", path.name, remedy)
    if overwrite:
        _replace_run(path)
    else:
        _probe(path)
        if kind == "run":
            _remove_leftovers_below(path)
        else:
            _remove_leftovers(path, ".")
    return path


def _refuse_taken(path: Path) -> NoReturn:
    remedy = (
        f"is in {path.parent} already; give --run.resume true to go on with it, --run.overwrite "
        "true to replace it, or another name"
    )
    raise InputError("--run.name", path.name, remedy)


def _is_ours(path: Path, marks: Sequence[str]) -> bool:
    """An empty directory counts: a run may be killed before its first file, and nothing is lost."""
    entries = [entry.name for entry in path.iterdir() if not LEFTOVER.fullmatch(entry.name)]
    return not entries or any(mark in entries for mark in marks)


def _make(path: Path) -> Path:
    """Makes a directory that can be written, or none."""
    path.mkdir()
    try:
        _probe(path)
    except OSError:
        path.rmdir()
        raise
    return path


def _replace_run(path: Path) -> None:
    """Puts an empty directory in the place of an earlier run, and only then deletes that run."""
    fresh = _make(beside(path))
    earlier = beside(path)
    path.rename(earlier)
    fresh.rename(path)
    shutil.rmtree(earlier, ignore_errors=True)  # what resists is a leftover, tried again next time


def _probe(directory: Path) -> None:
    """Raises OSError where files cannot be written, now rather than after an hour of training."""
    path = beside(directory / "probe")
    try:
        with path.open("xb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        path.unlink(missing_ok=True)


def _remove_leftovers(directory: Path, prefix: str) -> None:
    for entry in directory.iterdir():
        if entry.name.startswith(prefix) and LEFTOVER.fullmatch(entry.name):
            _remove(entry)


def _remove_leftovers_below(directory: Path) -> None:
    for parent, directories, files in os.walk(directory):
        for name in [name for name in directories + files if LEFTOVER.fullmatch(name)]:
            _remove(Path(parent, name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _append_line(path: Path, line: bytes) -> None:
    with path.open("a+b", buffering=0) as file:
        _drop_half_line(file.fileno())
        if file.write(line) != len(line):  # a disk that fills up takes a part
            _drop_half_line(file.fileno())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _drop_half_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    content = os.pread(descriptor, size, 0)
    os.ftruncate(descriptor, content.rfind(b"\n") + 1)


def _sync_tree(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


@contextmanager
def _usable(root: Path) -> Iterator[None]:
    """Turns what the system says about the place of a run into one line about the flag."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or error
        remedy = f"cannot be written ({cause}); give a folder that can, on a disk with room"
        raise InputError("--run.dir", root, remedy) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
