"""Which language a prompt is written in, for the ledger's counts: a model of bytes' n-grams, in the package py3langid."""

from __future__ import annotations

import functools

from py3langid import langid

_CHARACTERS_READ = 1000
# Of "Hello", a sum or a line of code the likeliest of 140 languages has a few hundredths; of a short sentence half or more.
_LEAST_CONFIDENCE = 0.3
# ISO 639: undetermined.
UNDETERMINED = "und"


def language_of(text: str) -> str:
    """The ISO 639 code of the language of the text's first part, or `und` where none is much likelier than the others."""
    language, confidence = _identifier().classify(text[:_CHARACTERS_READ])
    return str(language) if confidence >= _LEAST_CONFIDENCE else UNDETERMINED


@functools.cache
def _identifier() -> langid.LanguageIdentifier:
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
