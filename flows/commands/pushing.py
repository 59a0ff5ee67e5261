"""`bnf export --push-to-hub`: an export becomes a model of the hub."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from flows.commands.model_card import LICENCE_FILES
from flows.errors import RecipeError

# In a repository's root: weights, settings and tokenizers in any of their formats, and the base model's licence.
_OF_A_MODEL = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", *LICENCE_FILES)


def check_hub(hub_id: str) -> None:
    """Check before anything is copied that the id is one, and that the hub knows who pushes.

    Raises:
        RecipeError: naming what is missing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(hub_id)
    except HFValidationError as error:
        raise RecipeError(f"--push-to-hub must be a hub id such as owner/name, got {hub_id!r} ({error}); correct it") from error
    if "/" not in hub_id:
        # The hub would make OWNER/name of it, and then know no repository of the name that the card has.
        raise RecipeError(f"--push-to-hub must be a hub id with its owner, got {hub_id!r}; write OWNER/{hub_id}")
    try:
        HfApi().whoami()
    except Exception as error:  # whatever the hub's transport raises
        raise RecipeError(
            f"--push-to-hub must reach the hub with a token that may write, got {type(error).__name__}: {error}; "
            "log in with `hf auth login` or set HF_TOKEN, or export without it"
        ) from error


def push(folder: Path, hub_id: str, run: str) -> tuple[str, list[str]]:
    """Push the folder; where the hub has no such model yet, it is made, and only its owner sees it.

    Files of an earlier model go in the same commit: whoever loads the repository never gets parts of two models. upload_folder would make
    several commits of a large model.

    Returns:
        The repository's URL, and the files that were deleted there.

    Raises:
        RuntimeError: the hub refused it. The folder stays.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    try:
        url = api.create_repo(hub_id, private=True, exist_ok=True)
        before = api.model_info(hub_id)
        old = [one.rfilename for one in before.siblings or () if one.rfilename not in files and _is_of_a_model(one.rfilename)]
        api.create_commit(
            hub_id,
            [
                *(CommitOperationDelete(name) for name in old),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
            ],
            commit_message=f"The policy of {run}",
            # Where another push came in between, the hub refuses this one.
            parent_commit=before.sha,
        )
    except Exception as error:  # whatever the hub's transport raises
        raise RuntimeError(
            f"{hub_id} was not pushed ({type(error).__name__}: {error}); the export is in {folder}, and "
            f"`hf upload {hub_id} {folder} . --delete '*'` pushes it, in place of all that is there"
        ) from error
    return str(url), old


def _is_of_a_model(name: str) -> bool:
    """Whether a file of a repository is one that from_pretrained reads, or the licence of its model: another model must not have it."""
    folder, _, file = name.rpartition("/")
    return folder in ("", "additional_chat_templates") and any(fnmatch.fnmatchcase(file, one) for one in _OF_A_MODEL)
