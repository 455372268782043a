"""From an event of an order book to a target position: the columns, a window of rows, one graph, and its score.

A model alone, as `trained/onnx/<model>` has it. `python -m pipeline.deployment.replay_events MODEL` compares all that
it computes with the pipeline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import artifacts, digests
from pipeline.deployment.merged_graph import bind_graphs
from pipeline.evaluation.position_sizing import size_scores
from pipeline.models.onnx_session import load_self_contained
from pipeline.orderbook.engine import Event, Stream
from pipeline.orderbook.normalization import UNSCALED, Normalizer
from pipeline.targets import Output

BEYOND_STREAM = ("groups", "normalization")  # keys of a contract's features that the stream of columns does not read
STARTS_DAY, STARTS_SYMBOL = 1, 2  # codes of a normalizer's rows


@dataclass(frozen=True, eq=False)
class EventSignal:
    """The prediction of a model after an event."""

    prediction: np.ndarray  # (outputs,) float32
    score: float  # in [-1, 1]
    target: float  # position in [-1, 1]


class EventPath:
    """The predictions of one model, event by event; one symbol, not for several threads at once.

    A day, a halt or another symbol begins a new segment: call `restart` before its first event, with `starts_day` and
    `starts_symbol` for a causal standardization. Windows reach over
    events whose rows do not pass the gates.
    """

    def __init__(self, described: dict[str, Any], graph: Path) -> None:
        """Bind the graph of a contract, as the stage `export` writes it, to a window of rows.

        Raises:
            ValueError: the model is of another kind of dataset, or its columns are none of an order book.
        """
        features = {key: value for key, value in described["features"].items() if key not in BEYOND_STREAM}
        if "interval_ms" in (described["bars"] or {}):
            raise ValueError(f"{graph.parent}: its dataset has bars and no events; use pipeline.deployment.hot_path")
        self.stream = Stream(**features)
        if missing := [name for name in described["columns"] if name not in self.stream.columns]:
            raise ValueError(f"{graph.parent}: {', '.join(missing)}: no columns of the stream; export the model again")
        self.name, self.output = str(described["model"]), Output.from_description(described["output"])
        if self.output.no_score_reason:
            raise ValueError(f"{self.name}: {self.output.no_score_reason}; an event path needs a score")
        self._places = [self.stream.columns.index(name) for name in described["columns"]]
        spread = described["score_std"]
        self._spread = np.nan if spread is None else float(spread)
        self._full = float(described["trading"]["full_position_std"])
        _, *axes = described["graph"]["inputs"]
        self.inputs = np.zeros((1, *axes), np.float32)
        self.prediction = np.zeros((1, len(self.output.names)), np.float32)
        self.window = axes[0] if len(axes) > 1 else 1
        self._rows = self.inputs[0] if len(axes) > 1 else self.inputs  # (window, F), the oldest row first
        bind = bind_graphs({self.name: load_self_contained(graph)})
        self._runs = bind({self.name: (self.inputs, self.prediction)})
        self.row: np.ndarray | None = None  # (F,) the columns of the last event, where it is a row of the features
        self.rows_so_far = 0  # of the segment
        self.normalization: Mapping[str, Any] | None = described["features"].get("normalization")
        self._normalizer = make_normalizer(self.stream.columns, self.normalization)
        self._next_start = STARTS_SYMBOL

    @classmethod
    def load(cls, folder: str | Path) -> "EventPath":
        """Return the path of a model's folder, once the digests of its files are verified.

        Raises:
            ArtifactError: a file is missing or damaged.
            ValueError: as the constructor.
        """
        folder = digests.verify(Path(folder))
        return cls(artifacts.read_json(folder / "contract.json"), folder / "model.onnx")

    def restart(self, *, starts_day: bool = True, starts_symbol: bool = False) -> None:
        """Begin a segment: the state of the book's columns and the window start anew; of a symbol, all statistics."""
        self.stream.restart()
        self.rows_so_far, self.row = 0, None
        if starts_symbol:
            self._next_start = STARTS_SYMBOL
        elif starts_day and self._next_start != STARTS_SYMBOL:
            self._next_start = STARTS_DAY

    def update(self, event: Event | tuple[np.ndarray, np.ndarray]) -> EventSignal | None:
        """Return the signal after an event; None where its row does not pass the gates, or the window is not full.

        Raises:
            ValueError: the event cannot follow the last one; nothing has changed.
        """
        values = self.stream.update(event)
        self.row = self._normalize(values) if self.stream.passes_gates else None
        if self.row is None:
            return None
        self._rows[:-1] = self._rows[1:].copy()
        self._rows[-1] = self.row[self._places]
        self.rows_so_far += 1
        if self.rows_so_far < self.window:
            return None
        for run in self._runs:
            run()
        score = self.output.to_score(self.prediction)
        return EventSignal(self.prediction[0].copy(), float(score[0]), float(self._size(score)[0]))

    def size_targets(self, prediction: np.ndarray) -> np.ndarray:
        """Return the target positions (n,) of predictions (n, outputs)."""
        return self._size(self.output.to_score(prediction))

    def _normalize(self, values: np.ndarray) -> np.ndarray | None:
        """Return the columns (F,) of a row as the features have them; None where too few rows were before it."""
        if self._normalizer is None:
            return values
        scaled, has_statistics = self._normalizer.advance(values[None], np.array([self._next_start]))
        self._next_start = 0
        return scaled[0] if has_statistics[0] else None

    def _size(self, score: np.ndarray) -> np.ndarray:
        return size_scores(
            score, np.full(len(score), self._spread), kind=self.output.kind, full_position_std=self._full
        )


def make_normalizer(columns: tuple[str, ...], normalization: Mapping[str, Any] | None) -> Normalizer | None:
    """Return the causal standardization of a section `normalization`; None where there is none."""
    if normalization is None:
        return None
    excluded = [place for place, name in enumerate(columns) if name in UNSCALED]
    return Normalizer(len(columns), **{"window": None, **normalization}, excluded=excluded)
