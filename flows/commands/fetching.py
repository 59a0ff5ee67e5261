"""`bnf fetch`: what a recipe reads of hubs and URLs, in a folder for machines without a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bnf.paths import person_path
from evaluation.bundle import MANIFEST, VARIABLE, opened
from flows.dag.bundling import bundle_at, complete
from flows.dag.graph import build
from flows.dag.points import make_points
from flows.dag.wanted import left_out, wanted
from flows.display import print_json, print_table, size
from flows.errors import RecipeError
from flows.recipe.config import Recipe, load_recipe
from flows.recipe.sweep_file import is_sweep, load_sweep
from flows.wording import counted


def fetch_words(path: str, overrides: Sequence[str], to: str, *, as_json: bool) -> None:
    """`fetch` for a recipe's file, or for all runs of a sweep's."""
    if not to:
        raise RecipeError("--to must name the bundle's folder, got none; add --to FOLDER")
    recipes = (
        [point.recipe for point in make_points(load_sweep(path, overrides))]
        if is_sweep(path)
        else [load_recipe(path, overrides)]
    )
    fetch(recipes, to, as_json=as_json)


def fetch(recipes: Sequence[Recipe], to: str, *, as_json: bool) -> None:
    """Bring a bundle up to what these recipes read, and print what it has of them.

    Raises:
        RecipeError: what can't be fetched, each with its key and remedy.
    """
    if opened() is not None:
        raise RecipeError(f"{VARIABLE} must not be set while fetching, got it set; unset it: `env -u {VARIABLE} bnf fetch …`")
    folder = person_path(to).resolve()
    if folder.exists() and not folder.is_dir():
        raise RecipeError(f"--to must be a folder, got the file {folder}; name another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists() and not (folder / ".lock").exists():
        raise RecipeError(f"--to must be a bundle, an empty folder or a new one, got {folder} with other files; name another")
    nodes = [node for recipe in recipes for node in build(recipe)]
    asked = wanted(nodes)
    with bundle_at(folder) as bundle:
        bundle, fetched = complete(bundle, asked, lambda text: print(text, file=sys.stderr, flush=True))
    new, others = {one.part_key for one in fetched}, left_out(nodes)
    parts = [(bundle.parts[one.part_key], one.part_key in new) for one in asked]
    if as_json:
        shown = [
            {
                "kind": part.kind,
                "name": part.name,
                "commit": part.commit,
                "variant": part.variant,
                "bytes": part.num_bytes,
                "fetched": is_new,
            }
            for part, is_new in parts
        ]
        print_json({"folder": str(folder), "parts": shown, "left_out": others})
        return
    rows = [
        {
            "": part.kind,
            "name": part.name + (f" ({part.variant})" if part.variant not in ("", "default") else ""),
            "commit": part.commit[:12],
            "size": size(part.num_bytes),
            "state": "fetched" if is_new else "there",
        }
        for part, is_new in parts
    ]
    print_table(f"the bundle {folder}", rows, words=True)
    print(
        f"{counted(len(parts), 'part')}, {size(sum(part.num_bytes for part, _ in parts))}; {counted(len(new), 'part')} fetched now"
    )
    if others:
        print("no part of it, bring them along or have them there:", *others, sep="\n  ")
    print(f"on the machine without a network: {VARIABLE}={folder} bnf run RECIPE")
