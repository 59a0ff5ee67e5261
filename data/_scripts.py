"""Which script a text is written in: a cheap stand-in for its language, without a model."""

from __future__ import annotations

import re
from collections import Counter

# The letters of the scripts that chat data is written in, by their Unicode blocks. https://www.unicode.org/charts/
_SCRIPTS = {
    "latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u052f",
    "greek": "\u0370-\u03ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f",
    "hebrew": "\u0590-\u05ff",
    "indic": "\u0900-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "japanese": "\u3040-\u30ff",
    "han": "\u3400-\u4dbf\u4e00-\u9fff",
    "korean": "\u1100-\u11ff\uac00-\ud7af",
}
_RUNS = re.compile("|".join(f"(?P<{name}>[{letters}]+)" for name, letters in _SCRIPTS.items()))
_CHARACTERS_READ = 500
# Japanese is written with Chinese characters too: where a tenth is kana, it is Japanese.
_KANA_SHARE = 0.1


def script_of(text: str) -> str:
    """The script with most letters in the text's first part, or "none" where it has no letters."""
    counts: Counter[str] = Counter()
    for match in _RUNS.finditer(text[:_CHARACTERS_READ]):
        counts[str(match.lastgroup)] += match.end() - match.start()
    if not counts:
        return "none"
    if counts["japanese"] >= _KANA_SHARE * (counts["japanese"] + counts["han"]) > 0:
        counts["japanese"] += counts["han"]
    return min(counts, key=lambda name: (-counts[name], name))
