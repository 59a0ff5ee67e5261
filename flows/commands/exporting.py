"""`bnf export`: a run's policy as a folder of its own, and on the hub."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bnf.files
from bnf.files import sync_folder
from bnf.model_folders import is_own
from bnf.paths import person_path
from bnf.plain_yaml import dump
from bnf.urls import without_keys
from data.reading.records import is_hub_id
from evaluation.records import Record, read_json, write_json
from evaluation.report.policy import serve_line
from flows.commands.model_card import LICENCE_FILES, RECIPE_FILE, CardFacts, known_licence, made_with, model_card, this_code
from flows.commands.pushing import check_hub, push
from flows.commands.showing import taken_run
from flows.display import print_json, size
from flows.errors import RecipeError
from flows.recipe.config import Recipe
from flows.recipe.paths import without_folders
from flows.runs.home import home_folder, open_store
from flows.runs.listing import headline_text, list_runs
from flows.runs.policy import (
    ADAPTER_CONFIG,
    BASE,
    POLICY,
    Policy,
    adapter_folder,
    base_model,
    has_own_template,
    policy_of,
    serve_adapter_line,
    serve_here,
    unfinished_rounds,
)
from flows.runs.record import Run
from flows.wording import place
from tasks.home_lock import using
from tasks.keys import changes, code_digests
from tasks.manifest import MANIFEST, Manifest, file_sha256
from tasks.names import TaskName
from tasks.nodes import model_folder
from tasks.store import Artifact, Store

CARD = "README.md"


@dataclass(frozen=True)
class _Weights:
    """What is exported: the files of one folder of the policy's artifact, by their names in it, with their sizes and hashes."""

    folder: Path
    files: Mapping[str, tuple[int, str]]
    manifest: Manifest


def export(name: str, to: str, *, adapter: bool, hub_id: str | None, as_json: bool) -> None:
    """Write a run's policy, its model card and its recipe into a new folder, and push that to the hub."""
    target = _free_folder(to)
    home = home_folder()
    run = taken_run(home, name, POLICY)
    policy = policy_of(run)
    if policy is None:
        raise RecipeError(f"RUN must have {POLICY.what}, got none in {run.id} ({run.state}); finish it with `bnf run`")
    if target.resolve().is_relative_to(home):
        raise RecipeError(
            f"--to must be outside the home {home}, which keeps what runs made as it is, got {target}; name another"
        )
    if hub_id is not None:
        check_hub(hub_id)
    with using(home):
        store = open_store(home)
        if adapter and has_own_template(run.recipe):
            raise RecipeError(
                "--adapter must be left out where the recipe has chat_template or chat_template_kwargs, as the base model is served with "
                f"its own template, got --adapter for {run.id}; export the whole policy"
            )
        weights = _weights(run, policy, store, adapter)
        settings = _adapter_settings(weights, run, hub_id) if adapter else None
        facts = _facts(run, weights, settings, hub_id or target.name)
        with _new_folder(target) as folder:
            _copy(weights, folder)
            if settings is not None:
                write_json(folder / ADAPTER_CONFIG, settings, indent=2)
            _copy_licence(run, folder)
            (folder / RECIPE_FILE).write_text(_recipe_file(facts.recipe), encoding="utf-8")
            (folder / CARD).write_text(model_card(facts), encoding="utf-8")
            bnf.files.open_to_readers(folder)
    url, replaced = push(target, hub_id, run.id) if hub_id is not None else (None, [])
    serve: str | None = serve_here(str(target.resolve()))
    if settings is not None:
        serve = serve_adapter_line(base_model(run), str(target.resolve()), settings, serve_here)
    num_bytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    if as_json:
        found = {"run": run.id, "folder": str(target), "adapter": adapter, "bytes": num_bytes, "serve": serve, "hub": url}
        print_json(found if url is None else {**found, "hub_deleted": replaced})
        return
    print(f"{'the adapter' if adapter else 'the policy'} of {run.id}, {size(num_bytes)}: {place(target)}")
    print(f"card    {place(target / CARD)}")
    if result := headline_text(list_runs([run])[0]["headline"]):
        print(f"result  {result}")
    if serve is not None:
        print(f"serve   {serve}")
    if url is not None:
        print(f"hub     {url}")
        if replaced:
            print(f"deleted there, as they are of an earlier model: {', '.join(replaced)}; the repository's history has them")
    elif not is_hub_id(facts.base):
        print(f"before others get it: the card names the base model {facts.base}, a folder here; write its id on the hub there")


