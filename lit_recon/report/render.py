"""Pages from templates: one file each, that asks for nothing from anywhere.

Pictures, curves, style and script are in the file, and its content security policy lets a browser
load nothing and run no script but that one. Styles have to be allowed as such: matplotlib writes
them into its drawings.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lit_recon.report import words

REPORT = "report.html"


def render(template: str, **content: Any) -> str:
    """A page from a template and what it shows.

    Args:
        template: a file in lit_recon/report/templates.
        content: what the template names. All text in it is escaped; drawings are ``Markup``.
    """
    script = _pages().get_template("report.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _pages().get_template(template)
    return page.render(script=Markup(script), digest=digest, words=words, **content)


@cache
def _pages() -> Environment:
    """The templates, compiled once for all reports of a process."""
    pages = Environment(
        loader=PackageLoader("lit_recon.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {
        "number": words.number,
        "percent": words.percent,
        "duration": words.duration,
    }
    return pages
