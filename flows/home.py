"""The home folder of all state (`BNF_HOME`), and the Prefect settings that keep everything inside it and on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from flows.errors import RecipeError
from tasks.remote import Remote, RemoteError
from tasks.store import Store, read_json

DEFAULT = ".bnf"


def home_folder() -> Path:
    """`BNF_HOME`, by default `.bnf` in the working folder."""
    return Path(os.environ.get("BNF_HOME") or DEFAULT).resolve()


def open_store(home: Path, *, verify: bool = False) -> Store:
    """The home's artifacts, with the shared store that `BNF_STORE` names behind them.

    Raises:
        RecipeError: `BNF_STORE` is no URL of a store.
    """
    url = os.environ.get("BNF_STORE")
    try:
        remote = Remote(url) if url else None
    except RemoteError as error:
        raise RecipeError(str(error)) from error
    return Store(home / "artifacts", remote, verify=verify)


def set_prefect_environment(home: Path, *, debug: bool = False) -> None:
    """Point Prefect at this home; must happen before prefect is imported. What the person has set besides PREFECT_HOME stays.

    Prefect 3.7 does not derive the storage, memo and logging paths from PREFECT_HOME: unset, they would lie in the person's home.

    Raises:
        RecipeError: the home can't be written.
    """
    prefect = home / "prefect"
    try:
        prefect.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(
            f"BNF_HOME must be a folder that can be written, got {home} ({error.strerror}); set another"
        ) from error
    # A server is this home's by it: another's records and database have no place here.
    os.environ["PREFECT_HOME"] = str(prefect)
    settings = {
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(prefect / "storage"),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(prefect / "memo_store.toml"),
        "PREFECT_LOGGING_CONFIG_PATH": str(prefect / "logging.yml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Without it the UI of any other port asks the API of port 4200.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "DO_NOT_TRACK": "1",
    }
    if not debug:
        # The UI keeps Prefect's own lines; the terminal shows ours.
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        # Prefect calls it an error each time that waiting for the accelerator is asked for once more.
        settings["PREFECT_INTERNAL_LOGGING_LEVEL"] = "CRITICAL"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def own_server(home: Path) -> bool:
    """Whether the Prefect server in use is the one that this home keeps for itself."""
    kept = home / "prefect" / "server.json"
    return kept.exists() and os.environ.get("PREFECT_API_URL") == f"{read_json(kept)['url']}/api"
