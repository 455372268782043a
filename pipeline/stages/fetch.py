"""fetch <dataset>: the raw bars stand at data/raw/<dataset>.parquet, whole, from the source that the dataset names."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipeline import workspace


def main(dataset: str) -> None:
    """Fetch the raw bars of a dataset."""
    blocks = workspace.params()
    name = workspace.entry(blocks, f"datasets.{dataset}.source")
    block = dict(workspace.entry(blocks, f"sources.{name}"))
    load = _source(block.pop("kind"), named=f"sources.{name}.kind").load
    table = workspace.feed(load, block=block, named=f"sources.{name}")
    workspace.write_table(workspace.RAW / f"{dataset}.parquet", table)


def _source(kind: str, *, named: str) -> ModuleType:
    known = sorted(file.stem for file in Path(__file__).parents[1].glob("sources/[!_]*.py"))
    if kind not in known:
        raise ValueError(f"{named}: there is no source {kind!r}; pipeline/sources has {', '.join(known)}")
    return import_module(f"pipeline.sources.{kind}")


if __name__ == "__main__":
    workspace.run(main)
