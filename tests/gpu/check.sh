#!/usr/bin/env bash
# What only a GPU can show, in 8 minutes at most: kernels, families, trainings, throughput. JSON out. docs/performance/gpu.md says more.
#
#   tests/gpu/check.sh [--device cuda|cpu] [--out FILE] [--first N] [--only PART …]
#
# It needs torch, transformers, accelerate and peft, and sets nothing up: it says what is missing. PYTHON names another Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-}
if [[ -z $python ]]; then
    if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; else python=python3; fi
fi
exec "$python" -P -c 'import sys; sys.path.insert(0, "."); from tests.gpu.check import main; sys.exit(main())' "$@"
