"""``--plugin``: the user's own packages, whose classes flags can choose; their code is trusted."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from lit_recon.errors import InputError


def take_plugins(argv: list[str], plugins: list[ModuleType]) -> list[str]:
    """Import the packages that ``--plugin`` names, and append them to `plugins`.

    Returns:
        The remaining arguments.

    Raises:
        InputError: a package that cannot be imported.
    """
    rest, left = [], list(argv)
    while left:
        flag, equals, name = left.pop(0).partition("=")
        if flag != "--plugin":
            rest.append(flag + equals + name)
            continue
        if not equals:
            name = left.pop(0) if left and not left[0].startswith("--") else ""
        if not name:
            raise InputError("--plugin", "without a value", "give an importable package")
        try:
            plugin = import_module(name)
        except Exception as error:  # a plugin can raise anything
            reason = f"cannot be imported ({type(error).__name__}: {error})"
            remedy = f"{reason}; give a package that is installed, or whose folder is in PYTHONPATH"
            raise InputError("--plugin", name, remedy) from error
        if plugin not in plugins:
            plugins.append(plugin)
    return rest
