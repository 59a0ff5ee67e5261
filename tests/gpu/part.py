"""One part of the check in this process: a JSON line on stdout for each of its checks, as soon as that is done.

python -m tests.gpu.part NAME --device cuda|cpu [--first N]
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import sys
import time
import traceback
from typing import Any

import torch

from tests.gpu.checks import Check, Device, Skipped


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--first", type=int)
    options = parser.parse_args()
    # Libraries print; the lines have a channel of their own.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device must name a device that is here, got cuda without one; --device cpu rehearses the check")
    device = Device(options.device)
    for check in itertools.islice(of(options.name, device), options.first):
        lines.write(json.dumps(done(check, device)) + "\n")


def of(name: str, device: Device) -> Any:
    """The checks of a part."""
    return importlib.import_module(f"tests.gpu.parts.{name}").checks(device)


def done(check: Check, device: Device) -> dict[str, Any]:
    """Runs a check; what came of it."""
    started_s = time.monotonic()
    result: dict[str, Any] = {"name": check.name, "status": "passed", "seconds": 0.0, "why": None, "figures": {}}
    try:
        with device.stand_ins():
            result["figures"] = check.run()
    except Skipped as reason:
        result |= {"status": "skipped", "why": str(reason)}
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        result |= {"status": "failed", "why": f"{type(error).__name__}: {error}"[:1500]}
    return {**result, "seconds": round(time.monotonic() - started_s, 2)}


if __name__ == "__main__":
    main()
