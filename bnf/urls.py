"""URLs as they may be shown: a signature, a token or a password in one is nobody else's."""

import re
from collections.abc import Mapping

# From "://" on, so that no text is looked through twice: a web address's user, or another's user and password; the place, up to another
# URL; the query or the fragment, up to the next blank. A quotation mark ends none of them, as a password or a query may hold one.
_URL = re.compile(r"(https?)?://((?:(?!\",)[^\s/?#])*@)?((?:(?!(?:https?)?://)[^\s?#])*)([?#]\S*)?", re.IGNORECASE)
_USER = re.compile(r"://[^/?#]*@")
_QUERY = re.compile(r"[?#]")
_HIDDEN = "…"
# What ends a sentence or a quotation around a URL rather than the URL.
_AFTER = ".,;:)]}'\"<>"


def without_secrets(text: str) -> str:
    """A text with `…` in the place of what may be secret in its URLs: user and password, query and fragment, which may be a signature
    or a token.

    A user without a password stays where it is a name: `hdfs://user@host`, `abfs://container@account`. Whatever follows a query without a
    blank goes with it: nobody can tell where it ends.
    """
    return _URL.sub(_shown, text) if "://" in text else text


def settings_without_secrets(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with each text as `without_secrets` gives it, also inside lists and mappings."""
    return {key: _without_secrets(value) for key, value in settings.items()}


def without_keys(url: str) -> str:
    """What of a URL names its place alone: no user, query or fragment, and nothing that says that one was there. Of a text with more than a
    URL in it `without_secrets` is the one to use.
    """
    return _USER.sub("://", _QUERY.split(url, maxsplit=1)[0])


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return settings_without_secrets(value) if isinstance(value, Mapping) else value


def _shown(found: re.Match[str]) -> str:
    scheme, user, place, hidden = (part or "" for part in found.groups())
    if scheme or ":" in user:
        user = f"{_HIDDEN}@" if user else ""
    if hidden:
        end = hidden[len(hidden.rstrip(_AFTER)) :]
        hidden = f"{hidden[0]}{_HIDDEN}{end}" if len(hidden) - len(end) > 1 else hidden
    return f"{scheme}://{user}{place}{hidden}"
