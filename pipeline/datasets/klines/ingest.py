"""The clean table of klines: checked bars, in segments without gaps; stretches that no market made are reported."""

import logging
from typing import Any

import pandas as pd

from pipeline.datasets.klines.synthetic import find_synthetic
from pipeline.market import bars

log = logging.getLogger(__name__)


def clean(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the clean table and its report, see `bars.clean`, with `synthetic`, see `find_synthetic`; warn of it.

    No bar is dropped for being synthetic.
    """
    cleaned, report = bars.clean(table)
    synthetic = find_synthetic(cleaned)
    if synthetic["count"]:
        first = synthetic["list"][0]
        log.warning(
            f"klines: {synthetic['bars']} of {len(cleaned)} bars look synthetic, in {synthetic['count']} run(s); the "
            f"first is {first['bars']} bars of {first['symbol']} from {first['first_ms']} ({first['kind']}): check the "
            "source; they stay in the table"
        )
    return cleaned, report | {"synthetic": synthetic}
