"""The net returns of a model bar by bar, as `evaluate` saves them and `compare` loads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import artifacts
from pipeline.evaluation import performance

Series = tuple[np.ndarray, np.ndarray]  # (n,) ms and (n,) net returns


@dataclass(frozen=True)
class Returns:
    """A model's net returns by time, on every path of the development part."""

    time: np.ndarray  # (T,) ms
    paths: np.ndarray  # (T, paths), those of the first seed first
    seeds: np.ndarray  # (paths,) the seed of each path

    @property
    def is_traded(self) -> bool:
        """Whether there are any bars; predictions without a score are evaluated as forecasts alone."""
        return bool(len(self.time))

    @property
    def sharpes(self) -> np.ndarray:
        """(paths,) Sharpe ratios per bar; NaN for a path that never trades."""
        return np.asarray(performance.sharpe(self.paths))

    @property
    def median_sharpe_by_seed(self) -> np.ndarray:
        """(seeds,) Sharpe ratio per bar of the median path of each seed; NaN where that never trades."""
        sharpes = [self.sharpes[self.seeds == seed] for seed in np.unique(self.seeds)]
        return np.array([found[performance.find_median_path(found)] for found in sharpes])

    @property
    def median_path(self) -> int:
        """The path with the median Sharpe.

        A single path, because the mean of several is steadier than anything that one model trades.
        """
        return performance.find_median_path(self.sharpes)

    def take_excess(self, *, risk_free_rate: float, bars_per_year: float) -> "Returns":
        """Return the returns in excess of the annual risk-free rate."""
        year = {"risk_free_rate": risk_free_rate, "bars_per_year": bars_per_year}
        return replace(self, paths=performance.subtract_risk_free(self.paths, **year))

    @classmethod
    def load(cls, file: Path) -> "Returns":
        """Return the content of a file that holds a table of `make_table`."""
        table = artifacts.read_table(file)
        paths = table.pivot(index="time", columns="path", values="net")
        seeds = table.drop_duplicates("path").set_index("path")["seed"].loc[paths.columns]
        return cls(paths.index.to_numpy(), paths.to_numpy(), seeds.to_numpy())


def make_table(paths: Sequence[Series], seeds: np.ndarray) -> pd.DataFrame:
    """Return the net returns of paths, and the seed of the fits of each, as a table with path, seed, time, net."""
    return pd.concat(
        [
            pd.DataFrame({"path": np.int16(path), "seed": np.int64(seed), "time": time, "net": net})
            for path, (seed, (time, net)) in enumerate(zip(seeds, paths, strict=True))
        ]
    )


def align_models(models: Mapping[str, Returns]) -> dict[str, Returns]:
    """Return the models on the bars that the paths of all of them cover; ValueError where there is none."""
    if not models:
        return {}
    common = reduce(np.intersect1d, [model.time for model in models.values()])
    if not len(common):
        raise ValueError(
            f"the paths of {', '.join(models)} have no bar in common; compare models of symbols that are listed at the "
            "same time: put the others into another dataset, or disable them"
        )
    return {
        name: replace(model, time=common, paths=model.paths[np.isin(model.time, common)])
        for name, model in models.items()
    }
