"""The features of an export: its 98 columns, as they are."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.features.engine import Features
from pipeline.orderbook.columns import COLUMNS, GROUP_OF
from pipeline.row_groups import TableFile

PART_ROWS = 1 << 16


def compute_parts(file: TableFile) -> Iterator[Features]:
    """Yield the exported columns of every row, in parts."""
    for start in range(0, file.rows, PART_ROWS):
        clean: pd.DataFrame = file.read(["segment", *COLUMNS], start=start, stop=start + PART_ROWS)
        yield Features(
            columns=COLUMNS,
            x=clean[list(COLUMNS)].to_numpy(np.float32),
            rows=np.arange(start, start + len(clean)),
            warm_up_bars=dict.fromkeys(COLUMNS, 0),
            lost_by_segment=dict.fromkeys(clean["segment"].unique().tolist(), 0),
            groups=dict(GROUP_OF),
            in_pandas=COLUMNS,
        )
