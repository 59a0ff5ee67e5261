"""Scripts that are written without blanks between words."""

from __future__ import annotations

import re

# Letters and marks of scripts that no blank divides into words, by Unicode's blocks: Han, Kana and Bopomofo; and the scripts of South
# East Asia that line breaking needs a dictionary for (class SA of https://www.unicode.org/reports/tr14/).
HALF_WORDS = (
    "\u3005-\u3007\u3021-\u302d\u3038-\u303b\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
QUARTER_WORDS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109d\u1780-\u17d3\u17d7\u17dc\u17dd"
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7f\u1aa7\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaadd\U00011700-\U0001172b"
    "\U00011740-\U00011746"
)
UNDIVIDED = re.compile(f"[{HALF_WORDS}{QUARTER_WORDS}]")
