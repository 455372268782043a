"""Facts of this machine that results may depend on: Python, libraries, CPU, GPU driver, settings of threads."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from pipeline import PINNED, has_avx2, read_cpu

SETTINGS = (
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMBA_",
    "NUMEXPR_",
    "PIPELINE_",
    "CUDA_",
    "TORCH_",
    "ATEN_",
    "ONEDNN_",
    "NPY_",
    "PYTHONHASHSEED",
)
CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "amx_tile")
DRIVER_FILE = Path("/proc/driver/nvidia/version")


def collect_facts() -> dict[str, Any]:
    """Return the facts of this machine and this environment, by group: plain values."""
    cpu = read_cpu()
    flags = set(cpu.get("flags", "").split())
    return {
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "libc": " ".join(platform.libc_ver()),
            "cpu": cpu.get("model name", platform.processor() or "unknown"),
            "cpu_features": " ".join(name for name in CPU_FEATURES if name in flags),
            "cpus": os.cpu_count(),
            "arithmetic": "pinned to AVX2" if has_avx2() else "not pinned: no AVX2",
            "gpu_driver": DRIVER_FILE.read_text().splitlines()[0] if DRIVER_FILE.exists() else None,
        },
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(SETTINGS) and name not in PINNED
        },
        "libraries": {
            name.lower().replace("_", "-"): each.version
            for each in importlib.metadata.distributions()
            if (name := each.metadata["Name"])
        },
    }
