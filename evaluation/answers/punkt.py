"""NLTK's sentence tokenizer, which lm-eval's checkers of IFEval count sentences and words with. Its data come with no package."""

from __future__ import annotations

_PLACE = "tokenizers/punkt_tab/english/"


def require_punkt() -> None:
    """Raises FileNotFoundError where NLTK's data have no English sentences: some instructions would be counted wrongly, or not at all."""
    import nltk

    try:
        nltk.data.find(_PLACE)
    except LookupError as error:
        places = ", ".join(map(str, nltk.data.path))
        raise FileNotFoundError(
            f"ifeval must have NLTK's data punkt_tab ({_PLACE}), got none in {places}; run `python -m nltk.downloader punkt_tab`, or "
            "unpack punkt_tab.zip of https://github.com/nltk/nltk_data into the folder tokenizers of one that NLTK_DATA names"
        ) from error
