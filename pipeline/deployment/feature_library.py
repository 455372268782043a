"""The compiled feature update as a shared library: C, C++ and Rust give it a bar and get its columns, in Python's bits.

`python -m pipeline.deployment.feature_library FOLDER --bundle BUNDLE` writes `libfeature_update.so` and its header.
numba compiles the update that `features.engine.Stream` runs. Its LLVM code is compiled once more, by the same LLVM for
the same CPU, into position-independent code; `feature_update.c` gives it a state and names for C.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import numba
import numpy as np

from pipeline import PINNED, artifacts, digests, has_avx2
from pipeline.features import chunks
from pipeline.features.catalogue import Layout
from pipeline.features.engine import Stream, advance
from pipeline.features.symbol_flags import list_flags

LIBRARY, HEADER = "libfeature_update.so", "feature_update.h"
SOURCES = Path(__file__).parent
RUNTIME = ("Py", "numba_", "NRT_")  # functions that report errors and count references: no update does either
EXACT = {"fmod", "memcpy", "memmove", "memset", "sqrt"}  # functions with the same bits in every C library
compiler: Any = numba  # its stubs lack what is used here
WHOLE, DOUBLES = compiler.int64, compiler.types.CPointer(compiler.float64)
POINTERS = (compiler.types.CPointer(WHOLE), DOUBLES, DOUBLES, DOUBLES, compiler.types.CPointer(compiler.float32))
SIGNATURE = WHOLE(*POINTERS, WHOLE, WHOLE)


def write_library(folder: Path, layout: Layout) -> Path:
    """Write the library of a layout and its header to `folder`; return the library.

    Raises:
        ValueError: the CPU or a tool is not there, the update calls functions whose bits depend on the machine, or a
            column depends on the symbol, which the library does not know.
    """
    if flags := list_flags(layout):
        raise ValueError(
            f"features.symbol_flags is {flags}; the library is one of all symbols and has no flags of them: feed a hot "
            "path in Python, or fit models without these columns"
        )
    if not has_avx2():
        raise ValueError("this CPU is no x86-64 with AVX2 and FMA, for which the library is built; build it on one")
    update = compile_update(layout)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER).write_bytes((SOURCES / HEADER).read_bytes())
    library = folder.resolve() / LIBRARY
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / "update.o"
        code.write_bytes(emit_object(update.inspect_llvm()))
        names = run_tool("nm", "--undefined-only", "--format=posix", "update.o", folder=code.parent)
        needed = sorted({line.split()[0] for line in names.splitlines()} - EXACT)
        if unknown := [name for name in needed if not name.startswith(RUNTIME)]:
            raise ValueError(f"the update calls {', '.join(unknown)}, whose bits depend on the machine's C library")
        (code.parent / "layout.h").write_text(describe_layout(layout, update.native_name, needed), encoding="utf-8")
        (code.parent / "exports").write_text("{ global: features_*; local: *; };", encoding="utf-8")
        words = ["-std=c11", "-O2", "-fPIC", "-shared", "-include", "layout.h", str(SOURCES / "feature_update.c")]
        words += ["update.o", "-lm", "-Wl,--no-undefined", "-Wl,--version-script=exports", "-o", str(library)]
        run_tool(os.environ.get("CC", "cc"), *words, folder=code.parent)
    return library


def emit_object(code: str) -> bytes:
    """Return the object file of LLVM code, for the CPU and by the optimizations of numba, but position-independent."""
    module = llvm.parse_assembly(code)
    machine = llvm.Target.from_triple(module.triple).create_target_machine(
        cpu=PINNED["NUMBA_CPU_NAME"],
        features=PINNED["NUMBA_CPU_FEATURES"],
        opt=compiler.config.OPT,
        reloc="pic",
        codemodel="default",
    )
    return cast(bytes, machine.emit_object(module))


def describe_layout(layout: Layout, symbol: str, stopping: Iterable[str]) -> str:
    """Return the text of `layout.h`: the update has the name `symbol`, and the functions `stopping` are not to run."""
    cells = np.flatnonzero(layout.memory).tolist()
    constants = {
        "UPDATE_SYMBOL": f'"{symbol}"',
        "RUNTIME": " ".join(f"STOP({name})" for name in stopping),
        "PLANS": ",".join(str(number) for plan in layout.plans for number in plan.ravel().tolist()),
        "MEMORY_CELLS": len(layout.memory),
        "MEMORY": ",".join(f"[{cell}]={float(layout.memory[cell]).hex()}" for cell in cells),
        "CHUNK_CELLS": chunks.allocate_chunk(1, layout.lookback_bars).size,
        "WARM_UP_BARS": layout.warm_up_bars,
        "FIELDS": quote(chunks.FIELDS),
        "COLUMNS": quote([column.name for column in layout.columns]),
    }
    return "".join(f"#define {name} {value}\n" for name, value in constants.items())


def quote(names: Sequence[str]) -> str:
    """Return names as strings of C."""
    return ",".join(f'"{name}"' for name in names)


def run_tool(*words: str, folder: Path) -> str:
    """Return what a command writes; ValueError where it is not installed or fails."""
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"there is no {words[0]}; install gcc and binutils, or set CC to a compiler of C") from None
    if done.returncode:
        faults = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        raise ValueError(f"{words[0]} fails: {(faults or done.stderr.splitlines() or ['it gives no message'])[0]}")
    return done.stdout


def compile_update(layout: Layout) -> Any:
    """Return the update of one bar as a C callback of numba: plans, memory, chunk, bar, columns, 0, 1 -> bars so far.

    The two numbers are arguments, so that `advance` is the one that `Stream` calls, and not another one for constants.
    """
    take_plans = _chain_plans(layout)
    rows, cells = sum(map(len, layout.plans)), len(layout.memory)
    chunk_shape = chunks.allocate_chunk(1, layout.lookback_bars).shape
    plan_shape, bar_shape = (rows, layout.plans[0].shape[1]), (len(chunks.FIELDS), 1)
    column_shape = (len(layout.columns), 1)

    def update(plans: Any, memory: Any, chunk: Any, bar: Any, columns: Any, first: int, count: int) -> Any:
        return advance(
            take_plans(compiler.carray(plans, plan_shape)),
            compiler.carray(memory, (cells,)),
            compiler.carray(chunk, chunk_shape),
            compiler.carray(bar, bar_shape),
            first,
            count,
            compiler.carray(columns, column_shape),
            first,
        )

    return compiler.cfunc(SIGNATURE, error_model="numpy")(update)


def _chain_plans(layout: Layout) -> Callable[..., Any]:
    """Return a compiled function that splits the rows of all plans into the tuple of plans that `advance` takes."""

    def take_none(plans: Any) -> Any:
        return ()

    chain, start = compiler.njit(take_none), 0
    for plan in layout.plans:
        chain, start = _append_plan(chain, start, start + len(plan)), start + len(plan)
    return cast("Callable[..., Any]", chain)


def _append_plan(take_before: Callable[..., Any], start: int, stop: int) -> Callable[..., Any]:
    def take_plans(plans: Any) -> Any:
        return (*take_before(plans), plans[start:stop])

    return cast("Callable[..., Any]", compiler.njit(take_plans))


def main() -> None:
    """Write the library of a bundle's features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of {LIBRARY} and {HEADER}; it is made where it is not there")
    parser.add_argument("--bundle", type=Path, required=True, help="folder whose contract.json has the features block")
    given = parser.parse_args()
    try:
        contract = artifacts.read_json(digests.verify(given.bundle) / "contract.json")
        sys.stdout.write(f"{write_library(given.folder, Stream(**contract['features']).layout)}\n")
    except ValueError as error:
        sys.exit(f"feature_library: {error}")


if __name__ == "__main__":
    main()
