"""The fills of an agent's orders, from the clean bars of its dataset."""

import pandas as pd
import pyarrow.parquet as pq

from pipeline import artifacts, config, digests
from pipeline.fills import COLUMNS, OPTIONAL_COLUMNS, Fills, find_fills
from pipeline.samples import KEY, align
from pipeline.trading_rules import read_order_delay


def read_fills(params: config.Block, dataset: str, rows: pd.DataFrame) -> Fills:
    """Return the fills of the orders decided at `rows` (segment, time), in their order.

    Raises:
        ParamsError: the dataset's rows are no bars, as those of klines are.
        ValueError: the clean bars lack a row; names the first.
    """
    file = digests.verify(artifacts.CLEAN / f"{dataset}.parquet")
    known = pq.read_schema(file).names
    if missing := [name for name in COLUMNS if name not in known]:
        kind = config.look_up(params, f"datasets.{dataset}.kind")
        raise config.ParamsError(
            f"datasets.{dataset}.kind is {kind!r}, whose rows have no {', '.join(missing)}; agents trade bars: give "
            "them a dataset of kind klines"
        )
    bars = pd.read_parquet(file, columns=[*COLUMNS, *(n for n in OPTIONAL_COLUMNS if n in known)])
    places = bars[["segment", "open_time"]].set_axis(KEY, axis=1).assign(place=range(len(bars)))
    found = align(places, rows, name=str(file))["place"].to_numpy()
    return find_fills(bars, delay_bars=read_order_delay(params)).take(found)
