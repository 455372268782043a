"""ingest <dataset>: validate the raw bars, divide them into segments without gaps, and report what they contain."""

import pandas as pd

from pipeline import artifacts, cli
from pipeline.market import bars


def main(dataset: str) -> None:
    """Check the raw bars of a dataset and divide them into segments."""
    clean, report = bars.clean(pd.read_parquet(artifacts.RAW / f"{dataset}.parquet"))
    artifacts.write_table(artifacts.CLEAN / f"{dataset}.parquet", clean)
    artifacts.write_json(artifacts.report_path("ingest", dataset), report)


if __name__ == "__main__":
    cli.run(main)
