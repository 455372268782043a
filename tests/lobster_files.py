"""Days in LOBSTER's CSV format, written from tables of events."""

from pathlib import Path

import numpy as np
import pandas as pd

EMPTY = {"ask": 9_999_999_999, "bid": -9_999_999_999}
HALT = 7


def write_day(folder: Path, table: pd.DataFrame, *, symbol: str, day: str, levels: int = 10) -> Path:
    """Write events with a book, times in ns since midnight, as a pair of files; return that of the messages.

    Levels beyond the tenth of the table repeat none of it: they are written as empty.
    """
    seconds, ns = np.divmod(table["time_ns"].to_numpy(), 10**9)
    is_halt = table["action"].to_numpy() == HALT
    price = np.where(is_halt, table["price"], table["price"] * 10_000)
    message = pd.DataFrame(
        {
            "time": [f"{second}.{part:09d}" for second, part in zip(seconds, ns, strict=True)],
            "type": table["action"],
            "order_id": table["order_id"],
            "size": table["size"].astype(int),
            "price": np.rint(price).astype(int),
            "direction": table["side"],
        }
    )
    book = {}
    for level in range(1, levels + 1):
        for side in ("ask", "bid"):
            names = [f"{side}_{what}_{level}" for what in ("price", "size")]
            price, size = (table[name].to_numpy() if name in table else np.zeros(len(table)) for name in names)
            book[names[0]] = np.where(price > 0, np.rint(price * 10_000), EMPTY[side]).astype(int)
            book[names[1]] = size.astype(int)
    file = folder / f"{symbol}_{day}_34200000_57600000_message_{levels}.csv"
    message.to_csv(file, header=False, index=False)
    name = file.name.replace("message", "orderbook")
    pd.DataFrame(book).to_csv(folder / name, header=False, index=False)
    return file
