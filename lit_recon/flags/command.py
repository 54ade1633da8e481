"""One command's flags: read from the command line and YAML files, checked one by one, parsed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, get_loader, set_parsing_settings
from yaml import YAMLError

from lit_recon.errors import InputError
from lit_recon.flags.options import Group, Option, summary

WIDTH = 100


@dataclass(frozen=True)
class Source:
    """What one file, or the command line, gives.

    Attributes:
        file: the YAML file; None for the command line.
        values: flags without their dashes, and what was given: text on the command line, else
            whatever the file says.
    """

    file: str | None
    values: list[tuple[str, Any]]

    def given(self, value: Any) -> str:
        """How a message names a value."""
        return f"{value}" if self.file is None else f"{value} in {self.file}"


class CommandLine:
    """The flags of one command.

    jsonargparse turns values into what their annotations say and combines the sources. What is
    wrong with a flag is found before, flag by flag: a message of its own then says more in one
    line than jsonargparse's in many, and no class is imported because a file names it.

    Args:
        groups: all groups; one that lies inside another comes after it.
        packages: where the classes of the groups are. Nothing else can be named in a file.
    """

    def __init__(self, groups: Sequence[Group], packages: Sequence[str]) -> None:
        self.groups = {group.name: group for group in groups}
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(packages))
        self._parser = _Parser(allow_abbrev=False, add_help=False)
        self._parser.add_argument("--config", action="config")
        for group in groups:
            self._add(group)

    def read(self, argv: Sequence[str]) -> list[Source]:
        """The files in their order, then the flags: a flag is stronger wherever it stands.

        Raises:
            InputError: a flag without its value, a value without its flag, or an unreadable file.
        """
        pairs = list(_pairs(argv))
        files = [read_file(value) for flag, value in pairs if flag == "config"]
        flags = [(flag, value) for flag, value in pairs if flag != "config"]
        # A class before its arguments, which then need not be typed in this order.
        flags.sort(key=lambda pair: (pair[0] not in self.groups, pair[0].count(".")))
        return [*files, Source(None, flags)]

    def parse(self, sources: Sequence[Source]) -> Namespace:
        """The configuration, every flag with its value or default.

        Raises:
            InputError: a flag that is not there or a value that does not fit.
        """
        chosen = self._check(sources)
        argv = []
        for group in self._active(chosen):
            if "." in group.name:  # an inner class has no default for the parser to start from
                argv.append(f"--{group.name}={group.classes[0].__name__}")
        argv += [f"--config={source.file}" for source in sources if source.file and source.values]
        argv += [f"--{flag}={value}" for s in sources if s.file is None for flag, value in s.values]
        return self._parser.parse_args(argv)

    def dump(self, config: Namespace) -> str:
        """The configuration as YAML that can be given with ``--config``."""
        return self._parser.dump(config, skip_unset=False)

    def help(self) -> str:
        """Every flag of every class."""
        return "\n".join(line for group in self.groups.values() for line in _describe(group))

    def _add(self, group: Group) -> None:
        if "." in group.name:
            return  # comes with the constructor that it belongs to
        if group.base is None:
            self._parser.add_class_arguments(
                group.classes[0], group.name, skip=set(group.hidden)
            )
            named = {f"{group.name}.{name}": value for name, value in group.defaults.items()}
            self._parser.set_defaults(named)
        else:
            first = group.classes[0]
            default = {"class_path": f"{first.__module__}.{first.__name__}"}
            self._parser.add_subclass_arguments(
                group.base, group.name, skip=set(group.hidden), default=default
            )

    def _check(self, sources: Sequence[Source]) -> dict[str, type]:
        """Refuse the first flag that is wrong; returns the class chosen in every group."""
        chosen = {group.name: group.classes[0] for group in self.groups.values()}
        for source in sources:
            for flag, value in source.values:
                group = self.groups.get(flag)
                if group is not None and group.base is not None:
                    chosen[flag] = _named(group, value, source)
                    continue
                option = self._options(chosen).get(flag)
                if option is None:
                    self._refuse(flag, value, source, chosen)
                if not option.takes(value, typed=source.file is not None):
                    raise InputError(f"--{flag}", source.given(value), f"give {option.wanted}")
        return chosen

    def _active(self, chosen: Mapping[str, type]) -> Iterator[Group]:
        """The groups that there are: a group inside another is there if a class takes it."""
        for group in self.groups.values():
            outer = group.name.rpartition(".")[0]
            if not outer or group.name in self.groups[outer].options(chosen[outer]):
                yield group

    def _options(self, chosen: Mapping[str, type]) -> dict[str, Option]:
        found: dict[str, Option] = {}
        for group in self._active(chosen):
            found |= group.options(chosen[group.name])
        return found

    def _refuse(
        self, flag: str, value: Any, source: Source, chosen: Mapping[str, type]
    ) -> NoReturn:
        """Say that there is no such flag, and what may have been meant."""
        group = self.groups.get(flag.rpartition(".")[0])
        known = [f"--{name}" for name in [*self._options(chosen), *self.groups]]
        owners = [
            cls.__name__
            for group in self.groups.values()
            for cls in group.classes
            if flag in group.options(cls)
        ]
        remedy = "no such flag"
        if group is not None and group.base is not None:
            remedy += f" of {chosen[group.name].__name__}"
        if owners:
            remedy += f"; {_and(owners)} {'have' if len(owners) > 1 else 'has'} it"
        elif close := get_close_matches(f"--{flag}", known, n=2, cutoff=0.7):
            remedy += f"; did you mean {' or '.join(close)}?"
        else:
            remedy += "; python train.py fit --help lists them"
        raise InputError(f"--{flag}", source.given(value), remedy)


def read_file(path: str) -> Source:
    """A YAML file as flags.

    Raises:
        InputError: it cannot be read, or is no YAML mapping.
    """
    try:
        tree = get_loader("yaml")(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError("--config", path, f"cannot be read ({reason}); give a YAML file") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = f"{getattr(error, 'problem', None) or 'it cannot be parsed'}{where}"
        raise InputError("--config", path, f"is no YAML: {reason}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise InputError("--config", path, "has no groups; write data:, model: and so on")
    return Source(path, list(_leaves(tree)))


def _leaves(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Flags and values; ``class_path`` and ``init_args`` are no part of a flag's name."""
    for key, value in tree.items():
        flag = f"{above}.{key}" if above else str(key)
        if above and key == "class_path":
            yield above, value
        elif not isinstance(value, Mapping):
            yield flag, value
        else:
            yield from _leaves(value, above if above and key == "init_args" else flag)


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags and values from ``--flag value`` and ``--flag=value``."""
    rest = list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(flag, "", "not a flag; flags look like --data.n 10")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(flag, "", "needs a value; flags look like --data.n 10")
            value = rest.pop(0)
        yield flag[2:], value


def _named(group: Group, value: Any, source: Source) -> type:
    """The class of a group that was named: by its name or by the path that a config file has."""
    for cls in group.classes:
        package = cls.__module__
        while package:
            if value in (cls.__name__, f"{package}.{cls.__name__}"):
                return cls
            package = package.rpartition(".")[0]
    names = " or ".join(group.class_names)
    raise InputError(f"--{group.name}", source.given(value), f"give {names}")


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _describe(group: Group) -> Iterator[str]:
    """The lines of one group; what an earlier class has in the same words is only named."""
    if group.base is not None:
        yield f"--{group.name} {' | '.join(group.class_names)}"
        yield f"    (default: {group.class_names[0]})"
    told: dict[str, tuple[Option, str]] = {}
    for cls in group.classes:
        if group.base is not None:
            yield f"\n  --{group.name} {cls.__name__}: {summary(cls)}"
        else:
            yield f"--{group.name}.*: {summary(cls)}"
        same: dict[str, list[str]] = {}
        for flag, option in group.options(cls).items():
            if flag in told and told[flag][0] == option:
                same.setdefault(told[flag][1], []).append(f"--{flag}")
            else:
                told[flag] = option, cls.__name__
                yield from _describe_flag(flag, option)
        for earlier, flags in same.items():
            yield from _wrapped(f"and as {earlier}: {', '.join(flags)}", indent=4)
    yield ""


def _describe_flag(flag: str, option: Option) -> Iterator[str]:
    yield f"    --{flag}"
    default = "null" if option.default is None else option.default
    text = f"{option.text.rstrip('.')} ({option.wanted}; default {default})"
    yield from _wrapped(text.strip(), indent=8)


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space)


class _Parser(ArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """What the checks before have missed."""
        raise InputError("flags", "", " ".join(message.split()))
