"""Content digests of model folders: equal weights, tokenizers and settings have equal digests, wherever they lie.

A stage's key holds the digest of the model that it reads. So moving or copying a folder changes no key, and replacing a file changes all.
"""

import json
import os
import time
from hashlib import file_digest, sha256
from pathlib import Path

from bnf.files import replacing
from bnf.model_folders import refuse_foreign_links, refuse_other_weights

# The files that decide what a model computes or how text becomes tokens; not logs, readmes and training states.
_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)

# A file system's clock ticks every few milliseconds: two changes within one tick have one time.
_TICK_S = 0.02

# Path → what the file looked like when it was read, and its sha256.
_Memo = dict[str, tuple[str, str]]
_memo: _Memo = {}


def file_state(path: Path) -> str:
    """A text that changes when a file is changed or replaced, known without reading it. Take it before reading the file.

    Size and modification time alone would not do: whoever copies or restores a file may set them back. The inode and the time of its last
    change are the file system's own. They also change where the content doesn't (a mode, a hard link): then the file is read again,
    and its digest is the same.
    """
    status = path.stat()
    age_s = time.time() - status.st_ctime
    if 0 <= age_s < _TICK_S:
        time.sleep(_TICK_S - age_s)  # a change after the reading has another time
    return f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_dev}|{status.st_ino}"


def companion_files(folder: Path) -> list[Path]:
    """A model folder's files besides the weights: config, tokenizer, chat template, generation config."""
    files = {path for pattern in _PATTERNS if ".safetensors" not in pattern for path in folder.glob(pattern)}
    return sorted(files)


def check_files(folder: Path) -> None:
    """Refuses a model folder whose files are not what a digest of them says, or lead out of it.

    Raises:
        ValueError: as `refuse_other_weights` and `refuse_foreign_links`.
    """
    refuse_other_weights(folder)
    refuse_foreign_links(folder, companion_files(folder))


def model_digest(folder: Path, memo_file: Path | None = None, *, fresh: bool = False) -> str:
    """The sha256 (hex) of a model folder's weights, config, tokenizer, chat template and generation config, by content and file name.

    A file is read once per path and `file_state`. `memo_file` (JSON) keeps the digests from one process to the next, where its folder can
    be written. `fresh` reads every file again, to find what a disk has changed by itself.

    Raises:
        FileNotFoundError: the folder holds no config.json or no safetensors weights, or a link among its files leads to nothing.
        ValueError: as `check_files`.
    """
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)})
    names = [path.relative_to(folder).as_posix() for path in files]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(
            f"model_name_or_path must be a folder with config.json and *.safetensors, got {folder}; download or convert it"
        )
    gone = next((path for path in files if not path.exists()), None)
    if gone is not None:
        raise FileNotFoundError(
            f"model_name_or_path must be a folder whose links lead to files, got {gone}, which leads to nothing ({gone.readlink()}); "
            "fetch the model again, or restore what it leads to"
        )
    check_files(folder)
    stored: _Memo = {} if memo_file is None else _read_memo(memo_file)
    known = {} if fresh else stored | _memo
    digest = sha256()
    here: _Memo = {}
    for name, path in zip(names, files, strict=True):
        place, state = str(path.resolve()), file_state(path)
        if place in known and known[place][0] == state:
            here[place] = known[place]
        else:
            with path.open("rb") as file:
                here[place] = (state, file_digest(file, "sha256").hexdigest())
        digest.update(f"{name}\0{here[place][1]}\n".encode())
    _memo.update(here)
    is_new = here.items() - stored.items()
    if memo_file is not None and is_new and (not memo_file.parent.exists() or os.access(memo_file.parent, os.W_OK)):
        memo_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memo_file, suffix=f".{os.getpid()}.partial") as partial:
            partial.write_text(json.dumps(stored | here, indent=0, sort_keys=True))
    return digest.hexdigest()


def _read_memo(memo_file: Path) -> _Memo:
    try:
        memo = json.loads(memo_file.read_text())
    except (FileNotFoundError, ValueError):
        # Absent, or left unreadable by a power cut: every file is read again.
        return {}
    if not isinstance(memo, dict):
        return {}
    # Entries that another version of the project wrote otherwise are left out too.
    return {place: (entry[0], entry[1]) for place, entry in memo.items() if isinstance(entry, list) and len(entry) == 2}
