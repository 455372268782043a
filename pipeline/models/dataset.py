"""A dataset with its folds, as stages that fit or evaluate models use it."""

from pipeline import artifacts
from pipeline.samples import Samples, make_keys
from pipeline.validation.folds import Folds


def load_dataset(dataset: str, target: str) -> tuple[Samples, Folds]:
    """Return the samples of one target, in the row numbers of the dataset's folds, and the folds."""
    folds, segment = Folds.load(artifacts.FOLDS / f"{dataset}.parquet")
    samples = Samples.load(
        artifacts.FEATURES / f"{dataset}.parquet",
        artifacts.LABELS / dataset / f"{target}.parquet",
        rows=make_keys(segment, folds.time),
    )
    return samples, folds
