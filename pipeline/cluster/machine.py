"""Facts that the results of a fit depend on, beside its data: code, versions, CPU and GPU. Workers get it as text.

It imports the standard library alone, so that a worker without this package, or with another version of it, can run it.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Mapping
from pathlib import Path

PACKAGES = (  # whose versions a result or its pickle may depend on
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "scikit-learn",
    "numba",
    "lightgbm",
    "xgboost",
    "catboost",
    "torch",
    "timesfm",
    "optuna",
    "onnx",
    "pydantic",
    "joblib",
    "cloudpickle",
    "dask",
    "distributed",
)
ABSENT = "none"
CODE = "code of pipeline"
LOADED = "PIPELINE_CODE_AT_START"  # a variable of a worker's process: the digest of the code when it was first read


def describe_machine(environment: Mapping[str, str], variables: tuple[str, ...]) -> dict[str, str]:
    """Return the facts of this process by name; `environment` has the `variables` that libraries read on import."""
    return {
        "Python": platform.python_version(),
        **{name: find_version(name) for name in PACKAGES},
        CODE: digest_code(),
        "architecture": platform.machine(),
        "AVX2 and FMA": "yes" if {"avx2", "fma"} <= read_cpu_flags() else "no",
        "GPUs": str(count_gpus()),
        **{name: environment.get(name, ABSENT) for name in variables},
    }


def describe_worker(variables: tuple[str, ...]) -> dict[str, str]:
    """Return the facts of a worker's process; code that has changed since it was loaded is neither old nor new."""
    facts = describe_machine(read_first_environment(), variables)
    loaded = os.environ.setdefault(LOADED, facts[CODE])
    return facts if loaded == facts[CODE] else {**facts, CODE: f"{loaded}, changed since the worker started"}


def find_version(package: str) -> str:
    """Return the version of a package without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def digest_code() -> str:
    """Return the first digits of a SHA-256 of all modules of this package."""
    spec = importlib.util.find_spec("pipeline")
    if spec is None or spec.origin is None:
        return ABSENT
    root, total = Path(spec.origin).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        content = file.read_bytes()
        total.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return total.hexdigest()[:12]


def read_cpu_flags() -> set[str]:
    """Return the flags of the CPU, empty where the system does not list them."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def count_gpus() -> int:
    """Return how many GPUs of NVIDIA this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return found if visible is None else min(found, len([each for each in visible.split(",") if each.strip()]))


def read_first_environment() -> dict[str, str]:
    """Return the variables that this process started with: NumPy may have been imported before others were set."""
    file = Path("/proc/self/environ")
    if not file.exists():
        return dict(os.environ)
    pairs = (entry.partition("=") for entry in file.read_bytes().decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}
