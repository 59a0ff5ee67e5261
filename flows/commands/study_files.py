"""What the pages of all studies share: where they lie, how their text is folded, and their tables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def write_page(docs: Path, name: str, page: str, draw: Callable[[Path], object] | None) -> list[Path]:
    """Write docs/results/NAME.md, and by `draw` docs/images/NAME.svg, which is removed where there is nothing to draw; their paths."""
    text, figure = docs / "results" / f"{name}.md", docs / "images" / f"{name}.svg"
    for path in (text, figure):
        path.parent.mkdir(parents=True, exist_ok=True)
    if draw is not None:
        draw(figure)
    else:
        figure.unlink(missing_ok=True)
    text.write_text(page, encoding="utf-8")
    return [text, figure] if draw is not None else [text]


def paragraph(parts: Sequence[str]) -> str:
    """Parts of a paragraph, or of a point of a list, in lines as long as the other pages'."""
    text = " ".join(part.strip() for part in parts)
    return textwrap.fill(
        text, 135, subsequent_indent="  " if text.startswith("- ") else "", break_long_words=False, break_on_hyphens=False
    )


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows of equal keys as the lines of a table."""
    heads = list(rows[0])
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row.values())} |" for row in rows),
    ]
