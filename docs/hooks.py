"""Lets README.md and the READMEs of the methods be pages of the site.

A text lies once, where it belongs, and its links lead from file to file, as a reader of the clone
needs them. On the site a link to a page goes to the page; one to any other file becomes its path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
METHODS = "lit_recon/methods"
# Files outside docs/, and the pages that they are.
PAGES = {
    "README.md": "index.md",
    f"{METHODS}/README.md": "extending/method.md",
    **{
        path.relative_to(ROOT).as_posix(): f"methods/{path.parent.name}.md"
        for path in sorted((ROOT / METHODS).glob("*/README.md"))
    },
}
SOURCES = {page: source for source, page in PAGES.items()}
PICTURES = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("benchmarks/*.png"))]
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<file>[^)#:\s]+)(?P<part>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures that lie outside docs/."""
    for source, place in {**PAGES, **dict(zip(PICTURES, PICTURES, strict=True))}.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links between files by links between pages."""
    place = page.file.src_uri
    source = SOURCES.get(place, f"docs/{place}")
    return LINK.sub(lambda link: site_link(link, source, place), markdown)


def site_link(link: re.Match[str], source: str, place: str) -> str:
    """The link of a page; a broken one stays as it is, for MkDocs to find.

    Args:
        link: a match of `LINK`.
        source: the file that holds it, relative to the root.
        place: that file's page, relative to docs/.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["file"]))
    page = PAGES.get(target, target.removeprefix("docs/"))
    if target in PAGES or target in PICTURES or target.startswith("docs/"):
        way = posixpath.relpath(page, posixpath.dirname(place) or ".")
        return f"{link['text']}({way}{link['part'] or ''})"
    if not (ROOT / target).exists():
        return link[0]
    text = link["text"][1:-1]
    return f"`{target}`" if text.strip("`") in target else f"{text} (`{target}`)"
