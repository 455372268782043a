"""What trading a model brought, bar by bar: one noun that evaluate saves and compare loads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.predictions import HOLDOUT


@dataclass(frozen=True)
class Returns:
    """A model's net returns by time: on every path of the development part, and on the holdout."""

    time: np.ndarray  # (T,) ms
    paths: np.ndarray  # (T, paths)
    holdout_time: np.ndarray  # (H,) ms
    holdout: np.ndarray  # (H,)

    @property
    def sharpes(self) -> np.ndarray:
        """(paths,) Sharpe ratios per bar; nan for a path that never trades."""
        return np.asarray(metrics.sharpe(self.paths))

    @property
    def median(self) -> int:
        """The path with the median Sharpe.

        One path: the mean of several is steadier than anything that one model trades.
        """
        return metrics.median_path(self.sharpes)

    @classmethod
    def load(cls, file: Path) -> "Returns":
        """The returns of a `table` in a file."""
        table = pd.read_parquet(file)
        held = table[table["path"] == HOLDOUT]
        paths = table[table["path"] != HOLDOUT].pivot(index="time", columns="path", values="net")
        return cls(paths.index.to_numpy(), paths.to_numpy(), held["time"].to_numpy(), held["net"].to_numpy())


Series = tuple[np.ndarray, np.ndarray]  # (n,) ms and (n,) net returns


def table(paths: Sequence[Series], holdout: Series) -> pd.DataFrame:
    """Net returns by path and time, as they are saved."""
    parts = [(HOLDOUT, holdout), *enumerate(paths)]
    return pd.concat(
        [
            pd.DataFrame({"path": np.full(len(net), path, np.int16), "time": time, "net": net})
            for path, (time, net) in parts
        ]
    )


def aligned(models: Mapping[str, Returns]) -> dict[str, Returns]:
    """The models on the bars that the paths of all of them cover."""
    if not models:
        return {}
    common = reduce(np.intersect1d, [model.time for model in models.values()])
    if not len(common):
        raise ValueError(f"the paths of {', '.join(models)} have no bar in common; run `dvc repro evaluate`")
    return {
        name: replace(model, time=common, paths=model.paths[np.isin(model.time, common)])
        for name, model in models.items()
    }
