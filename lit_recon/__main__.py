"""`python -m lit_recon audit`: the audit without a clone; see `lit_recon.audit.audit`."""

from __future__ import annotations

import sys
from types import ModuleType

PROGRAM = "python -m lit_recon"
HELP = f"""\
usage: {PROGRAM} audit --before FILE --after FILE [--pixels.shape ...] [--module package.Class]
       {PROGRAM} audit --help

Tries every attack on the weights of a network, and says what came back. Everything else that
lit_recon does runs from a clone of its repository.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status.

    It is 0 if nothing came back, 3 if something did, 1 for an audit that failed, 2 for bad input.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in ([], ["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    from lit_recon.processor import prefer_fast_kernels

    prefer_fast_kernels()  # before torch is imported
    from lit_recon.audit.audit import audit
    from lit_recon.errors import InputError, RunError
    from lit_recon.flags.plugins import take_plugins

    plugins: list[ModuleType] = []
    word, *rest = argv
    try:
        if word != "audit":
            raise InputError("command", repr(word), f"give audit; {PROGRAM} --help tells more")
        return audit(take_plugins(rest, plugins), plugins, program=PROGRAM)
    except (InputError, RunError) as error:
        print("lit_recon:", " ".join(str(error).split()), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("lit_recon: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
