"""The kind of device that torch will compute on, found without importing torch: it is part of keys, and a plan has to be quick."""

import ctypes
import functools
import importlib.util
import re
from pathlib import Path


@functools.cache
def device_kind() -> str:
    """`cuda` or `cpu`: what `torch.cuda.is_available()` would say, of this installation of torch, the driver and CUDA_VISIBLE_DEVICES."""
    return "cuda" if _built_for_cuda() and _num_devices() > 0 else "cpu"


def attention_counts(attention: str) -> bool:
    """Whether a result depends on `train.attention`. Without CUDA it doesn't: blocks serve, and `flex` is refused."""
    return device_kind() == "cuda" or attention == "flex"


def _built_for_cuda() -> bool:
    """Whether torch was built with CUDA; its version.py says so."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    return re.search(r"^cuda\b[^=]*= *['\"]", Path(torch.origin).with_name("version.py").read_text(), re.M) is not None


def devices() -> list[tuple[str, int]]:
    """The name and the bytes of memory of each device that torch will compute on; empty where that is the CPU."""
    if device_kind() != "cuda":
        return []
    driver, found = ctypes.CDLL("libcuda.so.1"), []
    for number in range(_num_devices()):
        device, name, memory = ctypes.c_int(0), ctypes.create_string_buffer(256), ctypes.c_size_t(0)
        calls = (
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceGetName(name, len(name), device),
            driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        )
        if not any(calls):
            found.append((name.value.decode(errors="replace"), memory.value))
    return found


def _num_devices() -> int:
    """How many devices the driver shows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    # https://docs.nvidia.com/cuda/cuda-driver-api: 0 is success.
    return found.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0 else 0
