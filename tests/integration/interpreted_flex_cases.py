"""The shapes for which FlexAttention's kernels are interpreted: half precision and float32, head sizes, shared keys, window, soft
cap, sinks.
"""

from typing import Any

CASES: tuple[dict[str, Any], ...] = (
    {"heads": (2, 1), "head_dim": 64, "dtype": "float16", "window": None, "softcap": None, "sinks": False},
    {"heads": (1, 1), "head_dim": 96, "dtype": "float32", "window": 40, "softcap": None, "sinks": False},
    {"heads": (3, 1), "head_dim": 128, "dtype": "float32", "window": None, "softcap": 2.0, "sinks": False},
    {"heads": (2, 1), "head_dim": 256, "dtype": "float32", "window": 40, "softcap": 2.0, "sinks": False},
    {"heads": (2, 1), "head_dim": 64, "dtype": "float32", "window": 40, "softcap": None, "sinks": True},
)
