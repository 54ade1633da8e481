"""`audit`: whether the weights of a network give its training data away, with a verdict."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from jsonargparse import Namespace
from safetensors.torch import load_file
from torch import Tensor

from lit_recon.audit.change import Held, PixelFlags, inputs_of, of_layer
from lit_recon.audit.choice import every_method
from lit_recon.audit.job import device_of
from lit_recon.audit.models import module_class, own_module
from lit_recon.audit.patches import FOLDER, with_patches
from lit_recon.audit.recorder import Recorder, of_method
from lit_recon.audit.threat import InputFacts, TrainingFacts, knowledge_of
from lit_recon.audit.verdict import LIMITS, Attacked, verdict_of
from lit_recon.errors import InputError
from lit_recon.flags import CommandLine, Group, Source, describe
from lit_recon.knowledge import Knowledge
from lit_recon.methods import Reconstructor
from lit_recon.metrics.likeness import MOST_HELD_OUT, ncc
from lit_recon.models.wrapped import as_attacked, as_named
from lit_recon.records.directory import RunDirectory
from lit_recon.records.jsonl import JsonlLogger
from lit_recon.records.provenance import FILE as PROVENANCE
from lit_recon.records.provenance import provenance
from lit_recon.records.truth import Truth
from lit_recon.report.page import write_run_report
from lit_recon.report.verdict import FILE

INTRODUCTION = """\
usage: {program} audit --before FILE --after FILE [--pixels.shape ... | --data ...]
       {program} audit --weights FILE [--pixels.shape ... | --data ...]
       {program} audit --before FILE --after FILE --module package.Class [...]
       {program} audit --run runs/NAME

Tries every attack that applies to a network, the cheapest first and all in one time budget, and
says what came back. The exit status is 0 if nothing came back, 3 if something did, 1 or 2 if the
audit could not be made. Files are Lightning checkpoints, state dicts (.pt, .pth) or .safetensors;
no code in them is run. Without --module only the first dense layer is attacked, and the class of
the network is not needed. Without --data, which only the clone has, nothing is known of the
training data, and certificates say what came back.

