"""fetch <dataset>: the raw bars stand at data/raw/<dataset>.parquet, whole, from the source that the dataset names."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipeline import workspace


def main(dataset: str) -> None:
    """Fetch the raw bars of a dataset."""
    blocks = workspace.params()
    workspace.feed(_dataset, block=workspace.entry(blocks, f"datasets.{dataset}"), named=f"datasets.{dataset}")
    name = workspace.entry(blocks, f"datasets.{dataset}.source")
    load = _source(workspace.entry(blocks, f"sources.{name}.kind"), named=f"sources.{name}.kind").load
    block = {key: value for key, value in blocks["sources"][name].items() if key != "kind"}
    table = workspace.feed(load, block=block, named=f"sources.{name}")
    workspace.write_table(workspace.RAW / f"{dataset}.parquet", table)


def _dataset(*, source: str, features: workspace.Block, targets: workspace.Block) -> None:
    """A dataset's keys: the others are used by later stages, and a misspelt one shall not wait for them."""


def _source(kind: str, *, named: str) -> ModuleType:
    known = sorted(file.stem for file in Path(__file__).parents[1].glob("sources/[!_]*.py"))
    if kind not in known:
        raise ValueError(f"{named}: there is no source {kind!r}; pipeline/sources has {', '.join(known)}")
    return import_module(f"pipeline.sources.{kind}")


if __name__ == "__main__":
    workspace.run(main)
