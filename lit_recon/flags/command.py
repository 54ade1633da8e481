"""The flags of one command: read from the command line and YAML files, checked, and parsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace, get_loader, set_parsing_settings
from yaml import YAMLError

from lit_recon.errors import InputError
from lit_recon.flags.options import AUTO, Group, Option, Parser, class_path, listed


@dataclass(frozen=True)
class Source:
    """The flags of one file, or of the command line.

    Attributes:
        file: path of the YAML file; None for the command line.
        values: (flag without dashes, value) pairs. A value is text on the command line and a YAML
            object in a file.
    """

    file: str | None
    values: list[tuple[str, Any]]

    def only(self, group: str) -> Source:
        """Keep the flags of one group."""
        return Source(self.file, [p for p in self.values if _belongs(p[0], group)])

    def without(self, *groups: str) -> Source:
        """Drop the flags of these groups; a flag of one word counts as a group."""
        return Source(
            self.file, [p for p in self.values if not any(_belongs(p[0], g) for g in groups)]
        )

    def given(self, value: Any) -> str:
        """The value as error messages show it, with the file that it is from."""
        return f"{value}" if self.file is None else f"{value} in {self.file}"


class CommandLine:
    """The flags of one command.

    This class decides which flags exist and which source wins; jsonargparse then converts the
    values to the annotated types and fills in defaults. There are two reasons: an error message
    fits on one line, and a class path in a file cannot import other code.

    Args:
        command: the command as a user types it, for messages.
        groups: all groups; a group inside another one comes after it.
        packages: the packages of the groups' classes. A file cannot name classes outside them.
    """

    def __init__(self, command: str, groups: Sequence[Group], packages: Sequence[str]) -> None:
        self.command = command
        self.packages = packages
        self.groups = {group.name: group for group in groups}
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(packages))
        self._parser = Parser(allow_abbrev=False, add_help=False)
        for group in groups:
            self._add(group)

    def read(self, argv: Sequence[str]) -> list[Source]:
        """Split the arguments into sources: files in their order, then flags, which win.

        Raises:
            InputError: a flag without its value, a value without its flag, or an unreadable file.
        """
        files, flags = [], []
        for flag, value in _pairs(argv):
            if value is None:
                self._refuse_without_value(flag)
            elif flag == "config":
                files.append(Source(value, list(self._leaves(read_yaml(value)))))
            else:
                flags.append((flag, value))
        return [*files, Source(None, flags)]

    def parse(self, sources: Sequence[Source]) -> Namespace:
        """The complete configuration: every flag with its value or default.

        If a later source chooses another class, the values given so far are kept where that class
        has the same flag; of a method, the others are dropped. Defaults always come from the class
        that is chosen in the end.

        Args:
            sources: the weakest first.

        Raises:
            InputError: an unknown flag, or a value that does not fit.
        """
        several = [group for group in self.groups.values() if group.several]
        for group in several:
            sources = self._without_replaced(group, sources)
        picked = {group.name: self._chosen(group, sources) for group in several}
        alike = {name: classes for name, (classes, _) in picked.items()}
        first = {name: classes[0] for name, classes in alike.items()}
        arguments = self._arguments(sources, first, alike)
        for group in several:
            classes, auto = picked[group.name]
            own_flags = [source.only(group.name) for source in sources]
            further = [
                self._arguments(own_flags, {**first, group.name: cls}, alike)[group.name]
                for cls in classes[1:]
            ]
            specs = [arguments[group.name], *further]
            if auto:
                said = {flag.split(".")[1] for flag in self._flags_of(group, sources)}
                every = [pair for spec in specs for pair in spec["init_args"].items()]
                own = {name: value for name, value in every if name in said}
                arguments[group.name] = {"class_path": AUTO, "init_args": own}
            else:
                arguments[group.name] = specs[0] if len(specs) == 1 else specs
        return self._parser.parse_object(arguments)

    def specs(self, config: Namespace, name: str) -> tuple[list[Namespace], bool]:
        """The classes that were chosen in a group with ``several=True``.

        Returns:
            Class path and constructor arguments of each class, and whether the choice was ``auto``:
            then the list holds every automatic class, and the caller leaves out those that do not
            apply.
        """
        group, chosen = self.groups[name], config[name]
        if not is_auto(chosen):
            return (chosen if isinstance(chosen, list) else [chosen]), False
        parser = Parser(exit_on_error=False)
        parser.add_argument("--all", type=list[group.base])  # type: ignore[name-defined]
        every = []
        for cls in group.automatic:
            options = group.options(cls)
            taken = {flag.rpartition(".")[2] for flag in options}
            own = {
                key: value
                for key, value in chosen["init_args"].items()
                if _takes(options.get(f"{name}.{key}"), value, typed=True)
            }
            for inner in self.groups.values():
                outer, _, key = inner.name.rpartition(".")
                if outer == name and key in taken:
                    own.setdefault(key, {"class_path": class_path(inner.classes[0])})
            every.append({"class_path": class_path(cls), "init_args": own})
        return parser.parse_object({"all": every}).all, True

    def dump(self, config: Namespace) -> str:
        """The configuration as YAML; ``--config`` reads it."""
        return self._parser.dump(config, skip_unset=False)

    def values(self, config: Namespace) -> dict[str, Any]:
        """The configuration as a dictionary from flag to value, as `read` returns for a file."""
        return dict(self._leaves(get_loader("yaml")(self.dump(config))))

    def _add(self, group: Group) -> None:
        hidden = set(group.hidden)
        if group.base is None:
            self._parser.add_class_arguments(group.classes[0], group.name or None, skip=hidden)
            named = {f"{group.name}.{name}": value for name, value in group.defaults.items()}
            self._parser.set_defaults(named)
        elif group.several:
            kinds: Any = list[group.base] | group.base | dict[str, Any]  # type: ignore[name-defined]
            self._parser.add_argument(f"--{group.name}", type=kinds)
        elif "." not in group.name:  # the outer class's constructor adds inner groups
            self._parser.add_subclass_arguments(group.base, group.name, skip=hidden)

    def _flags_of(self, group: Group, sources: Sequence[Source]) -> Iterator[str]:
        """The flags of a group that were given, without the flag that chooses the class."""
        for source in sources:
            for flag, _ in source.values:
                if flag.startswith(f"{group.name}."):
                    yield flag

    def _chosen(self, group: Group, sources: Sequence[Source]) -> tuple[Sequence[type], bool]:
        """The chosen classes of a group with ``several=True``, and whether it says ``auto``."""
        classes, auto = group.automatic, True
        for source in sources:
            for flag, value in source.values:
                if flag == group.name:
                    named = [_named(group, name, source) for name, _ in _entries(value)]
                    for cls in named:
                        if named.count(cls) > 1:
                            remedy = "name every method once"
                            raise InputError(f"--{flag}", source.given(cls.__name__), remedy)
                    auto = value == AUTO
                    classes = group.automatic if auto else tuple(named)
                    if not classes:
                        remedy = f"give auto, {listed(group.class_names, 'or')}, or a list of them"
                        raise InputError(f"--{flag}", source.given(value), remedy)
        return classes, auto

    def _without_replaced(self, group: Group, sources: Sequence[Source]) -> list[Source]:
        """Without the flags of classes that a later source replaces by classes that lack them.

        So a preset of one method can be given to a run that was attacked by another one.
        """
        kept = []
        for i, source in enumerate(sources):
            named_later = any(flag == group.name for s in sources[i + 1 :] for flag, _ in s.values)
            if named_later:
                before, _ = self._chosen(group, sources[: i + 1])
                after, _ = self._chosen(group, sources)
                old, new = (self._taken(group.name, classes) for classes in (before, after))
                gone = {f for f, _ in source.values if f in old - new}
                source = replace(source, values=[p for p in source.values if p[0] not in gone])
            kept.append(source)
        return kept

    def _arguments(
        self,
        sources: Sequence[Source],
        alone: Mapping[str, type],
        alike: Mapping[str, Sequence[type]],
    ) -> dict[str, Any]:
        """Nested constructor arguments for one class of each group with ``several=True``.

        Args:
            sources: the weakest first.
            alone: that class, by group name.
            alike: all classes that were chosen, by group name.
        """
        narrowed = [self._for_one(source, alone, alike) for source in sources]
        chosen, given = self._merge(narrowed, alone)
        arguments: dict[str, dict[str, Any]] = {"": {}}
        for group in self._active(chosen):
            cls = chosen[group.name]
            flags = [flag for flag in group.options(cls) if flag in given]
            own = {flag.rpartition(".")[2].replace("-", "_"): given[flag] for flag in flags}
            if not group.name:
                arguments[""] |= own
                continue
            arguments[group.name] = own
            outer, _, name = group.name.rpartition(".")
            spec = {"class_path": class_path(cls), "init_args": own}
            arguments[outer][name] = spec if group.base else own
        return arguments[""]

    def _for_one(
        self, source: Source, alone: Mapping[str, type], alike: Mapping[str, Sequence[type]]
    ) -> Source:
        """The flags of a source for one of several chosen classes.

        A flag that the class lacks, or a value that it does not take, is dropped if another chosen
        class has it or takes it.

        Args:
            source: all its flags.
            alone: the class, by group name.
            alike: all classes that were chosen, by group name.
        """
        values: list[tuple[str, Any]] = []
        for flag, value in source.values:
            name = flag.partition(".")[0]
            if name not in alone:
                values.append((flag, value))
            elif flag == name:
                values += self._of_entry(self.groups[name], value, alone[name], source)
            else:
                own, others = (
                    self._taken(name, classes) for classes in ([alone[name]], alike[name])
                )
                typed = source.file is not None
                takes = [
                    cls
                    for cls in alike[name]
                    if _takes(self.groups[name].options(cls).get(flag), value, typed)
                ]
                if alone[name] in takes or (flag in own and not takes) or flag not in others:
                    values.append((flag, value))
        return replace(source, values=values)

    def _of_entry(
        self, group: Group, value: Any, cls: type, source: Source
    ) -> Iterator[tuple[str, Any]]:
        """The flags of one class from a file that lists classes with their arguments."""
        for name, arguments in _entries(value):
            if _named(group, name, source) is cls:
                yield from self._leaves(arguments, group.name)

    def _taken(self, name: str, classes: Sequence[type]) -> set[str]:
        """All flags of these classes of a group, with those of inner groups."""
        found = set()
        for cls in classes:
            found |= set(self.groups[name].options(cls))
        inner = [group for group in self.groups.values() if group.name in found]
        return found | {
            flag for group in inner for cls in group.classes for flag in group.options(cls)
        }

    def _merge(
        self, sources: Sequence[Source], alone: Mapping[str, type]
    ) -> tuple[dict[str, type], dict[str, Any]]:
        """The class of every group and the values of all given flags; refuses wrong ones."""
        chosen = {group.name: group.classes[0] for group in self.groups.values()} | dict(alone)
        given: dict[str, Any] = {}
        for source in sources:
            for flag, value in sorted(source.values, key=self._turn):
                group = self.groups.get(flag)
                option = self._options(chosen).get(flag)
                if group is not None and group.base is not None:
                    chosen[flag] = _named(group, value, source)
                elif option is None:
                    self._refuse(flag, value, source, chosen)
                else:
                    given[flag] = _read(flag, option, value, source)
        return chosen, given

    def _turn(self, pair: tuple[str, Any]) -> tuple[bool, int]:
        """Sort key: flags that choose a class first, because the class decides its flags."""
        return pair[0] not in self.groups, pair[0].count(".")

    def _active(self, chosen: Mapping[str, type]) -> Iterator[Group]:
        """The groups in use; an inner group is in use if the chosen outer class has that flag."""
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
        """Raise InputError for an unknown flag, with the classes that have it or similar flags."""
        group = self.groups.get(flag.rpartition(".")[0])
        remedy, owners = "no such flag", self._owners(flag)
        if group is not None and group.base is not None and (owners or not group.several):
            remedy += f" of {chosen[group.name].__name__}"
        if owners:
            remedy += f"; {listed(owners, 'and')} {'have' if len(owners) > 1 else 'has'} it"
        else:
            several = [group for group in self.groups.values() if group.several]
            known = [self._taken(group.name, group.classes) for group in several]
            remedy += f"; {self._meant(flag, set(self._options(chosen)).union(*known))}"
        raise InputError(f"--{flag}", source.given(value), remedy)

    def _refuse_without_value(self, flag: str) -> NoReturn:
        if flag in (*self.groups, "config") or self._owners(flag):
            raise InputError(f"--{flag}", "without a value", "flags look like --data.n 10")
        every = [name for g in self.groups.values() for cls in g.classes for name in g.options(cls)]
        remedy = f"no such flag; {self._meant(flag, every)}"
        raise InputError(f"--{flag}", "without a value", remedy)

    def _owners(self, flag: str) -> list[str]:
        """Names of the classes that have a flag."""
        pairs = [(group, cls) for group in self.groups.values() for cls in group.classes]
        return [cls.__name__ for group, cls in pairs if flag in group.options(cls)]

    def _meant(self, flag: str, known: Iterable[str]) -> str:
        """The remedy for a flag that no class has: similar flags, or ``--help``."""
        choosing = [group.name for group in self.groups.values() if group.base is not None]
        alike = [name for name in [*choosing, *known] if ("." in name) == ("." in flag)]
        close = get_close_matches(flag, alike, n=2, cutoff=0.7)
        if close:
            return f"did you mean {listed([f'--{name}' for name in close], 'or')}?"
        return f"{self.command} --help lists them"

    def _leaves(self, tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
        """Flags and values of a file; ``class_path`` and ``init_args`` are not part of a flag."""
        group = self.groups.get(above)
        choosing = group is not None and group.base is not None
        for key, value in tree.items():
            flag = f"{above}.{key}" if above else str(key)
            if choosing and key == "class_path":
                yield above, value
            elif not isinstance(value, Mapping):
                yield flag, value
            else:
                yield from self._leaves(value, above if choosing and key == "init_args" else flag)


def _belongs(flag: str, group: str) -> bool:
    return flag == group or flag.startswith(f"{group}.")


def read_yaml(path: str) -> Mapping[Any, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    Raises:
        InputError: the file cannot be read, or is not a YAML mapping.
    """
    try:
        tree = get_loader("yaml")(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        remedy = f"cannot be read ({reason}); give a YAML file"
        raise InputError("--config", path, remedy) from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = f"{getattr(error, 'problem', None) or 'it cannot be parsed'}{where}"
        raise InputError("--config", path, f"is no YAML: {reason}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise InputError("--config", path, "has no groups; write data:, model: and so on")
    return tree


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Flags and values from ``--flag value`` and ``--flag=value``; None where there is no value."""
    rest = list(argv)
    while rest:
        flag, equals, given = rest.pop(0).partition("=")
        value: str | None = given
        if not flag.startswith("--") or len(flag) < 3:
            raise InputError(flag, "is no flag", "flags look like --data.n 10")
        if not equals:
            value = None if not rest or rest[0].startswith("--") else rest.pop(0)
        yield flag[2:], value


def _read(flag: str, option: Option, value: Any, source: Source) -> Any:
    try:
        return option.read(value, typed=source.file is not None)
    except ValueError as error:
        remedy = f"give {option.wanted}"
        raise InputError(f"--{flag}", source.given(value), remedy) from error


def _takes(option: Option | None, value: Any, typed: bool) -> bool:
    """Whether there is such a flag, and the value fits it."""
    if option is None:
        return False
    try:
        option.read(value, typed=typed)
    except ValueError:
        return False
    return True


def is_auto(chosen: Any) -> bool:
    """Whether the value of a group with ``several=True`` is ``auto``."""
    return isinstance(chosen, Mapping) and chosen["class_path"] == AUTO


def _entries(value: Any) -> list[tuple[Any, Mapping[Any, Any]]]:
    """(name, arguments) of the classes in a value: one name, a list, or entries of a file."""
    if isinstance(value, str):
        names = [name.strip() for name in value.strip("[]").split(",")]
        return [(name, {}) for name in names if name and name != AUTO]
    found = []
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, Mapping):
            found.append((entry.get("class_path"), entry.get("init_args") or {}))
        else:
            found.append((entry, {}))
    return found


def _named(group: Group, value: Any, source: Source) -> type:
    """The class of a group by its name, in any case, or by its class path."""
    for cls in group.classes:
        if value == class_path(cls) or str(value).lower() == cls.__name__.lower():
            return cls
    names = listed([AUTO, *group.class_names] if group.several else group.class_names, "or")
    names += ", or a list of them" if group.several else ""
    raise InputError(f"--{group.name}", source.given(value), f"give {names}")
