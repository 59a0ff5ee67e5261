"""Keys of judges from real Prefect Secret blocks."""

import pytest

from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from flows.service.keys import service_keys

pytestmark = [pytest.mark.integration]


def recipe(block):
    judge = {"engine": "openai", "model": "m", "api_key_block": block}
    return make_recipe({"name": "j", "model_name_or_path": "some/model", "judge": judge})


def test_a_key_comes_from_its_block_and_a_missing_block_is_named():
    from prefect.blocks.system import Secret
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        Secret(value="sk-block").save("judge-key")
        assert service_keys(recipe("judge-key")) == {"OPENAI_API_KEY": "sk-block"}
        with pytest.raises(RecipeError, match=r"judge\.api_key_block must be a Prefect Secret block, got 'none-such'"):
            service_keys(recipe("none-such"))
