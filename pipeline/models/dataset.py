"""A dataset with its folds, as stages that fit or evaluate models use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline import artifacts, digests, remedies
from pipeline.fills import Fills
from pipeline.samples import Samples
from pipeline.targets import Target
from pipeline.validation.folds import Folds

# groups that are off by default, and the key under `features` of a dataset of klines that turns each on
SWITCHES = {"calendar": "calendar_columns", "symbols": "symbol_flags", "cross_section": "cross_section"}


@dataclass(frozen=True)
class LabeledDataset:
    """The rows of a dataset with the labels of one target, and its folds, all in the same row numbers."""

    samples: Samples
    folds: Folds
    target: Target
    rows: pd.DataFrame  # segment, time, symbol, label_end, is_labeled
    groups: Mapping[str, list[str]]  # the names of columns by the name of their group
    left_out: Mapping[str, str] = field(default_factory=dict)  # column that bars cannot give: the field they lack

    def select_columns(self, names: Sequence[str] | None) -> "LabeledDataset":
        """Return the data with these columns alone: names of features and of groups; all for None.

        Raises:
            ValueError: a name is neither that of a feature nor of a group.
        """
        if names is None:
            return self
        if lacking := {name: self.left_out[name] for name in names if name in self.left_out}:
            first, needed = next(iter(lacking.items()))
            raise ValueError(
                f"columns has {list(lacking)}, which were left out: the bars have no {needed}, which {first} needs; "
                "remove them from columns, or use bars with that field"
            )
        if unknown := [name for name in names if name not in self.samples.columns and name not in self.groups]:
            off = {name: SWITCHES[name] for name in unknown if name in SWITCHES}
            remedy = "".join(f"; {name} is off: add {key} to the features of the dataset" for name, key in off.items())
            raise ValueError(
                f"columns has {unknown}; allowed are the groups {', '.join(self.groups)} and the features "
                f"{', '.join(self.samples.columns)}{remedy}"
            )
        wanted = {column for name in names for column in self.groups.get(name, [name])}
        return replace(self, samples=self.samples.select_columns([c for c in self.samples.columns if c in wanted]))

    def add_fills(self, fills: Fills | None) -> "LabeledDataset":
        """Return the data with the fills of the orders decided at its rows; None where the model does not trade."""
        return replace(self, samples=replace(self.samples, fills=fills))

    def mark_symbols(self, symbols: Sequence[str] | None) -> np.ndarray:
        """Return (N,) whether a row is of one of these symbols; of any for None.

        Raises:
            ValueError: there is no such symbol.
        """
        known = list(self.rows["symbol"].cat.categories)
        if symbols and (unknown := sorted(set(symbols) - set(known))):
            raise ValueError(f"include_symbols has {unknown}; the dataset has {', '.join(known)}")
        return np.asarray(self.rows["symbol"].isin(symbols or known))

    def mark_neutrals(self) -> np.ndarray:
        """Return (N,) whether a row's class is neutral.

        Raises:
            ValueError: the target has no neutral class.
        """
        output = self.target.output
        if output.neutral_class is None:
            raise ValueError(f"exclude_neutrals is true; {self.target.name} has no neutral class: set it to false")
        return np.asarray(self.samples.y == output.names.index(output.neutral_class))


def load_dataset(dataset: str, target: str) -> LabeledDataset:
    """Return a dataset with the labels of one of its targets; ArtifactError where a file is missing or damaged."""
    features, labels, split = list_files(dataset, target)
    folds, rows = Folds.load(digests.verify(split))
    features, labels = digests.verify(features), digests.verify(labels)
    samples = Samples.load(features, labels, rows=rows)
    attributes = artifacts.read_attributes(pq.read_schema(features))
    left_out = attributes.get("left_out", {})
    return LabeledDataset(samples, folds, Target.load(labels), rows, list_groups(attributes), left_out)


def list_files(dataset: str, target: str) -> list[Path]:
    """Return the files of the features, of the labels of one target, and of the folds of a dataset."""
    return [
        artifacts.FEATURES / f"{dataset}.parquet",
        artifacts.LABELS / dataset / f"{target}.parquet",
        artifacts.FOLDS / f"{dataset}.parquet",
    ]


def hash_dataset(dataset: str, target: str) -> dict[str, str]:
    """Return the sha256 of each of `list_files` by its path; ArtifactError where one is missing or damaged."""
    return {file.as_posix(): digests.hash_file(digests.verify(file)) for file in list_files(dataset, target)}


def check_sources(recorded: Mapping[str, str], files: Mapping[str, str], *, source: Path) -> None:
    """Raise ArtifactError where the sha256 of one of `files` is not that which `source` records of it."""
    for name, digest in files.items():
        if recorded.get(name) != digest:
            raise digests.ArtifactError(
                f"{source} was made from {name} of sha256 {recorded.get(name)}, which now has {digest}; "
                f"{remedies.describe_writing(source)}"
            )


def list_groups(attributes: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the columns of every group and preset, from the `attrs` of a table of features.

    A preset names groups or columns; those that are not in the table are left out.
    """
    columns: dict[str, list[str]] = {}
    owners: Mapping[str, str] = attributes.get("groups", {})
    for column, group in owners.items():
        columns.setdefault(group, []).append(column)
    for preset, names in attributes.get("presets", {}).items():
        found = [[name] if name in owners else columns.get(name, []) for name in names]
        columns[preset] = [column for members in found for column in members]
    return {name: found for name, found in columns.items() if found}
