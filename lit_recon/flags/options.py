"""The arguments of constructors: names, types, defaults and descriptions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from lit_recon.errors import InputError

AUTO = "auto"  # in a group with several=True: all classes that apply
LISTS = {int: "[1, 10]", float: "[0.4, 0.5]"}  # examples
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Option:
    """One flag.

    Attributes:
        type: the annotation.
        default: the default value.
        text: the description from the docstring.
    """

    type: Any
    default: Any
    text: str

    @property
    def wanted(self) -> str:
        """The accepted values, in words."""
        return listed(list(dict.fromkeys(_words(self.type))), "or")

    def read(self, value: Any, *, typed: bool) -> Any:
        """Convert a value to the annotated type; the constructor checks its range.

        Args:
            value: the given value.
            typed: true for an object from a YAML file, false for text from a shell.

        Raises:
            ValueError: the value does not fit the type.
        """
        parser = Parser(exit_on_error=False)
        parser.add_argument("--value", type=self.type)
        if typed:
            found = parser.parse_object({"value": value}).value
        else:
            found = parser.parse_args([f"--value={value}"]).value
        # jsonargparse accepts null for every type in a file, and class paths for trainer arguments.
        if (found is None and NoneType not in _members(self.type)) or hasattr(found, "class_path"):
            raise ValueError(value)
        return found


@dataclass(frozen=True)
class Group:
    """Flags that begin alike.

    Attributes:
        name: what they begin with, for example ``data``; ``recon.solver`` where the classes of
            ``recon`` take one of several solvers; empty for flags of one word, as ``--jobs``.
        classes: whose constructor arguments they are. The first is the default.
        base: their common base class; None: there is one class and no choice.
        hidden: constructor arguments that are not flags.
        defaults: defaults that replace those of the constructor.
        several: the flag takes one class, a list of classes, or ``auto`` (the default): all classes
            that apply, but those with ``automatic = False``.
    """

    name: str
    classes: tuple[type, ...]
    base: type | None = None
    hidden: Collection[str] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    several: bool = False

    @property
    def class_names(self) -> list[str]:
        return [cls.__name__ for cls in self.classes]

    @property
    def automatic(self) -> tuple[type, ...]:
        """The classes that ``auto`` stands for."""
        return tuple(cls for cls in self.classes if getattr(cls, "automatic", True))

    def options(self, cls: type) -> dict[str, Option]:
        """The flags of one of the classes, by name."""
        found = {}
        for name, option in constructor_options(cls).items():
            if name not in self.hidden:
                default = self.defaults.get(name, option.default)
                flag = f"{self.name}.{name}" if self.name else name.replace("_", "-")
                found[flag] = Option(option.type, default, option.text)
        return found


def choices(rooms: Sequence[ModuleType], base: type, first: type) -> tuple[type, ...]:
    """The concrete classes that packages export; a class with an exported subclass is left out.

    Args:
        rooms: the packages. A package exports its ``__all__`` or, without one, all names that do
            not start with an underscore.
        base: the base class of all of them.
        first: the default, put first.
    """
    found = [first]
    for room in rooms:
        exported = [value for name, value in vars(room).items() if _offers(room, name)]
        derived = [cls for cls in exported if inspect.isclass(cls) and issubclass(cls, base)]
        for cls in derived:
            leaf = not any(cls in other.__mro__[1:] for other in derived)
            if leaf and not inspect.isabstract(cls) and cls not in (*found, base):
                found.append(cls)
    return tuple(found)


def _offers(room: ModuleType, name: str) -> bool:
    return name in room.__all__ if hasattr(room, "__all__") else not name.startswith("_")


@cache
def constructor_options(cls: type) -> dict[str, Option]:
    """Constructor arguments by name, described by the docstring of the class or of `__init__`."""
    constructor = vars(cls)["__init__"]
    hints = get_type_hints(cls if is_dataclass(cls) else constructor)
    documented = [*_descriptions(constructor), *_descriptions(cls)]
    texts = {name: text for name, text in documented if text}
    return {
        name: Option(hints.get(name, Any), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(cls).parameters.items()
    }


def class_path(cls: type) -> str:
    """The shortest path from which a class can be imported."""
    parts = cls.__module__.split(".")
    above = [".".join(parts[:count]) for count in range(1, len(parts))]
    # `vars` does not trigger a package's lazy imports.
    offering = (name for name in above if vars(sys.modules[name]).get(cls.__name__) is cls)
    return f"{next(offering, cls.__module__)}.{cls.__name__}"


def listed(words: Sequence[str], joint: str) -> str:
    """``a, b or c``."""
    return f" {joint} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


class Parser(ArgumentParser):
    """A parser that raises InputError where jsonargparse prints its usage and exits."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError("flags", "", " ".join(message.split()))


def _descriptions(documented: object) -> list[tuple[str, str]]:
    parsed = parse_docstring(inspect.getdoc(documented) or "")
    return [(p.arg_name, " ".join((p.description or "").split())) for p in parsed.params]


def _members(annotation: Any) -> tuple[Any, ...]:
    """The member types of a union; the annotation itself if it is not a union."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for member in get_args(annotation) for part in _members(member))
    return (annotation,)


def _words(annotation: Any) -> list[str]:
    """The accepted values of an annotation, in words; classes are left out."""
    words: list[str] = []
    for member in sorted(_members(annotation), key=lambda member: member is NoneType):
        origin, arguments = get_origin(member), get_args(member)
        if member is NoneType:
            words.append("null")
        elif origin is Literal:
            words += [str(value) for value in arguments]
        elif member in NAMES:
            words.append(NAMES[member])
        elif inspect.isclass(origin) and issubclass(origin, Sequence):
            example = LISTS.get(arguments[0], "[a, b]")
            words.append(f"a list such as '{example}'")
    return words
