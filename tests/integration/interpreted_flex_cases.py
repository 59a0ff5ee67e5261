"""The shapes for which FlexAttention's kernels are interpreted: half precision and float32, head sizes, shared keys, window, soft cap."""

from typing import Any

CASES: tuple[dict[str, Any], ...] = (
    {"heads": (2, 1), "head_dim": 64, "dtype": "float16", "window": None, "softcap": None},
    {"heads": (1, 1), "head_dim": 96, "dtype": "float32", "window": 40, "softcap": None},
    {"heads": (3, 1), "head_dim": 128, "dtype": "float32", "window": None, "softcap": 2.0},
    {"heads": (2, 1), "head_dim": 256, "dtype": "float32", "window": 40, "softcap": 2.0},
)
