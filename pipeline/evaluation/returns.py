"""The net returns of a model bar by bar, as `evaluate` saves them and `compare` loads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation import performance
from pipeline.evaluation.predictions import HOLDOUT

Series = tuple[np.ndarray, np.ndarray]  # (n,) ms and (n,) net returns


@dataclass(frozen=True)
class Returns:
    """A model's net returns by time: on every path of the development part, and on the holdout."""

    time: np.ndarray  # (T,) ms
    paths: np.ndarray  # (T, paths)
    holdout_time: np.ndarray  # (H,) ms
    holdout: np.ndarray  # (H,)

    @property
    def is_traded(self) -> bool:
        """Whether there are any bars; predictions without a score are evaluated as forecasts alone."""
        return bool(len(self.time))

    @property
    def sharpes(self) -> np.ndarray:
        """(paths,) Sharpe ratios per bar; NaN for a path that never trades."""
        return np.asarray(performance.sharpe(self.paths))

    @property
    def median_path(self) -> int:
        """The path with the median Sharpe.

        A single path, because the mean of several is steadier than anything that one model trades.
        """
        return performance.find_median_path(self.sharpes)

    @classmethod
    def load(cls, file: Path) -> "Returns":
        """Return the content of a file that holds a table of `make_table`."""
        table = pd.read_parquet(file)
        holdout = table[table["path"] == HOLDOUT]
        paths = table[table["path"] != HOLDOUT].pivot(index="time", columns="path", values="net")
        return cls(paths.index.to_numpy(), paths.to_numpy(), holdout["time"].to_numpy(), holdout["net"].to_numpy())


def make_table(paths: Sequence[Series], holdout: Series) -> pd.DataFrame:
    """Return the net returns as one table with columns path, time, net."""
    parts = [(HOLDOUT, holdout), *enumerate(paths)]
    return pd.concat(
        [
            pd.DataFrame({"path": np.full(len(net), path, np.int16), "time": time, "net": net})
            for path, (time, net) in parts
        ]
    )


def align_models(models: Mapping[str, Returns]) -> dict[str, Returns]:
    """Return the models on the bars that the paths of all of them cover; ValueError where there is none."""
    if not models:
        return {}
    common = reduce(np.intersect1d, [model.time for model in models.values()])
    if not len(common):
        raise ValueError(f"the paths of {', '.join(models)} have no bar in common; run `dvc repro evaluate`")
    return {
        name: replace(model, time=common, paths=model.paths[np.isin(model.time, common)])
        for name, model in models.items()
    }
