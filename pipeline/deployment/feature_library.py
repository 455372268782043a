"""The compiled feature update as a shared library: C, C++ and Rust give it a bar and get its columns, in Python's bits.

`python -m pipeline.deployment.feature_library FOLDER --bundle BUNDLE` writes `libfeatures.so` and `features.h`. numba
compiles the update that `features.engine.Stream` runs. Its LLVM code is compiled once more, by the same LLVM and for
the same CPU, into position-independent code. A C file adds the state of a segment's start, and names for C.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import llvmlite.binding as llvm
import numba
import numpy as np
import numpy.typing as npt

from pipeline import PINNED, artifacts, digests, has_avx2
from pipeline.features import chunks
from pipeline.features.catalogue import Layout
from pipeline.features.engine import Stream, advance

LIBRARY, HEADER = "libfeatures.so", "features.h"
INTERPRETER = ("Py", "_Py", "numba_")  # what a callback of numba reports errors to; the update raises none
MEMORY_FUNCTIONS = {"memcpy", "memmove", "memset"}
TYPES = numba.types
POINTERS = (TYPES.CPointer(TYPES.int64), *(TYPES.CPointer(TYPES.float64),) * 3, TYPES.CPointer(TYPES.float32))
HEADER_TEXT = """\
/* Features of bars, compiled for one features block: the bits of pipeline.features.engine.Stream. x86-64 with AVX2. */
#ifndef FEATURES_H
#define FEATURES_H
#include <stddef.h>
#include <stdint.h>

size_t features_count_fields(void);       /* of a bar */
const char *features_get_field(size_t i); /* its name */
size_t features_count_columns(void);
const char *features_get_column(size_t i);
size_t features_count_warm_up_bars(void); /* of a segment, which have no features */
size_t features_get_state_size(void);     /* bytes of a state, which must be aligned to 8 */

/* Fill a state with that before the first bar of a segment. */
void features_start(void *state);

/* Take a closed bar, its fields as double; one that bars lack is NaN. Fill `columns`; return the segment's bars so far.
   The columns are defined once that is above features_count_warm_up_bars(). The bar must be valid: finite prices above
   0, amounts of 0 or more, one interval after the last one. A state may be copied, stored and used by one thread. */
int64_t features_update(void *state, const double *bar, float *columns);
#endif
"""


def write_library(folder: Path, layout: Layout) -> Path:
    """Write the library of a layout and its header to `folder`; return the library.

    Raises:
        ValueError: the CPU or the compiler of C is not there, or the update calls what no C program has.
    """
    if not has_avx2():
        raise ValueError("this CPU is no x86-64 with AVX2 and FMA, for which the library is built; build it on one")
    update = compile_update(layout)
    code, missing = emit_object(update.inspect_llvm())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER).write_text(HEADER_TEXT, encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "update.o").write_bytes(code)
        (Path(scratch) / "features.c").write_text(make_source(layout, update.native_name, missing), encoding="utf-8")
        (Path(scratch) / "exports").write_text("{ global: features_*; local: *; };", encoding="utf-8")
        compiler = os.environ.get("CC", "cc")
        words = [compiler, "-shared", "-fPIC", "-O2", "-I", str(folder.resolve()), "features.c", "update.o"]
        # without libm: whatever is not computed in the update itself would depend on the machine's C library
        words += ["-Wl,--no-undefined", "-Wl,--version-script=exports", "-o", str((folder / LIBRARY).resolve())]
        try:
            done = subprocess.run(words, cwd=scratch, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise ValueError(f"there is no compiler {compiler!r}; install gcc or clang, or set CC to its name") from None
    if done.returncode:
        raise ValueError(f"{compiler} fails: {' '.join(done.stderr.split())}")
    return folder / LIBRARY


def emit_object(code: str) -> tuple[bytes, list[str]]:
    """Return the object file of LLVM code, and the functions of Python's interpreter that it names.

    Raises:
        ValueError: it calls another function that it does not have.
    """
    module = llvm.parse_assembly(code)
    missing = [each.name for each in module.functions if each.is_declaration and not each.name.startswith("llvm.")]
    missing = [name for name in missing if name not in MEMORY_FUNCTIONS]
    if unknown := [name for name in missing if not name.startswith(INTERPRETER)]:
        raise ValueError(f"the update calls {', '.join(unknown)}; a library for C can have only its own arithmetic")
    machine = llvm.Target.from_triple(module.triple).create_target_machine(
        cpu=PINNED["NUMBA_CPU_NAME"],
        features=PINNED["NUMBA_CPU_FEATURES"],
        opt=numba.core.config.OPT,
        reloc="pic",
        codemodel="default",
    )
    return machine.emit_object(module), missing


def make_source(layout: Layout, native_name: str, missing: Iterable[str]) -> str:
    """Return the C file with the functions of the header, by the update `native_name`; `missing` ones abort."""
    plans = ",".join(str(number) for plan in layout.plans for number in plan.ravel().tolist())
    cells = ",".join(f"[{cell}]={layout.memory[cell].hex()}" for cell in np.flatnonzero(layout.memory).tolist())
    chunk_cells = chunks.allocate_chunk(1, layout.lookback_bars).size
    aborting = "\n".join(f"void {name}(void) {{ abort(); }}" for name in missing)
    return f"""\
