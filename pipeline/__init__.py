"""Raw market data to validated ONNX models. Importing this package pins the arithmetic of the numerical libraries.

The bytes of a fit follow the instruction set: a sum over eight lanes is not the sum over sixteen. Every library is
limited to AVX2, whatever the CPU offers, so that all x86-64 CPUs with AVX2 give the same results. The libraries read
these variables when they are imported, so this file must run first; workers inherit them.
"""

import os
import platform
from pathlib import Path

PINNED = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's convolutions
    "MKL_CBWR": "COMPATIBLE",  # torch's matrix products: the only branch of MKL that Intel and AMD share
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's matrix products
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",  # NumPy's own kernels: AVX2 and FMA
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "",
}


def read_cpu() -> dict[str, str]:
    """Return the fields of the first CPU as Linux lists them, such as `model name`; empty on other systems."""
    file = Path("/proc/cpuinfo")
    first = file.read_text().partition("\n\n")[0] if file.exists() else ""
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def has_avx2() -> bool:
    """Return whether this is an x86-64 CPU with AVX2 and FMA, on which results are the same to the byte."""
    flags = read_cpu().get("flags", "").split()
    return platform.machine() in ("x86_64", "AMD64") and {"avx2", "fma"} <= set(flags)


if has_avx2():
    os.environ.update(PINNED)
    os.environ.pop("NPY_DISABLE_CPU_FEATURES", None)  # NumPy refuses both at once
