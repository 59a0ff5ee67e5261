"""Reads data sets of the hub at a commit: from the hub, from this machine's cache of it, or from a bundle (`evaluation.bundle`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bnf.failures import is_transport
from evaluation.bundle import opened, set_variant
from evaluation.records import Record

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What load_dataset is told of which files are read, beside the configuration.
OF_FILES = ("data_dir", "data_files")


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit's full hash, which never comes to mean something else."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def load_set(name: str, config: str | None, **options: object) -> Iterable[Record]:
    """A data set of the hub, as datasets.load_dataset gives it; `options` are load_dataset's.

    A commit is read as such: where the hub isn't reached, load_dataset itself would take whichever commit the cache had last.

    Raises:
        FileNotFoundError, ValueError: the set, or its configuration or split, isn't there.
        ConnectionError: the hub wasn't reached, and nobody has fetched this commit.
    """
    import datasets

    bundle, given = opened(), options.get("revision")
    revision = given if isinstance(given, str) else None
    if bundle is not None:
        more = {name: options[name] for name in OF_FILES if name in options}
        folder = bundle.find("dataset", name, revision, set_variant(config, more))
        return datasets.load_dataset(str(folder), config, **{key: one for key, one in options.items() if key != "revision"})
    if revision is not None and is_commit(revision):
        of_files = any(options.get(one) is not None for one in OF_FILES)
        if not of_files and (rows := _cached(name, config, revision, options)) is not None:
            return rows
        require_reached(name, config, revision)
    try:
        return datasets.load_dataset(name, config, **options)
    except (OSError, ValueError):
        raise
    except Exception as error:
        # The hub's own library may use another transport than the datasets library, which then lets its errors through.
        if not is_transport(error):
            raise
        raise ConnectionError(f"the hub wasn't reached ({type(error).__name__}: {error})") from error


def require_reached(name: str, config: str | None, revision: str) -> None:
    """See that the hub has this revision of a data set and lets it be read. `config` is named where it doesn't.

    Raises:
        ConnectionError: the hub wasn't reached, or is busy.
        FileNotFoundError: it refuses; with what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        if getattr(api.dataset_info(name, revision=revision), "gated", False):
            api.auth_check(name, repo_type="dataset")
    except HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code == 429:
            raise ConnectionError(f"the hub is busy ({error})") from error
        raise FileNotFoundError(refused(error, "data set", name)) from error
    except Exception as error:
        if not is_transport(error):
            raise
        raise ConnectionError(
            f"the hub wasn't reached ({type(error).__name__}: {error}), and this machine's cache has not {name} at {revision} in the "
            f"configuration {config or _default_config(name, revision)}"
        ) from error


def refused(error: BaseException, kind: str, name: str) -> str | None:
    """What a hub's refusal or silence means, and what to do; None for errors of other kinds. No token is in it."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{'' if kind == 'model' else 'datasets/'}{name}"
    if isinstance(error, GatedRepoError):
        status = error.response.status_code
        who = "this account has not been let in" if status == 403 else "it must be known who asks"
        return (
            f"it is gated, and {who} ({status}); ask for access on the hub's page {page}, and set HF_TOKEN to a token of the account that "
            "was given it, or log in with `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no public {kind} of this id ({error.response.status_code}); correct the id, or for a private one set HF_TOKEN to "
            "a token that may read it"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"the hub's {name} has no such revision ({error.response.status_code}); correct the revision"
    if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError) or is_transport(error):
        first = str(error).strip().splitlines()
        return f"{type(error).__name__}: {first[0] if first else 'no reason given'}"
    return None


def cached_folders(name: str, commit: str | None = None) -> list[Path]:
    """Where the datasets library keeps what it has read of a set: a folder for each configuration, of one commit or of all."""
    from datasets.naming import camelcase_to_snakecase
    from huggingface_hub.constants import HF_HOME

    root = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    owner, _, own = name.rpartition("/")
    return sorted((root / f"{owner}___{camelcase_to_snakecase(own)}").glob(f"*/*/{commit or '*'}"))


def _default_config(name: str, commit: str) -> str:
    """The configuration that is read where none is named, by the card that came with the set; "default" where no card names others."""
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, try_to_load_from_cache

    card = try_to_load_from_cache(name, "README.md", repo_type="dataset", revision=commit)
    named = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data) if isinstance(card, str) else MetadataConfigs()
    return named.get_default_config_name() or "default"


def _cached(name: str, config: str | None, commit: str, options: Mapping[str, object]) -> Iterable[Record] | None:
    """The set of this commit that the datasets library has read before; None where it hasn't, or not all of it."""
    # Which configuration is meant by none is in the set's card: another that was read before is not it.
    own_config = config or _default_config(name, commit)
    # A folder of some of its files alone (data_dir) has a longer name.
    folders = [folder for folder in cached_folders(name, commit) if folder.is_dir() and folder.parts[-3] == own_config]
    if len(folders) != 1:
        return None
    from datasets.packaged_modules.cache.cache import Cache

    version = folders[0].parts[-2]
    cache = Cache(repo_id=name, dataset_name=name.split("/")[-1], config_name=own_config, version=version, hash=commit)
    split = options.get("split")
    if split is not None and cache.info.splits and split not in cache.info.splits:
        return None
    return cache.as_streaming_dataset(split=split) if options.get("streaming") else cache.as_dataset(split=split)
