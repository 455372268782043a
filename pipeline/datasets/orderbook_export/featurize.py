"""The features of an export: its 98 columns, as they are, of the rows that pass the gates."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.features.engine import Features
from pipeline.orderbook.columns import COLUMNS, GROUP_OF, PRESETS
from pipeline.row_groups import TableFile

PART_ROWS = 1 << 16


def compute_parts(file: TableFile) -> Iterator[Features]:
    """Yield the exported columns of every row that passes the gates, in parts."""
    for start in range(0, file.rows, PART_ROWS):
        clean: pd.DataFrame = file.read(["segment", "passes_gates", *COLUMNS], start=start, stop=start + PART_ROWS)
        passes = clean["passes_gates"].to_numpy()
        segments, place = np.unique(clean["segment"].to_numpy(), return_inverse=True)
        lost = np.bincount(place[~passes], minlength=len(segments))
        yield Features(
            columns=COLUMNS,
            x=clean.loc[passes, list(COLUMNS)].to_numpy(np.float32),
            rows=start + np.flatnonzero(passes),
            warm_up_bars=dict.fromkeys(COLUMNS, 0),
            lost_by_segment=dict(zip(segments.tolist(), lost.tolist(), strict=True)),
            groups=dict(GROUP_OF),
            in_pandas=COLUMNS,
            presets=PRESETS,
        )
