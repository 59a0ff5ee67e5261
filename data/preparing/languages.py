"""The language that a prompt is written in, for the ledger's counts, by a model of byte n-grams in the package py3langid."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from py3langid import langid

from evaluation.types import Message

_CHARACTERS_READ = 1000
# For "Hello", a sum or a line of code the likeliest of 140 languages gets a few hundredths; for a short sentence half or more.
_LEAST_CONFIDENCE = 0.3
# ISO 639: undetermined.
_UNDETERMINED = "und"


def language_of_prompt(messages: Sequence[Message]) -> str:
    """The ISO 639 code of the language that the user's messages begin in, or `und` where none is much likelier than the others."""
    text = " ".join(message["content"] for message in messages if message["role"] == "user")
    language, confidence = _identifier().classify(text[:_CHARACTERS_READ])
    return str(language) if confidence >= _LEAST_CONFIDENCE else _UNDETERMINED


@functools.cache
def _identifier() -> langid.LanguageIdentifier:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
