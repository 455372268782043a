"""Verify a bundle without DVC and without data: `python -m pipeline.deployment.verify FOLDER`.

Its files must have the digests of SHA256SUMS, its certificate must be of its contract, and its golden rows must come
out again: predictions of the graphs up to the limits of parity, all else bit for bit.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.deployment import contract, golden
from pipeline.deployment.hot_path import HotPath, open_graphs
from pipeline.deployment.lane import Places, Run
from pipeline.deployment.merged_graph import bind_graphs
from pipeline.market.bar_reader import describe_time

LIMITS = ("max_abs", "max_relative", "mean_abs")  # of parity


class BundleError(ValueError):
    """A bundle whose predictions are not its golden ones."""


def main() -> None:
    """Verify the bundle that the command line names; exit 1 with one line where it is not as it was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the bundle, such as trained/bundles/klines")
    folder = parser.parse_args().folder
    try:
        rows = verify(folder)
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"{message}\n" if str(folder) in message else f"{folder}: {message}\n")
        sys.exit(1)
    sys.stdout.write(f"{folder}: verified, {rows:,} golden rows\n")


def verify(folder: Path) -> int:
    """Return the number of golden rows that have features, once a hot path has given all of them again.

    Raises:
        ArtifactError: a file is missing or damaged.
        ValueError: the contract is not valid, or something is not as in the golden rows; names row and column.
    """
    bundle, graphs = open_graphs(folder)
    limits = _read_limits(folder)
    table = pd.read_parquet(folder / contract.GOLDEN)
    hot_path, symbol = HotPath(bundle, bind_graphs(graphs)), bundle.bars.symbols[0]
    lane, checks = hot_path.lanes[symbol], GoldenPredictions(table, limits)
    lane.runs = [*lane.runs, *checks.bind(lane.find_places())]
    names, _ = golden.list_names(lane)
    fields = [name for name in bundle.bars.columns if name in table]
    expected = table[names].to_numpy(np.float64)  # of float32 too: exact
    has_features = ~np.isnan(expected[:, 0])
    for row, bars in golden.group_rows(table[fields], bundle):
        place = golden.find_row(row, bars, symbol=symbol)
        checks.place = row if place is None else place
        if golden.update(hot_path, bars, symbol=symbol) != (place is not None and has_features[place]):
            raise BundleError(
                f"{checks.name_row()}: features are missing, or there are some where golden rows have none"
            )
        if place is not None and has_features[place]:
            _compare(np.array(golden.list_values(lane)), expected[place], names, place=checks.name_row())
    if (folder / contract.GOLDEN_TEXT).read_text(encoding="utf-8") != golden.format_text(table):
        raise BundleError(f"{contract.GOLDEN_TEXT} has other rows than {contract.GOLDEN}; make the bundle again")
    return int(has_features.sum())


def _compare(found: np.ndarray, expected: np.ndarray, names: Sequence[str], *, place: str) -> None:
    """Raise BundleError where the values (n,) of a row differ from the golden ones; names the first."""
    is_equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if not is_equal.all():
        first = int(np.argmin(is_equal))
        raise BundleError(f"{place}: {names[first]} is {found[first].item()!r}, golden is {expected[first].item()!r}")


def _read_limits(folder: Path) -> dict[str, float]:
    """Return the limits of parity of a certificate; ValueError where there is none, or it lacks them."""
    file = folder / contract.CERTIFICATE
    if not file.exists():
        raise BundleError(f"{folder} has no {contract.CERTIFICATE}; make the bundle again")
    limits = contract.read_object(file).get("limits_from_trained_model")
    if not isinstance(limits, dict) or not all(isinstance(limits.get(name), (int, float)) for name in LIMITS):
        raise BundleError(
            f"{file}: limits_from_trained_model has no numbers {', '.join(LIMITS)}; make the bundle again"
        )
    return limits


class GoldenPredictions:
    """Compares the predictions of graphs with the golden ones, and goes on with these."""

    def __init__(self, table: pd.DataFrame, limits: Mapping[str, float]) -> None:
        """Take golden rows, and the limits `max_abs`, `max_relative` and `mean_abs` of parity."""
        self.table, self.limits, self.place = table, limits, 0

    def bind(self, places: Places) -> list[Run]:
        """Return the comparisons, which run behind the graphs."""
        return [self._bind_check(name, prediction) for name, (_, prediction) in places.items()]

    def _bind_check(self, name: str, prediction: np.ndarray) -> Run:
        """Return what compares the prediction of a model with the golden one, and puts this into its place."""
        columns = [column for column in self.table if str(column).startswith(f"{name}.prediction.")]
        expected, limits = self.table[columns].to_numpy(np.float32), self.limits
        floor = limits["mean_abs"] / limits["max_relative"]

        def check() -> None:
            golden_prediction, found = expected[self.place], prediction[0]
            difference = np.abs(found.astype(np.float64) - golden_prediction)
            relative = difference / np.maximum(np.abs(golden_prediction), floor)
            if not ((difference <= limits["max_abs"]) & (relative <= limits["max_relative"])).all():
                raise BundleError(
                    f"{self.name_row()}: the graph of {name} predicts {found.tolist()}, golden is "
                    f"{golden_prediction.tolist()}: beyond the limits {limits}"
                )
            prediction[:] = golden_prediction

        return check

    def name_row(self) -> str:
        """Return the present row as a message has it."""
        return f"golden row {self.place}, open_time {describe_time(int(self.table['open_time'].iloc[self.place]))}"


if __name__ == "__main__":
    main()
