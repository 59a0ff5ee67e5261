"""What a judge run costs against an endpoint that misbehaves: `python -m tests.performance.judge_costs` prints the table of docs/judges.md.

The project's own twelve questions in both orders, at $10 and $30 per million tokens; the stub reports 100 tokens read and 10 written per
request. Every fault hits each request's first attempt; a second run then asks what is still without a verdict.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import evaluation.engines.openai as client
from evaluation.spending import Meter
from tests.stub_server import FAULTS, StubServer
from tests.unit.evaluation.test_judge_client import PRICE, fair, judged

COLUMNS = ("first attempt", "run", "requests", "billed", "judged", "null", "at most, before", "counted", "of it unknown")


def main() -> None:
    client.FIRST_WAIT_S = 0.01
    rows = [row for fault in ("answered", *FAULTS) for row in scenario(fault)]
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def scenario(fault: str) -> list[list[str]]:
    """Two runs of one home: the second asks for what the first left open."""

    def behave(messages: Any, attempt: int) -> Any:
        return fault if attempt == 0 and fault != "answered" else fair(messages)

    rows = []
    with tempfile.TemporaryDirectory() as folder, StubServer(behave, slow_s=1.6) as server:
        for number in (1, 2):
            requests, billed = len(server.requests), sum(server.billed.values())
            ledger = Path(folder) / f"spending-{number}.jsonl"
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                result = judged(server, Path(folder), ledger=ledger, timeout_s=1.0 if fault == "timeout" else 60.0)["models"][
                    "new"
                ]
            meter = Meter({"stub-judge": PRICE}, ledger=ledger)
            most = re.search(r"at most \$([0-9.]+) in all", printed.getvalue())
            rows.append(
                [
                    fault,
                    str(number),
                    str(len(server.requests) - requests),
                    str(sum(server.billed.values()) - billed),
                    str(result["n_games"] - result["n_null"]),
                    str(result["n_null"]),
                    f"${most.group(1)}" if most else "nothing to ask",
                    f"${meter.spent_usd:.4f}",
                    f"${meter.unknown_usd:.4f}",
                ]
            )
    return rows


if __name__ == "__main__":
    main()
