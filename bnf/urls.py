"""URLs as they may be shown: a signature, a token or a password in one is nobody else's."""

import re
from collections.abc import Mapping

# From "://" on, so that no text is looked through twice: a web address's user, or another's user and password; the place; the query.
_URL = re.compile(r"(https?)?://([^\s'\"<>/?#]*@)?([^\s'\"<>?#]*)(\?[^\s'\"<>]*)?")
_HIDDEN = "…"
# What ends a sentence around a URL rather than the URL.
_AFTER = ".,;:)]}"


def without_secrets(text: str) -> str:
    """A text with `…` in the place of what may be secret in its URLs: user and password, and the query, which may be a signature.

    A user without a password stays where it is a name: `hdfs://user@host`, `abfs://container@account`.
    """
    return _URL.sub(_shown, text) if "://" in text else text


def settings_without_secrets(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with each text as `without_secrets` gives it, also inside lists and mappings."""
    return {key: _without_secrets(value) for key, value in settings.items()}


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return settings_without_secrets(value) if isinstance(value, Mapping) else value


def _shown(found: re.Match[str]) -> str:
    scheme, user, place, query = (part or "" for part in found.groups())
    if scheme or ":" in user:
        user = f"{_HIDDEN}@" if user else ""
    if query:
        end = query[len(query.rstrip(_AFTER)) :]
        query = f"?{_HIDDEN}{end}" if len(query) - len(end) > 1 else query
    return f"{scheme}://{user}{place}{query}"