def _free_folder(to: str) -> Path:
    """The folder's absolute path.

    Raises:
        RecipeError: there is something already, or can't be a folder.
    """
    if not to.strip():
        raise RecipeError(f"--to must name a new folder, got {to!r}; write one")
    target = person_path(to).absolute()
    try:
        str(target).encode()
    except UnicodeEncodeError:
        # The card says it, and the terminal.
        raise RecipeError(f"--to must be a path that UTF-8 can write, got {to!a}; name another") from None
    try:
        nearest = next(path for path in (_partial(target), target.parent, *target.parents) if path.exists())
    except OSError as error:
        raise RecipeError(
            f"--to must be a path that the disk takes, got {to[:80]!r} ({error.strerror}); name another"
        ) from error
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "can't be written" if nearest.is_dir() else "is a file"
        raise RecipeError(f"--to must be a folder that can be made, got {target}, where {nearest} {why}; name another")
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise _filled(target)
    if target.exists() and target.samefile(Path.cwd()):
        # It would be replaced, and whoever works there would be left in one that is gone.
        raise RecipeError(
            f"--to must be another folder than the working folder, got {target}; write {target / 'NAME'}, or go elsewhere"
        )
    if os.path.ismount(target):
        # A folder gets its name by a rename, which a mount point can't be given.
        raise RecipeError(
            f"--to must be a folder inside a file system, got {target}, where one begins; write {target / 'NAME'}"
        )
    return target


def _filled(target: Path) -> RecipeError:
    return RecipeError(f"--to must be a new or an empty folder, got {target}, which holds something; name another, or move it")


def _weights(run: Run, policy: Policy, store: Store, adapter: bool) -> _Weights:
    """The policy's files on this machine, brought from the shared store where they aren't here.

    Raises:
        RecipeError: they are gone, or there is no adapter that stands beside the base model.
    """
    artifact = policy.artifact
    if not store.available(artifact):
        raise RecipeError(
            f"{run.id} must have its policy, got a damaged one ({store.damage(artifact)}); run its recipe again, or set BNF_STORE to the "
            "store that has it"
        )
    manifest = store.manifest(artifact)
    inside = adapter_folder(run, manifest) if adapter else manifest["model_folder"]
    if inside is None:
        reason = "a round's own, beside the policy of the round before" if run.recipe.train_config().lora_r else "none"
        raise RecipeError(
            f"--adapter must find a LoRA adapter of the base model, got {reason}; leave --adapter out for the whole policy"
        )
    files = {
        name.removeprefix(f"{inside}/"): (entry["size"], entry["sha256"])
        for name, entry in manifest["files"].items()
        if name.startswith(f"{inside}/")
    }
    return _Weights(store.fetch(artifact) / inside, files, manifest)


def _adapter_settings(weights: _Weights, run: Run, hub_id: str | None) -> Record:
    """adapter_config.json with the base model where it is now: training had it in a folder of its own."""
    base = base_model(run)
    if hub_id is not None and not is_hub_id(base):
        raise RecipeError(
            f"--push-to-hub must have a base model that others find beside --adapter, got the folder {base}; leave --adapter out, or "
            f"export without pushing and name the model's hub id in {ADAPTER_CONFIG}"
        )
    return {
        **read_json(weights.folder / ADAPTER_CONFIG),
        "base_model_name_or_path": base,
        "revision": run.recipe.revision if is_hub_id(base) else None,
    }


