"""Events of an order book for tests: those of the real day, and a small random market whose rules are simple."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

REAL_DAY = Path(__file__).parents[2] / "shared" / "data" / "LOBSTER_GOOG_2012-06-21_L10_full_day.parquet"
needs_real_day = pytest.mark.skipif(not REAL_DAY.exists(), reason=f"{REAL_DAY.name} is not in ../shared/data")
MIDNIGHT_NS = pd.Timestamp("2012-06-21", tz="America/New_York").value
BOOK = [f"{side}_{what}_{level}" for side in ("ask", "bid") for what in ("price", "size") for level in range(1, 11)]
NUMBERS = ["time_ns", "order_id", "action", "side"]
KINDS, SHARES = range(1, 8), [0.45, 0.06, 0.29, 0.15, 0.03, 0.01, 0.01]


def read_real_day(rows: int | None = None) -> pd.DataFrame:
    """Return the first events of the real day as a clean table."""
    table = pd.read_parquet(REAL_DAY)[:rows]
    prices = [name for name in table.columns if "price" in name]
    table[prices] = table[prices].where(table[prices].abs() < 9_999_999_999, 0) / 1e4
    table = table.rename(columns={"type": "action", "direction": "side"}).assign(symbol="GOOG", segment=0)
    return table.assign(time_ns=table["time_ns"] + MIDNIGHT_NS, event=np.arange(len(table)))


def draw_events(count: int, *, seed: int, unit: float = 1.0, segment: int = 0) -> pd.DataFrame:
    """Return events of a random market, of whose orders 40 were there before the first event.

    Orders rest up to 14 prices from the middle, which moves: levels leave sight, and their events are not shown until
    they come back. Sizes are multiples of `unit`.
    """
    rng, rows, time_ns, middle = np.random.default_rng(seed), [], MIDNIGHT_NS + 35_970 * 10**9, 10_000  # 09:59:30
    orders = {i: [1 - i % 2 * 2, 10_000 - (1 - i % 2 * 2) * (1 + i // 4), int(rng.integers(1, 9))] for i in range(40)}
    next_id = len(orders)
    while len(rows) < count:
        time_ns += int(rng.exponential(3e7)) * int(rng.random() < 0.9)
        middle += int(rng.integers(-1, 2)) * int(rng.random() < 0.03)
        kind, side, order_id = int(rng.choice(KINDS, p=SHARES)), int(rng.choice([1, -1])), 0
        price, size = middle, int(rng.integers(1, 9)) ** 2
        if kind == 1 or (kind < 5 and len(orders) < 30):
            best = max(-side * order[1] for order in orders.values() if order[0] == -side)  # of the other side
            price = side * min(side * middle - int(rng.integers(1, 15)), -best - 1)
            kind, order_id, next_id = 1, next_id, next_id + 1
            orders[order_id] = [side, price, size]
        elif kind < 5:
            order_id = int(rng.choice(list(orders))) if kind < 4 else find_first(orders, side)
            side, price, rest = orders[order_id]
            size = rest if kind == 3 else min(size, rest)
            orders[order_id][2] = rest - size
            if size == rest:
                del orders[order_id]
        book = show_book(orders)
        worst = book[29] if side > 0 else book[9]
        if kind > 4 or worst == 0 or side * price >= side * worst:
            scales = [0.01, unit] * 2
            shown = [value * scales[i // 10] for i, value in enumerate(book)]
            rows.append([time_ns, order_id, kind, side, size * unit, price * 0.01, *shown])
    table = pd.DataFrame(rows, columns=[*NUMBERS, "size", "price", *BOOK])
    return table.astype(dict.fromkeys(NUMBERS, np.int64)).assign(segment=segment)


def find_first(orders: dict[int, list[int]], side: int) -> int:
    """Return the order that an execution would hit: the first at the best price of a side."""
    best = max(side * order[1] for order in orders.values() if order[0] == side)
    return next(i for i, order in orders.items() if order[0] == side and side * order[1] == best)


def show_book(orders: dict[int, list[int]]) -> list[int]:
    """Return ten levels of each side, in the order of columns 0 to 39."""
    shown = []
    for side in (-1, 1):
        levels: dict[int, int] = {}
        for own, price, size in orders.values():
            if own == side:
                levels[price] = levels.get(price, 0) + size
        best = sorted(levels, reverse=side > 0)[:10]
        empty = [0] * (10 - len(best))
        shown += [*best, *empty, *[levels[price] for price in best], *empty]
    return shown
