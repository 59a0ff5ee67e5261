"""Whether an endpoint answers, serves the model that the recipe names, and leaves room for what it is to write."""

from __future__ import annotations

from flows.dag.checks import Check
from tasks.nodes import Node

PROBE_TIMEOUT_S = 10.0


def endpoint_check(node: Node, key: str) -> Check:
    """An endpoint must answer now, not hours into the run, and its model must have a price where there is a cap.

    Args:
        key: The section of the recipe that names the endpoint.
    """
    import openai

    from evaluation.engines.openai import connect
    from evaluation.spending import Meter

    engine, limits = node.settings["engine"], node.unkeyed.get("spending") or {}
    connection = node.unkeyed.get("connection") or {}
    name = f"endpoint {engine['base_url'] or 'api.openai.com'}"
    if node.unkeyed.get("key_in_block"):
        return Check(name, None, "the key is in a Prefect block; the first call will tell")
    try:
        Meter.of_run(limits.get("prices"), limits.get("max_usd")).price(engine["model"])
        api = engine.get("api", "openai")
        client = connect(
            engine["base_url"], api, connection.get("api_version"), connection.get("api_key_variable"), PROBE_TIMEOUT_S
        )
        # Azure lists models, not the deployments that are asked for.
        served = None if api == "azure" else {model.id: model for model in client.models.list()}
    except openai.OpenAIError as error:
        return Check(
            name, f"{key}.base_url must answer, got {type(error).__name__} ({error}); start the server, and set OPENAI_API_KEY"
        )
    except ValueError as error:
        return Check(name, str(error))
    if served is None:
        return Check(name, None, "key, address and version are set")
    if engine["model"] not in served:
        return Check(
            name,
            f"{key}.model must be served by {engine['base_url']}, got {engine['model']!r}; it serves {', '.join(list(served)[:5])}",
        )
    # vLLM's server says so, OpenAI's doesn't.
    root, longest = (getattr(served[engine["model"]], name, None) for name in ("root", "max_model_len"))
    seen = f"serves {engine['model']}" + (f" from {root}" if root and root != engine["model"] else "")
    if not isinstance(longest, int) or isinstance(longest, bool):
        return Check(name, None, seen)
    return Check(name, _room_problem(node, key, longest), f"{seen}, texts of up to {longest} tokens")


def _room_problem(node: Node, key: str, longest: int) -> str | None:
    """Such a server refuses every request that asks for more new tokens than its model reads."""
    is_judge = "max_judgment_tokens" in node.settings
    asked = node.settings["max_judgment_tokens"] if is_judge else node.settings.get("max_new_tokens")
    if asked is None or asked <= longest:
        return None
    limit = f"{key}.max_judgment_tokens" if is_judge else "max_new_tokens of evaluation, or of judge for judged benchmarks,"
    of = "a judgment" if is_judge else f"an answer of {node.benchmark}"
    return (
        f"{key}.base_url must serve texts that are long enough, got {longest} tokens, where {of} may take {asked}; lower {limit} or start "
        "the server with a larger --max-model-len"
    )
