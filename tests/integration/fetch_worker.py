"""Several commands of somebody who fetches, in one process: the hub's and the data's libraries take seconds to import.

    python -m tests.integration.fetch_worker STEPS      # JSON: a list of {"recipe", "to", "damage", "token"}

Each step may write r.yaml and put other bytes in the place of a file's, then runs `bnf fetch r.yaml --to TO --json`. Printed is a JSON list
with what each printed, or {"error": message}.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from flows.commands.fetching import fetch_words
from flows.dag import hub


def main() -> None:
    found = []
    for step in json.loads(sys.argv[1]):
        if "recipe" in step:
            Path("r.yaml").write_text(json.dumps(step["recipe"]))
        if "damage" in step:
            Path(step["damage"]).write_bytes(b"[]")
        os.environ |= step.get("variables", {})
        hub.ask.cache_clear()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                fetch_words("r.yaml", (), step.get("to", "bundle"), as_json=True)
            found.append(json.loads(printed.getvalue()))
        except Exception as error:
            found.append({"error": str(error)})
        os.environ |= dict.fromkeys(step.get("variables", {}), "")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
