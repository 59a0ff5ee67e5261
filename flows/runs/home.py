"""The home folder of all state (`BNF_HOME`), and the Prefect settings that keep everything inside it and on this machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

from bnf.files import read_note
from bnf.paths import person_path
from bnf.urls import without_secrets
from flows.errors import RecipeError
from tasks.remote import Remote, RemoteError
from tasks.store import Store

DEFAULT = ".bnf"


def home_folder() -> Path:
    """`BNF_HOME`, by default `.bnf` in the working folder.

    Raises:
        RecipeError: it is a file, or would lie below one, or no file system takes its name.
    """
    home = person_path(os.environ.get("BNF_HOME") or DEFAULT).resolve()
    try:
        nearest = next(path for path in (home, *home.parents) if path.exists())
    except OSError as error:
        raise RecipeError(f"BNF_HOME must be a folder, got {str(home)[:80]!r} ({error.strerror}); set another") from error
    if not nearest.is_dir():
        raise RecipeError(f"BNF_HOME must be a folder, got {home}, where {nearest} is a file; set another")
    return home


def open_store(home: Path, *, verify: bool = False) -> Store:
    """The home's artifacts, with the shared store that `BNF_STORE` names behind them.

    Raises:
        RecipeError: `BNF_STORE` is no URL of a store.
    """
    url = os.environ.get("BNF_STORE")
    if url and without_secrets(url) != url:
        raise RecipeError(
            "BNF_STORE must hold no password and no query or fragment, which logs and records would name, got a URL that does; set them "
            "where fsspec looks, such as AWS_ACCESS_KEY_ID or FSSPEC_HTTPS (docs/data.md)"
        )
    try:
        remote = Remote(url) if url else None
    except RemoteError as error:
        raise RecipeError(str(error)) from error
    return Store(home / "artifacts", remote, verify=verify)


def require_writable(home: Path) -> None:
    """Make the home where there is none, and say where; refuse one that can't be written.

    Raises:
        RecipeError: naming the home.
    """
    is_new = not home.exists()
    try:
        (home / "prefect").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(home, str(error.strerror)) from error
    for folder in (home, home / "prefect"):
        if not os.access(folder, os.W_OK):
            raise _unwritable(home, f"{folder} is read-only here")
    if is_new:
        print(f"home {home}, new: artifacts, runs and Prefect's records; BNF_HOME names another", file=sys.stderr)


def _unwritable(home: Path, why: str) -> RecipeError:
    return RecipeError(f"BNF_HOME must be a folder that can be written, got {home} ({why}); set another")


def set_prefect_environment(home: Path, *, debug: bool = False) -> None:
    """Point Prefect at this home; must happen before prefect is imported. What the person has set stays, but for two settings:
    PREFECT_HOME, and PREFECT_FLOWS_HEARTBEAT_FREQUENCY, as a run that speaks less often would be taken for dead.

    Prefect 3.7 does not derive the storage, memo and logging paths from PREFECT_HOME: unset, they would lie in the person's home.

    Raises:
        RecipeError: the home can't be written.
    """
    require_writable(home)
    prefect = home / "prefect"
    # It is by this folder that a server is the home's. Another home's records and database don't belong here.
    os.environ["PREFECT_HOME"] = str(prefect)
    # The shortest interval that Prefect takes: by it a server with several machines tells a dead one (`flows.service.crashed`).
    os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"
    settings = {
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(prefect / "storage"),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(prefect / "memo_store.toml"),
        "PREFECT_LOGGING_CONFIG_PATH": str(prefect / "logging.yml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # What a server says whose Postgres is being restarted: it is asked again, for a minute, as one that is gone.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
        # One that hangs is asked six times too. Prefect would wait for a minute each time.
        "PREFECT_API_REQUEST_TIMEOUT": "30",
        # Without it the UI of any other port asks the API of port 4200.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "DO_NOT_TRACK": "1",
    }
    if not debug:
        # The UI keeps Prefect's own lines; the terminal shows ours.
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        # Prefect calls it an error each time that waiting for the accelerator is asked for once more.
        settings["PREFECT_INTERNAL_LOGGING_LEVEL"] = "CRITICAL"
    if not any(re.match("PREFECT_(API|SERVER)_DATABASE_(CONNECTION_URL|DRIVER|HOST|NAME)$", name) for name in os.environ):
        settings |= database_setting(prefect)
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def database_setting(prefect: Path) -> dict[str, str]:
    """The setting of Prefect's database in this folder, where the folder's name has characters that mean something in a URL.

    Prefect puts the path into a URL as it is: what follows a `?` would be left out, and two homes would share a database.
    """
    path = f"{prefect}/prefect.db"
    if quote(path) == path:
        return {}
    from sqlalchemy import URL

    return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": URL.create("sqlite+aiosqlite", database=path).render_as_string()}


def kept_server(home: Path) -> str | None:
    """The address of the Prefect server that this home started for itself; None where it has none, or where a power cut left no address.
    Whether one answers there is another question.
    """
    url = (read_note(home / "prefect" / "server.json") or {}).get("url")
    return url if isinstance(url, str) else None


def own_server(home: Path) -> bool:
    """Whether the Prefect server in use is the one that this home keeps for itself."""
    url = kept_server(home)
    return url is not None and os.environ.get("PREFECT_API_URL") == f"{url}/api"
