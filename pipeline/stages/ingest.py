"""ingest <dataset>: validate the raw table, divide it into segments without gaps, and report what it contains."""

import pandas as pd

from pipeline import artifacts, cli, config
from pipeline.datasets import kinds


def main(dataset: str) -> None:
    """Check the raw table of a dataset and divide it into segments."""
    kind = kinds.import_part(config.load_params(), dataset, "ingest")
    clean, report = kind.clean(pd.read_parquet(artifacts.RAW / f"{dataset}.parquet"))
    artifacts.write_table(artifacts.CLEAN / f"{dataset}.parquet", clean)
    artifacts.write_json(artifacts.report_path("ingest", dataset), report)


if __name__ == "__main__":
    cli.run(main)