#include "features.h"
#include <stdlib.h>
#include <string.h>
extern int64_t update(const int64_t *, double *, double *, const double *, float *) __asm__("{native_name}");
{aborting}
static const int64_t PLANS[] = {{{plans}}};
static const double MEMORY[{len(layout.memory)}] = {{{cells}}};
{_list_names("FIELDS", chunks.FIELDS)}
{_list_names("COLUMNS", [column.name for column in layout.columns])}
#define CHUNK_BYTES ({chunk_cells} * sizeof(double))
size_t features_count_fields(void) {{ return {len(chunks.FIELDS)}; }}
size_t features_count_columns(void) {{ return {len(layout.columns)}; }}
size_t features_count_warm_up_bars(void) {{ return {layout.warm_up_bars}; }}
size_t features_get_state_size(void) {{ return sizeof MEMORY + CHUNK_BYTES; }}
const char *features_get_field(size_t i) {{ return i < {len(chunks.FIELDS)} ? FIELDS[i] : NULL; }}
const char *features_get_column(size_t i) {{ return i < {len(layout.columns)} ? COLUMNS[i] : NULL; }}
void features_start(void *state) {{
    memcpy(state, MEMORY, sizeof MEMORY);
    memset((char *)state + sizeof MEMORY, 0, CHUNK_BYTES);
}}
int64_t features_update(void *state, const double *bar, float *columns) {{
    double *memory = state;
    return update(PLANS, memory, memory + {len(layout.memory)}, bar, columns);
}}
"""


def _list_names(array: str, names: Iterable[str]) -> str:
    return f"static const char *const {array}[] = {{{','.join(map(_quote, names))}}};"


def _quote(name: str) -> str:
    return f'"{name}"'


def compile_update(layout: Layout) -> Any:
    """Return the update of one bar as a C callback of numba: plans, memory, chunk, bar and columns -> bars so far."""
    take_plans = _chain_plans(layout)
    rows, cells = sum(map(len, layout.plans)), len(layout.memory)
    chunk_shape = chunks.allocate_chunk(1, layout.lookback_bars).shape
    plan_shape, bar_shape, column_shape = (rows, layout.plans[0].shape[1]), (len(chunks.FIELDS), 1), (len(layout.columns), 1)

    @numba.cfunc(TYPES.int64(*POINTERS), error_model="numpy")
    def update(plans: Any, memory: Any, chunk: Any, bar: Any, columns: Any) -> Any:
        return advance(
            take_plans(numba.carray(plans, plan_shape)),
            numba.carray(memory, (cells,)),
            numba.carray(chunk, chunk_shape),
            numba.carray(bar, bar_shape),
            0,
            1,
            numba.carray(columns, column_shape),
            0,
        )

    return update


def _chain_plans(layout: Layout) -> Callable[..., Any]:
    """Return a compiled function that splits the rows of all plans into the tuple of plans that `advance` takes."""

    @numba.njit
    def take_none(plans: Any) -> Any:
        return ()

    chain, start = take_none, 0
    for plan in layout.plans:
        chain, start = _append_plan(chain, start, start + len(plan)), start + len(plan)
    return cast("Callable[..., Any]", chain)


def _append_plan(take_before: Callable[..., Any], start: int, stop: int) -> Callable[..., Any]:
    @numba.njit
    def take_plans(plans: Any) -> Any:
        return (*take_before(plans), plans[start:stop])

    return cast("Callable[..., Any]", take_plans)


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
