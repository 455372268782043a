"""fetch <dataset>: download or read the raw bars of a dataset into data/raw/<dataset>.parquet, and report on it."""

import logging
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any

from annotated_types import MinLen

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds
from pipeline.row_groups import open_table

log = logging.getLogger(__name__)


def main(dataset: str) -> None:
    """Fetch the raw bars of a dataset, and write the source's report."""
    params = config.load_params()
    described = config.look_up(params, f"datasets.{dataset}")
    config.check_name(dataset, owner="datasets")
    config.check_section(_declare_dataset, described, name=f"datasets.{dataset}")
    for target in described["targets"]:
        config.check_name(target, owner=f"datasets.{dataset}.targets")
    source, kind = described["source"], kinds.import_part(params, dataset, "fetch")
    load = _import_source(kind, config.look_up(params, f"sources.{source}.kind"), name=f"sources.{source}.kind").load
    block = {key: value for key, value in params["sources"][source].items() if key != "kind"}
    table, report = config.call_with(load, block=block, name=f"sources.{source}")
    with open_table(artifacts.RAW / f"{dataset}.parquet") as writer:
        writer.append(table)
    for note in report.get("notes", []):
        log.info(f"{source}: {note}")
    artifacts.write_json(artifacts.report_path("fetch", dataset), report)


def _declare_dataset(
    *,
    kind: str,
    source: str,
    calendar: dict[str, Any],
    features: dict[str, Any],
    targets: Annotated[dict[str, dict[str, Any]], MinLen(1)],
) -> None:
    """Declare the keys of a dataset: later stages use the others, but a wrong one is reported at once."""


def _import_source(kind: ModuleType, source: str, *, name: str) -> ModuleType:
    package: str = kind.SOURCES
    modules = sorted(each.name for each in iter_modules(import_module(package).__path__))
    known = [module for module in modules if module not in kind.NOT_SOURCES]
    if source not in known:
        folder = package.replace(".", "/")
        raise config.ParamsError(f"{name}: there is no source {source!r}; {folder} has {', '.join(known)}")
    return import_module(f"{package}.{source}")


if __name__ == "__main__":
    cli.run(main)
