"""Short names for folders of results whose settings differ from the run's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from lit_recon.flags import named_class
from lit_recon.flags.options import constructor_options

LONGEST = 40  # characters
GROUP = "recon."


def variant_name(before: Mapping[str, Any], now: Mapping[str, Any], method: str) -> str:
    """A folder name made from the differences between two sets of settings of one method.

    >>> before = {"recon": "a.B", "recon.spare": 3, "recon.polish": True}
    >>> variant_name(before, before | {"recon.spare": 0, "recon.polish": False}, "projection")
    'spare_0-no_polish'
    >>> variant_name(before, before, "projection")
    ''

    Args:
        before: the run's settings of the method, by flag; empty: the run does not have the method.
        now: the settings of the attack, by flag.
        method: the method's name; it is the result if the run does not have the method.

    Returns:
        Letters, digits, underscores and hyphens; empty if nothing differs.
    """
    if not before:
        return method
    words = list(_words(before, now))
    name, left = "", len(words)
    for word in words:
        longer = f"{name}-{word}" if name else word
        if len(longer) > LONGEST and name:
            break
        name, left = longer, left - 1
    if not left and len(name) <= LONGEST:
        return name
    digest = hashlib.sha256("-".join(words).encode()).hexdigest()[:4]
    return f"{name[:LONGEST]}-and_{left}_more-{digest}" if left else f"{name[:LONGEST]}-{digest}"


def _words(before: Mapping[str, Any], now: Mapping[str, Any]) -> Any:
    """One word for each setting that differs; defaults of a newly chosen class are left out."""
    changed = {flag: value for flag, value in now.items() if before.get(flag) != value}
    for flag, value in changed.items():
        outer, _, key = flag.rpartition(".")
        if outer in changed and value == _default(changed[outer], key):
            continue
        yield re.sub(r"[^A-Za-z0-9_]+", "_", _word(flag.removeprefix(GROUP), value))


def _word(flag: str, value: Any) -> str:
    name = flag.rpartition(".")[2]
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if isinstance(value, str) and "." in value:  # the path of a class
        return value.rpartition(".")[2].lower()
    return f"{name}_{value:g}" if isinstance(value, int | float) else f"{name}_{value}"


def _default(path: Any, name: str) -> Any:
    """The default of a constructor argument of a class; None if there is no such argument."""
    option = constructor_options(named_class(path)).get(name) if isinstance(path, str) else None
    return None if option is None else option.default
