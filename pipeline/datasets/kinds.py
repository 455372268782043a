"""Kinds of datasets: each is a package of this folder, with one module for each part that stages take from it.

- `fetch`: SOURCES, the package of which every module is a source, but NOT_SOURCES. A source's
  `load(**block)` returns the raw table and its report: a dict as JSON has it, {} where there is nothing to say.
- `ingest`: `clean(raw, **calendar)` returns the clean table and its report; the keyword arguments are the keys of the
  dataset's section `calendar`, `{}` where there are none. The table has `symbol`, `segment`, the clock's column and
  `close`, the price when the row is known.
- `featurize`: `compute_parts(file, **block)` yields the Features of consecutive rows of the clean table, a TableFile.
- `label`: COLUMNS, what it reads as far as the clean table has it; `make_labels(clean, block, name=, delay_bars=)`
  returns Labels, where orders fill `delay_bars` after the next row; `describe_target(block, name=, path=)` returns the
  Target.
- `guard`: `compute_parts`, as that of `featurize` but of a table in memory, and `make_labels` recompute both; None
  where rows come from an export. `list_columns(block)` returns what the first reads of the clean table, None for all
  of it; in both the clock's column is named `open_time`. `compute` returns all Features at once; None where no canary
  can be planted in the rows, which are no bars. HAS_GATES: whether features leave out rows within a segment, over
  which windows then reach: those of rows that count.
- `fills`: `find_fills(clean, delay_bars=)` returns the Fills of the orders decided at each row; COLUMNS, what it reads
  as far as the table has it. Where rows have quotes, `measure_executable(clean, segment=, time=, label_end=,
  delay_bars=, cost_bps=)` returns what labels earn at them, an Executable; it reads COLUMNS and the clock.
- `clock`: TIME, the clean table's column with the clock, which is unique within a segment and never starts again; its
  UNIT; `find_step(clean)`, None where the clock is no grid; `number_times(clean, time)`, (n,) the number of the row
  at each time among all that a calendar expects, or None; `count_rows_per_year(clean)`; `to_ms(clean, time)`, the
  instants (ms, UTC) of plots; COLUMNS, `symbol`, `segment` and what these read as far as the table has it.
- `canaries`, which a kind may lack: `run_canaries(clean, block, settings=, seed=)` yields the Outcome of each leak that
  is planted in the first rows of every symbol, where `block` has the features; GUARDS are those that check them.
  Without it leaks of bars are planted, if `guard.compute` is given.
- `words`, which a kind may lack: WORDS, what messages and reports call its rows, see `words.Words`; without it they are
  rows. Reports that count them under keys such as `bars` and `warm_up_bars` have their name beside, as `unit`.
- `contract`, which a kind may lack: `describe_bars(clean, fields=, calendar=, symbols=)` returns what a deployment has
  to feed, as JSON; `fields` are all columns of the clean table, of which `clean` has COLUMNS alone; `calendar` is that
  section of the dataset.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipeline import config


def import_part(params: config.Block, dataset: str, part: str) -> ModuleType:
    """Return the module `part` of a dataset's kind."""
    return import_module(f"pipeline.datasets.{find_kind(params, dataset)}.{part}")


def find_optional_part(params: config.Block, dataset: str, part: str) -> ModuleType | None:
    """Return the module `part` of a dataset's kind; None where the kind has no such module."""
    kind = find_kind(params, dataset)
    exists = (Path(__file__).parent / kind / f"{part}.py").is_file()
    return import_part(params, dataset, part) if exists else None


def find_kind(params: config.Block, dataset: str) -> str:
    """Return the kind of a dataset; ParamsError where there is none of that name."""
    kind = config.look_up(params, f"datasets.{dataset}.kind")
    known = sorted(file.parent.name for file in Path(__file__).parent.glob("*/__init__.py"))
    if kind not in known:
        raise config.ParamsError(f"datasets.{dataset}.kind is {kind!r}; it must be one of {', '.join(known)}")
    return str(kind)
