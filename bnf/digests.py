"""Content digests of model folders: equal weights, tokenizers and settings have equal digests, wherever they lie.

A stage's key holds the digest of the model it reads, so that moving or copying a folder invalidates nothing and replacing a
file invalidates all.
"""

import json
import os
from hashlib import file_digest, sha256
from pathlib import Path

# Everything that decides what a model computes or how text becomes tokens; logs, readmes and training states are left out.
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

_memo: dict[str, str] = {}


def companion_files(folder: Path) -> list[Path]:
    """A model folder's files besides the weights: config, tokenizer, chat template, generation config."""
    files = {path for pattern in _PATTERNS if ".safetensors" not in pattern for path in folder.glob(pattern)}
    return sorted(files)


def model_digest(folder: Path, memo_file: Path | None = None, *, fresh: bool = False) -> str:
    """The sha256 (hex) of a model folder's weights, config, tokenizer, chat template and generation config, by content and
    file name.

    A file is read once per path, size and modification time; `memo_file` (JSON) keeps that knowledge from one process to the
    next, where its folder can be written. `fresh` reads every file again: what altered one may have left its time as it was.

    Raises:
        FileNotFoundError: where the folder holds no config.json or no safetensors weights.
    """
    files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)})
    names = [path.relative_to(folder).as_posix() for path in files]
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise FileNotFoundError(
            f"model_name_or_path must be a folder with config.json and *.safetensors, got {folder}; download or convert it"
        )
    stored = {} if memo_file is None else _read_memo(memo_file)
    known = {} if fresh else stored | _memo
    digest = sha256()
    learnt = False
    for name, path in zip(names, files, strict=True):
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if key not in known:
            with path.open("rb") as file:
                known[key] = file_digest(file, "sha256").hexdigest()
        learnt |= stored.get(key) != known[key]
        _memo[key] = known[key]
        digest.update(f"{name}\0{known[key]}\n".encode())
    if memo_file is not None and learnt and (not memo_file.parent.exists() or os.access(memo_file.parent, os.W_OK)):
        memo_file.parent.mkdir(parents=True, exist_ok=True)
        partial = memo_file.with_name(f"{memo_file.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(stored | _memo, indent=0, sort_keys=True))
        os.replace(partial, memo_file)
    return digest.hexdigest()


def _read_memo(memo_file: Path) -> dict[str, str]:
    try:
        return json.loads(memo_file.read_text())
    except (FileNotFoundError, ValueError):
        # Absent, or left unreadable by a power cut: every file is read again.
        return {}