def _partial(target: Path) -> Path:
    """The folder that is filled before it gets the target's name. Nobody else gives one like it: it is emptied."""
    return target.parent / f".{target.name}.bnf-export"


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which gets the target's name when all is in it. What a killed export left is taken away.

    Raises:
        RecipeError: another export writes the target, or has written it since it was looked at.
    """
    partial = _partial(target)
    handle = _locked(partial, target)
    try:
        try:
            if target.exists() and any(target.iterdir()):
                raise _filled(target)
            _empty(partial)
            yield partial
            sync_folder(partial)
            try:
                os.rename(partial, target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise _filled(target) from error
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def _locked(partial: Path, target: Path) -> int:
    """A handle on the folder of this name, which is made where there is none; it is locked until the handle is closed."""
    while True:
        try:
            partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(
                f"--to must be a folder that can be made, got {target} ({error.strerror}); name another"
            ) from error
        try:
            handle = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            # Another export has just ended.
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(partial)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise RecipeError(f"--to must be one export's alone, got {target}, which another is writing; wait for it") from None
        except FileNotFoundError:
            # What was locked is another export's, which has given it its name or taken it away.
            pass
        os.close(handle)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _copy(weights: _Weights, folder: Path) -> None:
    """Copy the files, and compare each copy with its hash. They are no hard links: whoever edits the export must not edit the artifact.

    Raises:
        RecipeError: there is no room, or a file isn't what it was.
    """
    needed, free = sum(num_bytes for num_bytes, _ in weights.files.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise RecipeError(
            f"the disk of --to must have {size(needed)} free, got {size(free)}; free some, or name another folder"
        )
    for name, (_, sha256) in weights.files.items():
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights.folder / name, copy)
        if file_sha256(copy) != sha256:
            raise RecipeError(
                f"{weights.folder / name} must have sha256 {sha256}, got another; train again with --refresh train"
            )


def _copy_licence(run: Run, folder: Path) -> None:
    base = _base_folder(run)
    if base is None:
        return
    for file in (file for pattern in LICENCE_FILES for file in base.glob(pattern)):
        if not is_own(file, base):
            raise RecipeError(
                f"{base} must have a licence of its own to give away, got {file.name}, a link to {file.resolve()}; put a copy of that file "
                "in the link's place, or remove the link"
            )
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def _base_folder(run: Run) -> Path | None:
    base = run.artifacts.get(BASE)
    if base is None or not (base.path / MANIFEST).exists():
        return None
    folder = model_folder(base.path)
    return folder if folder.is_dir() else None


def _facts(run: Run, weights: _Weights, settings: Record | None, name: str) -> CardFacts:
    recipe, base = run.recipe, base_model(run)
    hub_id = base if is_hub_id(base) else None
    summary = run.folder / "summary.json"
    manifest, base_artifact = weights.manifest, run.artifacts.get(BASE)
    digests = {} if base_artifact is None else {"base model": base_artifact.manifest["fingerprint"]}
    last = {artifact.stage: artifact for artifact in run.artifacts.values()}
    if "prepare" in last:
        digests["training data, as prepared"] = last["prepare"].fingerprint
    shown = hub_id or Path(base).name
    served_base = hub_id or f"PATH/TO/{shown}"
    return CardFacts(
        name=name,
        run=run.id,
        recipe=recipe,
        base=shown,
        licence=known_licence(_base_folder(run), hub_id),
        code=this_code(_changed_code(manifest)),
        adapter=settings is not None,
        serve=serve_line(name) if settings is None else serve_adapter_line(served_base, name, settings),
        unfinished=unfinished_rounds(run),
        digests={**digests, "policy": manifest["fingerprint"]},
        sources=_sources(run, recipe),
        summary=read_json(summary) if summary.exists() else None,
        made_with=made_with(manifest["versions"], manifest["machine"]),
    )


def _changed_code(manifest: Manifest) -> Sequence[str]:
    """The modules of the training that are others now."""
    before = manifest["ingredients"]["code"]
    objectives = [name for name in before if name.startswith("bnf.objectives.") and not name.endswith("._base")]
    try:
        now = code_digests(["tasks.stages.train", *objectives])
    except FileNotFoundError:  # an objective that is gone
        now = code_digests(["tasks.stages.train"])
    return [change["key"].removeprefix("code.") for change in changes({"code": before}, {"code": now})]


def _sources(run: Run, recipe: Recipe) -> list[dict[str, str]]:
    """A row for each source of preferences: what it is, and the sha256 of a file, or the revision that was asked for."""
    rows = []
    digests = _file_digests(run.artifacts)
    for number, one in enumerate(recipe.sources()):
        there = is_hub_id(one.path)
        place = _given_away(one.path)
        version = f"revision {one.revision or 'not fixed'}" if there else digests.get(f"source{number}", "–")
        rows.append({"source": one.source, "from": place, "content": version})
    if (sample := recipe.sample) is not None:
        path = sample.path or "the source's own"
        place = _given_away(path)
        rows.append(
            {
                "source": f"{sample.source}: the policy's own samples",
                "from": f"{sample.num_prompts} prompts of {place}",
                "content": digests.get("prompts", "–"),
            }
        )
    return rows


def _given_away(path: str) -> str:
    """A hub id as it is, a URL without what may be a key, of a local path the last part."""
    return without_keys(path) if "://" in path else path if is_hub_id(path) else Path(path).name


def _file_digests(artifacts: Mapping[str, Artifact]) -> dict[str, str]:
    """The digests of the files that preparation and sampling read, by role."""
    found: dict[str, str] = {}
    for task, artifact in artifacts.items():
        if TaskName.from_id(task).stage in ("prepare", "sample") and (artifact.path / MANIFEST).exists():
            found = {**artifact.manifest["ingredients"]["inputs"], **found}
    return found


def _recipe_file(recipe: Recipe) -> str:
    head = (
        "# The whole recipe of this model. Of files outside the project it has the names alone: put them beside it.\n"
        "# Of URLs it has no user, password, query or fragment.\n"
    )
    return head + dump(without_folders(recipe).model_dump(exclude={"resources", "ray"}))
