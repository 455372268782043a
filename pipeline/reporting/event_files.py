"""Event files of TensorBoard from the histories of all fits: `python -m pipeline.reporting.event_files`.

Each fit is a run `<model>/seed_<seed>/split_<split>`, or `.../final`, in `trained/event_files`, which git ignores;
`tensorboard --logdir trained/event_files` shows them. It needs the extra `tensorboard`.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from pipeline import artifacts, cli
from pipeline.models.predictions import FINAL

EVENT_FILES = artifacts.TRAINED / "event_files"
KEYS = ["seed", "split", "iteration"]  # of a history; its other columns are scalars
INSTALL = "pip install -c .ci/constraints.txt -e '.[tensorboard]'"


def main() -> None:
    """Write the event files of all histories anew; exit 1 with a reason where there is none."""
    root = Path.cwd()
    try:
        histories = read_histories(root)
        with artifacts.replace_atomically(root / EVENT_FILES) as draft:
            fits = [write_fit(draft / name, fit, time=time) for name, fit, time in iterate_fits(histories)]
    except (ValueError, OSError) as error:
        sys.exit(f"event_files: {cli.describe_error(error)}")
    sys.stdout.write(f"{len(fits)} fits, {sum(fits)} values: tensorboard --logdir {EVENT_FILES}\n")


def read_histories(root: Path) -> dict[str, tuple[pd.DataFrame, float]]:
    """Return the history of each model and the time at which it was written; ValueError where there is none."""
    files = sorted((root / artifacts.HISTORY).glob("*.csv"))
    if not files:
        raise ValueError(f"{artifacts.HISTORY} has no history; run `dvc repro`, or `dvc checkout` where it has run")
    return {file.stem: (pd.read_csv(file), file.stat().st_mtime) for file in files}


def iterate_fits(histories: Mapping[str, tuple[pd.DataFrame, float]]) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """Yield the name of the run, the history and the time of each fit of each model."""
    for model, (history, time) in histories.items():
        for (seed, split), fit in history.groupby(["seed", "split"], sort=True):
            yield f"{model}/seed_{seed}/{'final' if split == FINAL else f'split_{split}'}", fit, time


def write_fit(folder: Path, history: pd.DataFrame, *, time: float) -> int:
    """Write the scalars of one fit to an event file in `folder`; return their number.

    A scalar stands at its iteration; one that an iteration lacks is left out. `time` in seconds since 1970 is that of
    all events.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from tensorboard.summary import Writer
    except ModuleNotFoundError as error:
        raise ValueError(f"event files need {error.name}; run `{INSTALL}`") from error
    writer, count = Writer(str(folder)), 0
    for name in history.columns.difference(KEYS, sort=False):
        values = history[["iteration", name]].dropna()
        for step, value in zip(values["iteration"].tolist(), values[name].tolist(), strict=True):
            writer.add_scalar(name, value, step, wall_time=time)
        count += len(values)
    writer.close()
    return count


if __name__ == "__main__":
    main()
