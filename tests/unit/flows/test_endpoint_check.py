"""An endpoint is asked before a run: whether it is there, serves the model, and leaves room for what it is to write."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows.dag.endpoint_check import endpoint_check
from flows.dag.graph import build
from flows.errors import RecipeError
from flows.recipe.config import make_recipe
from tasks.nodes import Node


@pytest.fixture
def url():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            # As vLLM's server and OpenAI's list models.
            models = [
                {"id": "served", "object": "model", "root": "/models/served", "max_model_len": 2048},
                {"id": "other", "object": "model"},
            ]
            data = json.dumps({"object": "list", "data": models}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def node(url, model, stage="generate", **settings):
    return Node(stage, {"engine": {"name": "openai", "base_url": url, "model": model}, **settings}, benchmark="gsm8k")


def test_a_server_that_says_how_long_its_texts_may_be_must_leave_room(url):
    fits = endpoint_check(node(url, "served", max_new_tokens=2048), "evaluation")
    assert fits.problem is None and fits.seen == "serves served from /models/served, texts of up to 2048 tokens"
    answer = endpoint_check(node(url, "served", max_new_tokens=2049), "evaluation").problem
    assert answer == (
        "evaluation.base_url must serve texts that are long enough, got 2048 tokens, where an answer of gsm8k may take 2049; lower "
        "max_new_tokens of evaluation, or of judge for judged benchmarks, or start the server with a larger --max-model-len"
    )
    judged = endpoint_check(node(url, "served", "judge", max_judgment_tokens=4096), "judge.second").problem
    assert "where a judgment may take 4096; lower judge.second.max_judgment_tokens or start" in judged
    silent = endpoint_check(node(url, "other", max_new_tokens=2049), "evaluation")
    assert silent.problem is None and silent.seen == "serves other"


def test_a_model_that_is_not_served_and_a_server_that_is_not_there_are_said(url):
    assert endpoint_check(node(url, "absent"), "judge").problem == (
        f"judge.model must be served by {url}, got 'absent'; it serves served, other"
    )
    gone = endpoint_check(node("http://127.0.0.1:9/v1", "served"), "evaluation").problem
    assert gone.startswith("evaluation.base_url must answer, got APIConnectionError")


JUDGED = {"judge": {"benchmarks": {"arena_hard": {"source": "sample"}}, "engine": "vllm", "model_name_or_path": "x/y"}}


@pytest.mark.parametrize(
    ("more", "overrides", "message"),
    [
        ({}, ["evaluation.engine=openai"], r"evaluation.model must name the model at the endpoint, got none; add it"),
        (
            {"sample": {"source": "number_comparison"}, "label": {"labeler": "verifier"}, "train": {}},
            ["evaluation.engine=openai", "evaluation.model=m"],
            r"evaluation.engine must load the models itself in a recipe with train, got openai, whose server has one model",
        ),
        (
            {},
            ["evaluation.engine=vllm", "evaluation.base_url=http://host/v1"],
            r"evaluation.base_url must be left out with engine vllm, which asks no server, got http://host/v1; set evaluation.engine",
        ),
        (
            {},
            ["evaluation.engine=vllm", "evaluation.model=m"],
            r"evaluation.model must be left out with engine vllm, which asks no server, got m; set evaluation.engine=openai",
        ),
        (
            JUDGED,
            ["judge.base_url=http://host/v1"],
            r"judge.base_url must be left out with engine vllm, which asks no server, got http://host/v1; set judge.engine=openai",
        ),
    ],
)
def test_answers_come_from_the_model_that_the_recipe_names(more, overrides, message):
    benchmarks = {"evaluation": {"benchmarks": ["number_comparison"], "engine": "vllm"}}
    recipe = {"name": "r", "model_name_or_path": "some/model", **benchmarks, **more}
    with pytest.raises(RecipeError, match=message):
        build(make_recipe(recipe, overrides))
