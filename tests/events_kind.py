"""A kind of dataset as a user may add it: rows of an export, whose clock is the number of an event."""

import numpy as np

TRADED_MS_PER_YEAR = 252 * 6.5 * 3600 * 1000

FETCH = '''"""Where events come from: every module of the package is a source."""

SOURCES = "pipeline.datasets.events.sources"
NOT_SOURCES = ()
'''

SOURCE = '''"""An export in npz: one array for each column."""

import numpy as np
import pandas as pd


def load(*, path: str) -> tuple[pd.DataFrame, dict[str, object]]:
    """Return the columns of the export, and their number as a report."""
    with np.load(path) as arrays:
        return pd.DataFrame({name: arrays[name] for name in arrays}), {"columns": len(arrays)}
'''

INGEST = '''"""The clean table of events: one segment for each day, in the order of the events."""

import pandas as pd


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, object]]:
    """Return the rows in the order of their events, and their number by day."""
    if table["event"].duplicated().any():
        raise ValueError("events: an event has two rows; export it again")
    table = table.sort_values("event", ignore_index=True)
    days = table.pop("day")
    segment = (days != days.shift()).cumsum().astype("int32") - 1
    rows = {str(day): int(count) for day, count in days.value_counts(sort=False).items()}
    return table.rename(columns={"mid": "close"}).assign(symbol="GOOG", segment=segment), {"rows": rows}
'''

FEATURIZE = '''"""The features of events: the columns of the export, as they are."""

from collections.abc import Iterator

import numpy as np

from pipeline.features.engine import Features
from pipeline.row_groups import TableFile


def compute_parts(file: TableFile) -> Iterator[Features]:
    """Yield the exported columns of every row."""
    clean = file.read()
    columns = tuple(name for name in clean.columns if name.startswith("book_"))
    yield Features(
        columns=columns,
        x=clean[list(columns)].to_numpy(np.float32),
        rows=np.arange(len(clean)),
        warm_up_bars=dict.fromkeys(columns, 0),
        lost_by_segment=dict.fromkeys(clean["segment"].unique().tolist(), 0),
        groups=dict.fromkeys(columns, "book"),
        in_pandas=columns,
    )
'''

LABEL = '''"""The labels of events: the move of the price over the next rows."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline import config
from pipeline.labels import Horizon, Labels
from pipeline.targets import Output, Target

COLUMNS = ["segment", "event", "close"]


def make_labels(clean: pd.DataFrame, block: dict[str, Any], *, name: str = "target", delay_bars: int = 0) -> Labels:
    """Return the log returns over the next rows, in basis points, and the event at which each is known."""
    return config.call_with(_label_rows, clean, block=block, name=name)


def _label_rows(clean: pd.DataFrame, *, horizon: Horizon) -> Labels:
    left = clean.groupby("segment").cumcount(ascending=False).to_numpy()
    row = np.flatnonzero(left >= horizon)
    event, close = clean["event"].to_numpy(), clean["close"].to_numpy()
    raw = np.log(close[row + horizon] / close[row])
    table = {"row": row, "segment": clean["segment"].to_numpy()[row], "time": event[row]}
    table |= {"label_end": event[row + horizon], "y": np.float32(raw * 1e4), "raw": raw}
    return Labels(pd.DataFrame(table), {"segment_end": len(clean) - len(row)}, 0)


def describe_target(block: dict[str, Any], *, name: str, path: str) -> Target:
    """Return what a target of events is."""
    return Target(name=name, horizon_bars=block["horizon"], output=Output(kind="value", names=("return",)))
'''

GUARD = '''"""Nothing recomputes the rows of an export."""

compute = compute_parts = make_labels = None
HAS_GATES = False
'''

FILLS = '''"""The fills of orders on events: at the price of the next event, or delay_bars later; not overnight."""

import numpy as np
import pandas as pd

from pipeline.fills import CLOSES, FILLS, YEAR_MS, Fills

COLUMNS = ["segment", "time_ms", "close"]


def find_fills(clean: pd.DataFrame, *, delay_bars: int) -> Fills:
    """Return the fills of the orders decided at each event; an order that reaches the next day lapses."""
    row = np.arange(len(clean))
    place = np.minimum(row + 1 + delay_bars, len(clean) - 1)
    following = np.append(place[1:], place[-1:])
    segment, time_ms, price = (clean[name].to_numpy() for name in COLUMNS)
    return Fills(
        move=price[following] / price[place] - 1,
        years=(time_ms[following] - time_ms[place]) / YEAR_MS,
        quote_volume=np.full(len(clean), np.inf),
        outcome=np.where(segment[place] == segment[row], FILLS, CLOSES).astype(np.int8),
        crosses_gap=segment[following] != segment[place],
    )
'''

CLOCK = f'''"""The clock of events: their number, with the time of each beside it."""

import numpy as np
import pandas as pd

TIME, UNIT = "event", "events"
COLUMNS = ["symbol", "segment", "event", "time_ms"]
TRADED_MS_PER_YEAR = {TRADED_MS_PER_YEAR}


def find_step(clean: pd.DataFrame) -> None:
    """Return None: events are no grid."""


def number_times(clean: pd.DataFrame, time: np.ndarray) -> None:
    """Return None: no calendar numbers the events."""


def count_rows_per_year(clean: pd.DataFrame) -> float:
    """Return the number of rows in a year of 252 days of 6.5 hours."""
    days = clean.groupby("segment")["time_ms"].agg(["min", "max"])
    return float(TRADED_MS_PER_YEAR * len(clean) / (days["max"] - days["min"]).sum())


def to_ms(clean: pd.DataFrame, time: np.ndarray) -> np.ndarray:
    """Return the instants of events."""
    return clean.set_index("event")["time_ms"].loc[time].to_numpy()
'''

FILES = {
    "__init__.py": "",
    "sources/__init__.py": "",
    "sources/npz.py": SOURCE,
    "fetch.py": FETCH,
    "ingest.py": INGEST,
    "featurize.py": FEATURIZE,
    "label.py": LABEL,
    "guard.py": GUARD,
    "clock.py": CLOCK,
    "fills.py": FILLS,
}


def draw_export(*, days: int, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return the arrays of an export: of three columns, the first predicts the next move of the price."""
    rng, count = np.random.default_rng(seed), days * rows
    day = np.repeat(np.arange(days), rows)
    book = rng.normal(size=(count, 3)).astype(np.float32)
    move = 1e-4 * (0.4 * book[:, 0] + 0.9 * rng.normal(size=count))
    within = rng.integers(0, 30, size=count).cumsum()  # ms; a step of 0 is a second row at the same instant
    return {
        "day": day,
        "event": rng.integers(1, 6, size=count).cumsum(),
        "time_ms": 1_704_067_200_000 + day * 24 * 3_600_000 + within,
        "mid": 100 * np.exp(np.append(0.0, move[:-1].cumsum())),
        **{f"book_{i}": column for i, column in enumerate(book.T)},
    }
