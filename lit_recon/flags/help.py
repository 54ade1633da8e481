"""The text of ``--help``, made from constructors and their docstrings."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Collection, Iterator, Sequence

from lit_recon.flags.options import AUTO, Group, Option

WIDTH = 100


def describe(groups: Sequence[Group]) -> str:
    """All flags, group by group, with description, accepted values and default."""
    inner = {group.name for group in groups}
    return "\n".join(line for group in groups for line in _group(group, inner))


def _group(group: Group, elsewhere: Collection[str]) -> Iterator[str]:
    """The lines of one group; a flag that equals one of an earlier class is only named."""
    if group.base is not None:
        names = " | ".join([AUTO, *group.class_names] if group.several else group.class_names)
        named = [cls.__name__ for cls in group.classes if cls not in group.automatic]
        out = f" but {', '.join(named)}" if named else ""
        more = f" | a list of them (default auto: all that apply{out})" if group.several else ""
        yield from _wrapped(f"--{group.name} {names}{more}", indent=0)
    told: list[tuple[str, Option, str]] = []
    for cls in group.classes:
        yield from _heading(group, cls)
        same: dict[str, list[str]] = {}
        for flag, option in group.options(cls).items():
            earlier = [name for *known, name in told if known == [flag, option]]
            if earlier:
                same.setdefault(earlier[0], []).append(f"--{flag}")
            elif flag not in elsewhere:
                told.append((flag, option, cls.__name__))
                yield from _flag(flag, option)
        for name, flags in same.items():
            yield from _wrapped(f"and, as {name}: {', '.join(flags)}", indent=4)
    yield ""


def _heading(group: Group, cls: type) -> Iterator[str]:
    text = inspect.getdoc(cls) or inspect.getdoc(vars(cls)["__init__"]) or ""
    summary = text.partition("\n")[0]
    if group.base is None:
        yield f"--{group.name}.*  {summary}" if group.name else summary
        return
    default = " (default)" if cls is group.classes[0] and not group.several else ""
    yield ""
    yield from _wrapped(f"--{group.name} {cls.__name__}{default}: {summary}", indent=2)


def _flag(flag: str, option: Option) -> Iterator[str]:
    # Lightning's descriptions end with its own defaults, which can differ from ours.
    text = option.text.partition("Default: ")[0].rstrip(". ")
    yield f"    --{flag}"
    yield from _wrapped(f"{text} ({option.wanted}; default {_yaml(option.default)})", indent=8)


def _yaml(value: object) -> str:
    """A value as a user types it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"'[{', '.join(map(str, value))}]'" if isinstance(value, list | tuple) else str(value)


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=space, subsequent_indent=space)
