"""GPUs by name: their memory and their peak rate, for an estimate of a training that has not run."""

from dataclasses import dataclass

GIB = 2**30
# The share of the peak rate that a training is taken to reach. It is assumed and was not measured with this project: Llama 3's pretraining
# reached 38 to 43 % of H100s (arXiv 2407.21783, table 4), and rows of mixed lengths with a head over part of their tokens reach less.
ASSUMED_SHARE = 0.30
# Of a GPU's memory what its allocator holds between the tensors.
ALLOCATOR_SHARE = 0.05


@dataclass(frozen=True)
class Gpu:
    """A GPU; `tflops` is its peak of dense matrix products in bfloat16, summed in float32, as its maker states it."""

    name: str
    memory: float
    tflops: float
    source: str

    @property
    def usable(self) -> float:
        """Bytes of its memory that tensors may take."""
        return self.memory * (1 - ALLOCATOR_SHARE)


GPUS = (
    Gpu("A100-40GB", 40 * GIB, 312, "NVIDIA A100 data sheet"),
    Gpu("A100-80GB", 80 * GIB, 312, "NVIDIA A100 data sheet"),
    Gpu("H100", 80 * GIB, 989, "NVIDIA H100 data sheet, SXM, without sparsity"),
    # 141 GB, of which the driver shows 140 GiB and less.
    Gpu("H200", 139 * GIB, 989, "NVIDIA H200 data sheet, SXM, without sparsity"),
    Gpu("L40S", 45 * GIB, 362, "NVIDIA L40S data sheet, without sparsity; 48 GB less its error correction"),
    Gpu("L4", 22 * GIB, 121, "NVIDIA L4 data sheet, without sparsity; 24 GB less its error correction"),
    Gpu("A6000", 48 * GIB, 155, "NVIDIA RTX A6000 data sheet, without sparsity"),
    Gpu("RTX4090", 24 * GIB, 165, "NVIDIA Ada GPU architecture white paper, appendix A, FP32 accumulation"),
    Gpu("RTX3090", 24 * GIB, 71, "NVIDIA Ampere GA102 GPU architecture white paper, table 9, FP32 accumulation"),
)


def _plain(name: str) -> str:
    return (
        "".join(character for character in name.lower() if character.isalnum()).removeprefix("nvidia").removeprefix("geforce")
    )


def find_gpu(name: str) -> Gpu:
    """The GPU that a person names, case and dashes aside.

    Raises:
        ValueError: it isn't known.
    """
    found = [gpu for gpu in GPUS if _plain(gpu.name) == _plain(name)]
    if not found:
        known = ", ".join(gpu.name for gpu in GPUS)
        # A100 has two sizes, and H100-80GB is called H100 here.
        near = [gpu.name for gpu in GPUS if (own := _plain(gpu.name)).startswith(_plain(name)) or _plain(name).startswith(own)]
        remedy = f"write {' or '.join(near)}" if near and _plain(name) else "take one with as much memory"
        raise ValueError(f"--gpu must be one of {known} or cpu, got {name!r}; {remedy}")
    return found[0]


def of_device(name: str, memory: float) -> Gpu | None:
    """The GPU that a driver names, with the memory that it shows; None where its rate isn't known here."""
    known = [gpu for gpu in GPUS if _plain(gpu.name).removesuffix("40gb").removesuffix("80gb") in _plain(name)]
    if not known:
        return None
    # L4 is in L40S.
    gpu = max(known, key=lambda one: len(_plain(one.name)))
    return Gpu(name, memory, gpu.tflops, gpu.source)
