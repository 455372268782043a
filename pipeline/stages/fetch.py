"""fetch <dataset>: download or read the raw bars of a dataset into data/raw/<dataset>.parquet."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from annotated_types import MinLen

from pipeline import artifacts, cli, config

SOURCES = Path(__file__).parents[1] / "market"  # each file is a source, but for the schema that all share
SCHEMA_FILE = SOURCES / "bars.py"


def main(dataset: str) -> None:
    """Fetch the raw bars of a dataset."""
    params = config.load_params()
    described = config.look_up(params, f"datasets.{dataset}")
    config.check_name(dataset, owner="datasets")
    config.check_section(_declare_dataset, described, name=f"datasets.{dataset}")
    for target in described["targets"]:
        config.check_name(target, owner=f"datasets.{dataset}.targets")
    source = described["source"]
    load = _import_source(config.look_up(params, f"sources.{source}.kind"), name=f"sources.{source}.kind").load
    block = {key: value for key, value in params["sources"][source].items() if key != "kind"}
    table = config.call_with(load, block=block, name=f"sources.{source}")
    artifacts.write_table(artifacts.RAW / f"{dataset}.parquet", table)


def _declare_dataset(
    *, source: str, features: dict[str, Any], targets: Annotated[dict[str, dict[str, Any]], MinLen(1)]
) -> None:
    """Declare the keys of a dataset: later stages use the others, but a wrong one is reported at once."""


def _import_source(kind: str, *, name: str) -> ModuleType:
    known = sorted(file.stem for file in SOURCES.glob("[!_]*.py") if file != SCHEMA_FILE)
    if kind not in known:
        raise config.ParamsError(f"{name}: there is no source {kind!r}; pipeline/market has {', '.join(known)}")
    return import_module(f"pipeline.market.{kind}")


if __name__ == "__main__":
    cli.run(main)
