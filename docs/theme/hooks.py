"""What the site shows of files outside docs/: README.md is its home, and a link to a file of the code leads to a copy of it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# A target of a Markdown link, without its anchor; not of an address or of an anchor alone.
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)(?P<path>[^)#\s]+)")
_FENCED = re.compile(r"(^```.*?^```$)", re.S | re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and the files of the code that any page links to."""
    root = _root(config)
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, content=(root / name).read_text(encoding="utf-8")))
    for page in files.documentation_pages():
        for path in _linked(_place(page.src_uri), page.content_string):
            uri = _uri(path)
            if files.get_file_from_path(uri) is None and (root / path).is_file():
                files.append(File.generated(config, uri, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links as they are in the site; those within docs/ stay as they are."""
    place = _place(page.file.src_uri)
    folder = posixpath.dirname(page.file.src_uri)

    def as_in_site(found: re.Match[str]) -> str:
        return posixpath.relpath(_uri(_in_project(place, found["path"])), folder or ".")

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(as_in_site, part) for part in parts)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _place(uri: str) -> str:
    """Where the page of this place in the site lies in the project."""
    return next((name for name, outside in PAGES.items() if outside == uri), f"docs/{uri}")


def _uri(path: str) -> str:
    """The place in the site of a file of the project."""
    return PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"code/{path}")


def _in_project(place: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def _linked(place: str, text: str) -> list[str]:
    return [_in_project(place, found["path"]) for found in _LINK.finditer(_FENCED.sub("", text))]
