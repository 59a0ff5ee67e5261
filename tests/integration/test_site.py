"""The documentation as a site: it builds without a warning, is viewed without a network, and shows what GitHub shows."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown
import pytest
from markdown_it import MarkdownIt
from mkdocs.config import load_config

from tasks.keys import ROOT
from tests.unit.test_docs import DOCUMENTS, _anchor, _without_code

pytestmark = pytest.mark.integration
CONFIG = load_config(str(ROOT / "mkdocs.yml"))
BLOCKS = {"p", "ul", "ol", "li", "table", "tr", "td", "th", "pre", "h1", "h2", "h3", "h4", "blockquote", "hr"}
# What the page itself fetches; links for readers may lead anywhere.
FETCHES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


class Tags(HTMLParser):
    """A page's tags with their attributes, in order; `/p` is the end of one."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}))


def blocks(html: str) -> list[str]:
    """The blocks of a text in order. An item's text may be a paragraph or not, which a browser shows alike."""
    named = [tag for tag, _ in Tags(html).found if tag.lstrip("/") in BLOCKS]
    return [tag for number, tag in enumerate(named) if not tag.startswith("/") and (tag, named[number - 1]) != ("p", "li")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return [path for path in site.rglob("*.html") if path.name != "404.html"]


def page_of(site: Path, document: Path) -> Path:
    outside = {"README.md": "index", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
    if document.parent == ROOT:
        return site / f"{outside[document.name]}.html"
    place = document.relative_to(ROOT / "docs")
    return site / place.with_name("index.html" if document.stem == "README" else f"{document.stem}.html")


def test_every_document_is_a_page(site):
    assert {page_of(site, document) for document in DOCUMENTS} == set(pages(site))


def test_a_page_fetches_nothing_from_elsewhere(site):
    fetched = set()
    for page in pages(site):
        for tag, attributes in Tags(page.read_text()).found:
            target = attributes.get(FETCHES.get(tag, ""))
            if not target or attributes.get("rel") in ("prev", "next", "canonical"):
                continue
            parts = urlsplit(target)
            assert not parts.scheme or parts.scheme == "data", f"{page.name}: {target}"
            assert not parts.netloc, f"{page.name}: {target}"
            assert (page.parent / unquote(parts.path)).exists(), f"{page.name}: {target}"
            fetched.add(tag)
        assert "googleapis" not in page.read_text()
    assert fetched >= {"script", "link", "img"}
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_the_search_works_from_a_disk(site):
    index = json.loads((site / "search" / "search_index.js").read_text().removeprefix("var __index = "))
    (home,) = [entry["text"] for entry in index["docs"] if entry["location"] == "index.html"]
    assert "Bidirectional" in re.split(index["config"]["separator"], home)  # it stands behind a bracket
    # A browser starts no worker of a file: the page does without.
    assert 'src="theme/iframe-worker.js"' in (site / "index.html").read_text()


def test_headings_have_the_names_that_github_gives_them(site):
    for document in DOCUMENTS:
        there = {attributes.get("id") for _, attributes in Tags(page_of(site, document).read_text()).found}
        headings = re.findall(r"^#+ (.*)$", _without_code(document.read_text()), re.M)
        assert {_anchor(heading) for heading in headings} <= there, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_site_shows_the_blocks_that_github_shows(document):
    text = document.read_text()
    site = markdown.markdown(text, extensions=CONFIG.markdown_extensions, extension_configs=CONFIG.mdx_configs)
    assert blocks(site) == blocks(MarkdownIt("commonmark").enable("table").render(text))


def test_a_list_that_only_github_sees_is_found():
    text = "Words:\n- one\n- two\n"
    assert blocks(MarkdownIt("commonmark").render(text)) != blocks(markdown.markdown(text))
