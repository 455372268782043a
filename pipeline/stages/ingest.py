"""ingest <dataset>: one clean table of bars in unbroken segments, and a report of all that was found in the raw one."""

import pandas as pd

from pipeline import bars, workspace


def main(dataset: str) -> None:
    """Check the raw bars of a dataset and cut them into segments."""
    clean, report = bars.clean(pd.read_parquet(workspace.RAW / f"{dataset}.parquet"))
    workspace.write_table(workspace.CLEAN / f"{dataset}.parquet", clean)
    workspace.write_json(workspace.report("ingest", dataset), report)


if __name__ == "__main__":
    workspace.run(main)
