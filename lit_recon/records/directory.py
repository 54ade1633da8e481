"""The directory of one run; every file is complete or absent, even if the run is killed.

Files are written under a temporary name, ``.NAME.tmp-XXXXXXXX``, and then renamed. The next run
that starts in the directory removes what a killed run has left.
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

# Names that a file system, a shell and W&B accept.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,127}")
SWEEP_FILE = "sweep.json"
RESULTS = "recon"  # the folder of the results of a run's own settings
_MARKS = {"run": ("config.yaml", "provenance.json"), "sweep": (SWEEP_FILE,)}
# A disk without room for this is too full for a run; a smaller probe can pass on a full disk.
_PROBE_BYTES = 1 << 20


class RunDirectory:
    """Reads and writes the directory of one run.

    The constructor takes an existing directory and checks nothing; `create` makes the directory of
    a new run. Every method that writes raises `RunError` if it fails.

    Args:
        path: the run directory.
        results: the folder of reconstructions in it: ``recon/METHOD``, or ``recon-VARIANT/METHOD``
            for settings that differ from the run's.
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
        """Make the directory ``dir/name`` for a run that starts now.

        Args:
            dir: the folder of the run directories; made if it is missing.
            name: the run's name; None for an unused ``STEM-YYYYMMDD-HHMMSS`` in local time.
            stem: the start of an automatic name.
            resume: continue in the directory of an earlier run; if there is none, make it.
            overwrite: replace an earlier run. Only a directory that looks like a run is deleted,
                and only after its replacement has proved writable.
            kind: what the directory holds. In a sweep's directory, temporary files below the top
                level are kept: they may belong to runs that are still at work.

        Raises:
            InputError: the name is taken or invalid, flags contradict each other, or the disk is
                full or read-only.
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
        """The path of the directory."""
        return self._path

    @property
    def results(self) -> str:
        """The name of the folder of reconstructions in it."""
        return self._results

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; it may not exist."""
        return self._path / "checkpoints"

    def step_path(self, step: int) -> Path:
        """The folder of the reconstruction at training step `step`; it may not exist."""
        return self._path / self._results / f"step={step:08d}"

    def steps(self) -> list[int]:
        """The training steps with a reconstruction, in ascending order."""
        folders = (self._path / self._results).glob("step=*")
        return sorted(int(folder.name.removeprefix("step=")) for folder in folders)

    def has_step(self, step: int) -> bool:
        """Whether there is a reconstruction at training step `step`; if so, it is complete."""
        return self.step_path(step).is_dir()

    def write_text(self, relative: str, text: str) -> Path:
        """Write text to the file `relative` of the directory, replacing it; returns its path."""
        return self.write_bytes(relative, text.encode())

    def write_bytes(self, relative: str, content: bytes) -> Path:
        """Write bytes to the file `relative` of the directory, replacing it; returns its path."""
        path = self._path / relative
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as draft:
                draft.write_bytes(content)
        return path

    def write_json(self, relative: str, obj: object) -> Path:
        """Write `obj` as strict JSON with two spaces of indentation; `plain` converts it."""
        return self.write_text(relative, json.dumps(plain(obj), indent=2, allow_nan=False) + "\n")

    def read_json(self, relative: str) -> dict[str, Any]:
        """Read the JSON object in the file `relative`.

        Raises:
            RunError: the file cannot be read, or holds no JSON object.
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
        """Append `obj` as one line of strict JSON, in a single write; `plain` converts it.

        A crash can leave half a line at the end. The next append removes it first, so that every
        line of the file parses.
        """
        path = self._path / relative
        line = json.dumps(plain(obj), allow_nan=False) + "\n"
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _append_line(path, line.encode())
        return path

    @contextmanager
    def step_directory(self, step: int) -> Iterator[Path]:
        """Yield a temporary directory for the results at training step `step`.

        It is renamed to `step_path` when the block ends, and removed if the block raises.

        Raises:
            RunError: the step has results already, or the disk is full.
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
    """Why the results of a run are of an earlier version, and what to do; None if they are not.

    Earlier versions had one method and no folder METHOD between the results and their steps.
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
    """Refuse a run whose results are of an earlier version.

    Raises:
        InputError: they are.
    """
    reason = older_layout(Path(path))
    if reason is not None:
        raise InputError(flag, path, reason)


def plain(value: object) -> object:
    """Convert `value` to the types of strict JSON; NaN and infinity become None.

    Tensors and arrays become lists, their scalars numbers, paths strings, mappings dictionaries
    with string keys, and sequences lists.

    Raises:
        TypeError: any other type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy and torch, which this module does not import
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _claim_automatic(root: Path, stem: str) -> Path:
    """Make ``STEM-TIME``, or ``STEM-TIME-2`` and so on if other runs start in the same second."""
    base = f"{stem}-{datetime.now():%Y%m%d-%H%M%S}"
    attempt = 1
    while True:
        path = root / (base if attempt == 1 else f"{base}-{attempt}")
        with suppress(FileExistsError):  # mkdir is atomic: a check with exists() first is not
            return _make(path)
        attempt += 1


def _claim_named(path: Path, kind: str, *, resume: bool, overwrite: bool) -> Path:
    try:
        return _make(path)
    except FileExistsError:
        if not (resume or overwrite):
            _refuse_taken(path)
    replaces_link = overwrite and path.is_symlink()  # the user has put its target elsewhere
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
    """Whether a directory looks like a run, or is empty: a run can be killed before its files."""
    entries = [entry.name for entry in path.iterdir() if not LEFTOVER.fullmatch(entry.name)]
    return not entries or any(mark in entries for mark in marks)


def _make(path: Path) -> Path:
    """Make a directory and check that it is writable; remove it again if it is not."""
    path.mkdir()
    try:
        _probe(path)
    except OSError:
        path.rmdir()
        raise
    return path


def _replace_run(path: Path) -> None:
    """Replace an earlier run by an empty directory; the run is deleted last."""
    fresh = _make(beside(path))
    earlier = beside(path)
    path.rename(earlier)
    fresh.rename(path)
    shutil.rmtree(earlier, ignore_errors=True)  # the next start removes what is left


def _probe(directory: Path) -> None:
    """Write and remove a file, so that a full or read-only disk raises OSError before training."""
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
        if file.write(line) != len(line):  # the disk became full
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
    """Turn an OSError about the folder of runs into an InputError about ``--run.dir``."""
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