"""
FINAL = "rowspace_final"
SPARE = 2  # a method that is not the last one takes at most this part of the time that is left


@dataclass
class AuditFlags:
    """What is audited, and where the results go.

    Args:
        before: a checkpoint of the network before training, or at any earlier step.
        after: the checkpoint that is to be released.
        update: the difference of two checkpoints, such as the update of a client, instead of both.
        weights: the checkpoint that is to be released, if no earlier one is known to an attacker.
        run: directory of a run of this project, instead of files.
        module: the LightningModule of the checkpoints, as package.Class or as a class of --plugin,
            whose code you trust; it is made from the hyper-parameters in the file. null: only the
            first dense layer is attacked.
        control: a checkpoint like --after of a network that was trained in the same way without the
            data of --data; the same attacks must not find these data in it.
        layer: dotted name of the dense layer that the inputs meet; null: the first layer.
        max_seconds: time budget of all attacks together, above 0; the control has its own.
        device: cpu, cuda, cuda:1 and so on; auto uses a GPU if there is one.
        out: directory for the results; null: a new one in runs.
    """

    before: str | None = None
    after: str | None = None
    update: str | None = None
    weights: str | None = None
    run: str | None = None
    module: str | None = None
    control: str | None = None
    layer: str | None = None
    max_seconds: float = 300.0
    device: str = "auto"
    out: str | None = None


def audit(
    argv: Sequence[str],
    plugins: Sequence[ModuleType],
    data: Group | None = None,
    open_run: Callable[[str, torch.device], Held] | None = None,
    program: str = "python train.py",
) -> int:
    """Run the command; ``--help`` prints its flags.

    Args:
        argv: the arguments after the command.
        plugins: the user's own packages.
        data: the flags of ``--data``; None: there are no data modules, as in the wheel.
        open_run: opens the last checkpoint of a run directory; None: it cannot be opened.
        program: how the program was called.

    Returns:
        The exit status: 0 if nothing came back, 3 if something did.

    Raises:
        InputError: a wrong flag, or a wrong file.
        RunError: results cannot be written.
    """
    pixels = Group("pixels", (PixelFlags,))
    groups = [Group("", (AuditFlags,)), pixels, *([] if data is None else [data])]
    if {"-h", "--help"} & set(argv):
        print(INTRODUCTION.format(program=program) + describe(groups), end="")
        return 0
    packages = ["lit_recon", "datamodules", *(plugin.__name__ for plugin in plugins)]
    command = CommandLine(f"{program} audit", groups, packages)
    sources = command.read(argv)
    flags = command.parse([source.without("data") for source in sources])
    _check(flags, sources)
    given = any(source.only("data").values for source in sources)
    if data is not None and not given:  # the record of an audit without data must name none
        command = CommandLine(command.command, groups[:-1], packages)
    flags = command.parse(sources)
    if flags.run is None:
        held = of_files(flags, plugins)
    else:
        if open_run is None:
            raise InputError("--run", flags.run, "is for python train.py audit, in the clone")
        held = open_run(flags.run, device_of(flags.device))
    return _Audit(flags, held, command.dump(flags), plugins).run()


def _check(flags: Namespace, sources: Sequence[Source]) -> None:
    """Refuse flags that are missing, or do not go together."""
    uses = {"after", "update", "weights", "run"}
    given = sorted(name for name in uses if flags[name] is not None)
    if flags.before is not None and not given:
        raise InputError("--after", "missing", "give the checkpoint to compare with --before")
    if len(given) != 1:
        remedy = "give one of --before with --after, --update, --weights, and --run"
        raise InputError(f"--{given[1]}" if given else "--after", _or_missing(flags, given), remedy)
    if flags.after is not None and flags.before is None:
        remedy = "give an earlier checkpoint, or the later one as --weights"
        raise InputError("--before", "missing", remedy)
    for name in ("before", "module", "layer", "control"):
        alone = flags.run is not None or (name == "before" and flags.after is None)
        if alone and flags[name] is not None:
            raise InputError(f"--{name}", flags[name], f"is not for --{given[0]}; leave it out")
    if flags.module is not None and flags["update"] is not None:  # `flags.update` is a method
        raise InputError("--module", flags.module, "is for whole checkpoints, not for --update")
    if not flags.max_seconds > 0:
        raise InputError("--max-seconds", flags.max_seconds, "give seconds above 0")
    given_data = any(source.only("data").values for source in sources)
    if flags.run is not None:
        for source in sources:
            for flag, value in (*source.only("data").values, *source.only("pixels").values):
                raise InputError(f"--{flag}", source.given(value), "is for files; the run has it")
    elif not given_data and flags.pixels.mean is None and flags.pixels.mean_image is None:
        remedy = "give shape, mean and std of the pixels, or --data; nothing is certain without"
        raise InputError("--pixels.mean", "missing", remedy)
    if flags.control is not None and not given_data:
        raise InputError("--control", flags.control, "needs --data, which must not be found in it")


def _or_missing(flags: Namespace, given: Sequence[str]) -> str:
    return flags[given[1]] if given else "missing"


def of_files(flags: Namespace, plugins: Sequence[ModuleType]) -> Held:
    """What an attacker holds who has the files.

    Raises:
        InputError: a wrong flag, or a wrong file.
    """
    if flags.module is None:
        return of_layer(flags)
    truth, shape, pixels = inputs_of(flags)
    if shape is None:
        remedy = "give the shape of an image, as '[3, 32, 32]'; the module is run on one"
        raise InputError("--pixels.shape", "missing", remedy)
    cls = _module_class(flags.module, plugins)
    flag = "--weights" if flags.after is None else "--after"
    device = device_of(flags.device)
    module, saved = own_module(cls, flag, flags[flag[2:]])
    network = as_attacked(module.float().requires_grad_(True), torch.zeros(1, *shape))
    start: dict[str, torch.Tensor] = {}
    step = 0
    if flags.before is not None:
        earlier, earlier_saved = own_module(cls, "--before", flags.before)
        step = int(earlier_saved.get("global_step", 0))
        values = {name: value.detach() for name, value in earlier.named_parameters()}
        start = as_named(network, module, values)
        if all(torch.equal(start[name], value) for name, value in network.named_parameters()):
            remedy = "has the same weights in --before, so nothing of the data is in them"
            raise InputError("--after", flags.after, remedy)
    inputs = truth or InputFacts(shape, pixels)
    known = knowledge_of(network.to(device), start, TrainingFacts(), inputs, step)
    at = (int(saved.get("global_step", 0)), int(saved.get("epoch", 0)))
    held = Held(known, truth, *at, "audit", device)
    return with_patches(held, start, shape, step)


def _module_class(name: str, plugins: Sequence[ModuleType]) -> Any:
    """The LightningModule of ``--module``."""
    package, dot, kind = name.rpartition(".")
    if not dot:
        return module_class(plugins, name)
    try:
        found = import_module(package)
    except Exception as error:  # the user's code can raise anything
        reason = f"its package cannot be imported ({type(error).__name__}: {error})"
        raise InputError("--module", name, reason) from error
    return module_class([found], kind)


@dataclass
class _Audit:
    """One audit, from what an attacker holds to the verdict."""

    flags: Namespace
    held: Held
    record: str
    plugins: Sequence[ModuleType]

    def run(self) -> int:
        """Attack, judge, write and print; returns the exit status."""
        start, directory, parts = perf_counter(), self._directory(), self.held.patches
        if self.held.truth is not None:
            self.held.truth.write(directory)
        attacked, skipped = self._attack(directory, self.held)
        control = self._control(directory)
        verdict = verdict_of(_of(attacked, False), self.held.truth, _of(control, False))
        if parts is not None:
            found = verdict_of(_of(attacked, True), parts.truth, _of(control, True), "patch")
            verdict = replace(verdict, patches=found)
        told = {
            "level": verdict.worst,
            "exit_status": verdict.status,
            "words": verdict.words,
            "numbers": asdict(verdict),
            "methods": [_summary(result.numbers) for result in attacked],
            "not_tried": skipped,
            "seconds": perf_counter() - start,
            "files": {name: _sha256(file) for name, file in self._files()},
            "limits": list(LIMITS),
        }
        directory.write_json(FILE, told)
        report = write_run_report(directory.path)
        print(*("", *verdict.words), sep="\n")
        print(f"\nverdict  {directory.path / FILE}\nreport   {report}")
        if parts is not None:
            print(f"patches  {write_run_report(directory.path / FOLDER)}")
        return verdict.status

    def _directory(self) -> RunDirectory:
        out = self.flags.out
        if out is None:
            directory = RunDirectory.create("runs", stem="audit")
        else:
            path = Path(out)
            if path.exists():
                raise InputError("--out", out, "is there already; give a new one")
            directory = RunDirectory.create(path.parent, path.name)
        directory.write_text("config.yaml", self.record)
        directory.write_json(PROVENANCE, provenance(sys.argv, 0, self.held.device))
        return directory

    def _files(self) -> Iterator[tuple[str, str]]:
        """The flags that name a file, with the file."""
        for name in ("before", "after", "update", "weights", "control"):
            if self.flags[name] is not None:
                yield name, self.flags[name]

    def _attack(
        self, directory: RunDirectory, held: Held
    ) -> tuple[list[Attacked], list[dict[str, str]]]:
        """Attack by every method that applies, until one is sure or the time is over.

        Returns:
            What each gave, and the name of every other method with the reason.
        """
        deadline = perf_counter() + self.flags.max_seconds
        applying, skipped = [], []
        if held.patches is not None:
            inner = RunDirectory.create(directory.path, FOLDER)
            inner.write_text("config.yaml", self.record)
            if held.patches.truth is not None:
                held.patches.truth.write(inner)
        for method in every_method(costly=True):
            reason = _reason_against(method, held.seen_by(method).knowledge)
            if reason is None:
                applying.append(method)
            else:
                skipped.append({"method": method.name, "reason": reason})
        found: list[Attacked] = []
        for i, method in enumerate(applying):
            left = deadline - perf_counter()
            if left <= 0:
                reason = f"the time of {self.flags.max_seconds:g} s was over"
            elif found and found[-1].complete:
                reason = f"{found[-1].numbers['method']} is sure that all has come back"
            else:
                method.max_seconds = left if i + 1 == len(applying) else left / SPARE
                seen = held.seen_by(method)
                root = directory if seen is held else inner
                place = of_method(root, method.name)
                recorder = Recorder(method, place, seen.truth, [JsonlLogger(root)])
                recorder.attack(held.step, held.epoch, seen.knowledge)
                tensors = load_file(place.step_path(held.step) / "candidates.safetensors")
                decoded = (tensors.get("images"), tensors.get("certified"))
                likeness = _likeness(tensors["candidates"], seen.truth)
                results = recorder.results[held.step]
                found.append(Attacked(results, *decoded, seen is not held, likeness))
                continue
            skipped.append({"method": method.name, "reason": reason})
        for entry in skipped:
            print(f"{entry['method']} not tried: {entry['reason']}")
        return found, skipped

    def _control(self, directory: RunDirectory) -> list[Attacked]:
        """The same attacks on the network of ``--control``."""
        flags = self.flags.clone()
        if flags.control is None:
            return []
        flags["weights" if flags.weights is not None else "after"] = flags.control
        print("\ncontrol, which was not trained on the data")
        inner = RunDirectory.create(directory.path, "control")
        inner.write_text("config.yaml", self.record)
        return self._attack(inner, of_files(flags, self.plugins))[0]


def _likeness(candidates: Tensor, truth: Truth | None) -> tuple[Tensor, Tensor] | None:
    """The NCC of each training image, and of each held-out one, with its nearest candidate."""
    if truth is None or truth.images is None or not len(candidates):
        return None
    shape = truth.images.shape[1:]
    inputs = (truth.x, truth.held_out[:MOST_HELD_OUT])
    members, held_out = (
        ncc(x.reshape(-1, *shape), candidates.reshape(-1, *shape)).nan_to_num(-1).amax(1)
        for x in inputs
    )
    return members, held_out


def _of(attacked: Sequence[Attacked], patches: bool) -> list[Attacked]:
    """The results on patches, or those on whole inputs."""
    return [result for result in attacked if result.patches == patches]


def _reason_against(method: Reconstructor, knowledge: Knowledge) -> str | None:
    """Why a method does not apply; None: it does."""
    try:
        method.check(knowledge.model)
    except InputError as error:
        return error.remedy
    earlier = knowledge.earlier_first_layer
    if method.name == FINAL and earlier is not None and not earlier.weight.any():
        return "an update has no start, so rowspace attacks the same"
    missing = method.missing(knowledge)
    return f"needs: {', '.join(missing)}" if missing else None


def _summary(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What the verdict file repeats of a method's results."""
    kept = ("method", "status", "reason", "sure", "seconds", "candidates", "knows")
    shares = ("certified_fraction", "exact_fraction", "recovered_fraction", "good_fraction")
    return {name: numbers[name] for name in (*kept, *shares)}


def _sha256(files: str) -> str:
    """The hash of a file, or of several that commas separate, by which weights are known again."""
    found = hashlib.sha256()
    for file in files.split(","):
        with Path(file).open("rb") as content:
            while block := content.read(1 << 20):
                found.update(block)
    return found.hexdigest()
