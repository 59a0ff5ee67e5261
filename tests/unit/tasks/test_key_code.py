"""What only shows, refuses or permits is in no key: its edit makes nobody train again."""

import pytest

from tasks.keys import PROJECT_PACKAGES, ROOT, WITHOUT_EFFECT, _imports, _tree, code_digests


@pytest.mark.parametrize("stage", ["reference", "train", "analyze"])
def test_progress_and_its_like_are_in_no_key_and_what_computes_is(stage):
    code = code_digests([f"tasks.stages.{stage}"])
    assert not WITHOUT_EFFECT & code.keys()
    assert {"bnf.data.packing", "bnf.model.logps", "bnf.model.loading"} <= code.keys()


@pytest.mark.parametrize("module", sorted(WITHOUT_EFFECT))
def test_nothing_that_computes_is_hidden_behind_them(module):
    """They import none of the project's modules, so that no other is left out with them."""
    assert module.split(".")[0] in PROJECT_PACKAGES
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    assert not _imports(_tree(path).body, path)
