"""Callbacks that show a running fit: lines of CSV for each epoch, and a progress bar."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.models.fit_files import FitFiles
from pipeline.models.live_metrics import LiveMetrics
from pipeline.models.nets.engine.callback_base import Callback, FitState, State


class CSVLogger(Callback):
    """Appends a line for each epoch to a CSV that several fits share: the fit's `labels`, then `fields`.

    A fit that resumes from a checkpoint also writes the lines of its earlier epochs, since the file is new by then.
    """

    def __init__(self, *, file: Path, labels: Mapping[str, object], fields: Sequence[str]) -> None:
        """`labels` are the names and values that every line of this fit begins with, such as {"split": 3}.

        Raises ValueError where a label has the name of a field.
        """
        self._metrics = LiveMetrics(file, labels=labels, fields=fields)

    def on_epoch_end(self, state: FitState) -> None:
        """Append the lines of this epoch and of those before it, unless they are in the file."""
        self._metrics.append_new(_list_entries(state))

    def on_train_end(self, state: FitState) -> None:
        """Append the lines of all epochs, unless they are in the file."""
        self._metrics.append_new(_list_entries(state))


class MeasurementLogger(Callback):
    """Appends the seconds of each epoch, and the peak memory of the fit so far, to the measurements of a fit.

    A fit that resumes from a checkpoint also writes the lines of its earlier epochs, since the file is new by then. The
    seconds of the resumed epoch are those before its checkpoint and those after it.
    """

    def __init__(self, files: FitFiles) -> None:
        """`files` has the meter of the fit, which the checkpoint restores."""
        self._meter, self._lines = files.meter, files.open_measurements()
        self._epoch_start = 0.0  # in seconds of the meter
        self._entries: list[dict[str, float]] = []

    def on_epoch_start(self, state: FitState) -> None:
        """Note when the epoch starts."""
        self._epoch_start = self._meter.seconds

    def on_epoch_end(self, state: FitState) -> None:
        """Append the lines of this epoch and of those before it, unless they are in the file."""
        self._entries.append({"iteration": state.epoch, **self._meter.measure(since=self._epoch_start)})
        self._lines.append_new(self._entries)

    def on_train_end(self, state: FitState) -> None:
        """Append the lines of all epochs, unless they are in the file."""
        self._lines.append_new(self._entries)

    def state_dict(self) -> State:
        """Return the lines so far, and when the epoch started."""
        return {"entries": [dict(entry) for entry in self._entries], "epoch_start": self._epoch_start}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""
        self._entries, self._epoch_start = [dict(entry) for entry in state["entries"]], state["epoch_start"]


class ProgressBar(Callback):
    """A progress bar over the epochs on stderr, with the losses of the last one.

    It is hidden where stderr is not a terminal, and where TQDM_DISABLE is set.
    """

    def __init__(self, *, name: str) -> None:
        """`name` stands before the bar."""
        self._name = name
        self._bar: tqdm[Any] | None = None

    def on_epoch_start(self, state: FitState) -> None:
        """Open the bar, with the epochs done so far, unless it is open."""
        if self._bar is None:
            is_hidden = bool(os.environ.get("TQDM_DISABLE")) or not sys.stderr.isatty()
            done, total = state.epoch - 1, state.epochs
            self._bar = tqdm(total=total, initial=done, desc=self._name, unit="epoch", leave=False, disable=is_hidden)

    def on_epoch_end(self, state: FitState) -> None:
        """Advance the bar by one epoch."""
        if self._bar is not None:
            losses = {key: f"{state.entry[key]:.5g}" for key in ("train_loss", "valid_loss")}
            self._bar.set_postfix(losses, refresh=False)
            self._bar.update()

    def on_train_end(self, state: FitState) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _list_entries(state: FitState) -> list[dict[str, float]]:
    """Return the entries of all validated epochs in order, the current one once, even before it joins the history."""
    entries = {entry["iteration"]: entry for entry in (*state.history, state.entry) if "valid_loss" in entry}
    return list(entries.values())
