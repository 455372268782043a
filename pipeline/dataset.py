"""What models are fitted on and asked about: the samples of a dataset, numbered as its folds number them."""

from pipeline import workspace
from pipeline.folds import Folds
from pipeline.samples import Samples, keyed


def load(dataset: str, target: str) -> tuple[Samples, Folds]:
    """The samples of one target on the rows that the folds know, and the folds."""
    folds, segment = Folds.load(workspace.FOLDS / f"{dataset}.parquet")
    samples = Samples.load(
        workspace.FEATURES / f"{dataset}.parquet",
        workspace.LABELS / dataset / f"{target}.parquet",
        rows=keyed(segment, folds.time),
    )
    return samples, folds
