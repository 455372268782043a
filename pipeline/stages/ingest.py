"""ingest <dataset>: validate the raw table, divide it into segments without gaps, and report what it contains."""

from pipeline import artifacts, cli, config, digests
from pipeline.datasets import kinds
from pipeline.row_groups import TableFile, open_table


def main(dataset: str) -> None:
    """Check the raw table of a dataset and divide it into segments."""
    params, name = config.load_params(), f"datasets.{dataset}.calendar"
    kind = kinds.import_part(params, dataset, "ingest")
    raw = TableFile(digests.verify(artifacts.RAW / f"{dataset}.parquet")).read()
    clean, report = config.call_with(kind.clean, raw, block=config.look_up(params, name), name=name)
    with open_table(artifacts.CLEAN / f"{dataset}.parquet") as writer:
        writer.append(clean)
    artifacts.write_report("ingest", dataset, report)


if __name__ == "__main__":
    cli.run(main)
