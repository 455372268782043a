"""Speed of the features: `python benchmarks/features.py [bars.parquet]`, beside TA-Lib computing what it has of them.

The table is the given one, else the real slice in ../shared/data, else a random walk of the same length. Both sides run
in turns, single-threaded, from arrays of float64 to one array a column; figures are medians.
"""

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import talib
import yaml

from pipeline.features import engine, tape

ROOT = Path(__file__).resolve().parents[1]
SLICE = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
BLOCK = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]["klines"]["features"]
BARS, REPEATS, STREAMED = 129_600, 21, 20_000


def random_walk(bars: int) -> pd.DataFrame:
    """A kline table of `bars` one-minute bars, one segment."""
    rng = np.random.default_rng(0)
    close = 40_000.0 * np.exp(rng.normal(0.0, 5e-4, bars).cumsum())
    start = np.concatenate([close[:1], close[:-1]])
    volume = rng.exponential(20.0, bars)
    return pd.DataFrame(
        {
            "open_time": 60_000 * np.arange(bars),
            "open": start,
            "high": np.maximum(start, close) * (1.0 + rng.exponential(2e-4, bars)),
            "low": np.minimum(start, close) * (1.0 - rng.exponential(2e-4, bars)),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "trades": rng.poisson(500.0, bars),
            "taker_buy_base": volume * rng.beta(3.0, 3.0, bars),
        }
    )


def talib_calls(bars: pd.DataFrame) -> tuple[list[Callable[[], object]], int]:
    """What TA-Lib has of the columns, with the same windows, and how many columns that is."""
    high, low, close, volume = (bars[name].to_numpy() for name in ("high", "low", "close", "volume"))
    fast, slow, signal = BLOCK["macd_windows"]
    n, bands, deviations = BLOCK["trend_window"], BLOCK["bollinger_window"], BLOCK["bollinger_deviations"]
    columns = [
        *(lambda m=m: talib.SMA(close, m) for m in BLOCK["sma_windows"]),
        *(lambda m=m: talib.EMA(close, m) for m in BLOCK["ema_windows"]),
        *(lambda m=m: talib.RSI(close, m) for m in BLOCK["rsi_windows"]),
        *(lambda m=m: talib.MOM(close, m) for m in BLOCK["momentum_windows"]),
        lambda: talib.STOCHF(high, low, close, BLOCK["stochastic_window"], 1),
        lambda: talib.ATR(high, low, close, n),
        lambda: talib.ADX(high, low, close, n),
        lambda: talib.PLUS_DI(high, low, close, n),
        lambda: talib.MINUS_DI(high, low, close, n),
        lambda: talib.OBV(close, volume),
        lambda: talib.SMA(volume, BLOCK["volume_window"]),
    ]
    triples = [
        lambda: talib.MACD(close, fast, slow, signal),
        lambda: talib.BBANDS(close, bands, deviations, deviations),
    ]
    return [*columns, *triples], len(columns) + 3 * len(triples)


def milliseconds(call: Callable[[], object]) -> float:
    """The wall time of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def bulk(bars: pd.DataFrame) -> None:
    """Bulk against TA-Lib, in turns."""
    calls, talib_columns = talib_calls(bars)
    columns = len(engine.compute(bars, **BLOCK).columns)
    ours, theirs = np.array(
        [
            (milliseconds(lambda: engine.compute(bars, **BLOCK)), milliseconds(lambda: [call() for call in calls]))
            for _ in range(REPEATS)
        ]
    ).T
    print(f"bulk    {len(bars):,} bars, {columns} columns: {np.median(ours):.1f} ms, best {ours.min():.1f} ms")
    print(
        f"TA-Lib  {len(bars):,} bars, {talib_columns} columns: {np.median(theirs):.1f} ms, best {theirs.min():.1f} ms"
    )
    ratio = np.median((ours / columns) / (theirs / talib_columns))
    print(f"a column: {np.median(ours) / columns:.3f} ms, TA-Lib {np.median(theirs) / talib_columns:.3f} ms, ", end="")
    print(f"ratio {ratio:.2f}")


@numba.njit
def one_by_one(plans, memory, work, matrix, out):
    """Every bar of `matrix` by itself, as a compiled caller would stream them."""
    for i in range(matrix.shape[1]):
        engine.advance(plans, memory, work, matrix, i, 1, out, 0)


def streaming(bars: pd.DataFrame) -> None:
    """Microseconds a bar, from compiled code and from Python."""
    records = bars[:STREAMED].to_dict("records")
    streams = [engine.Stream(**BLOCK) for _ in range(5)]
    python = [milliseconds(lambda stream=stream: [stream.update(bar) for bar in records]) for stream in streams]
    layout, matrix = streams[0].layout, np.stack([bars[name].to_numpy(np.float64) for name in tape.FIELDS])
    out = np.empty((len(layout.columns), 1), dtype=np.float32)
    one_by_one(layout.plans, layout.memory.copy(), tape.blank(1, layout.past), matrix[:, :1].copy(), out)
    compiled = [
        milliseconds(lambda: one_by_one(layout.plans, layout.memory.copy(), tape.blank(1, layout.past), matrix, out))
        for _ in range(5)
    ]
    if out[:, 0].tobytes() != engine.compute(bars.assign(segment=0), **BLOCK).x[-1].tobytes():
        raise AssertionError("the last bar's columns differ between compiled streaming and bulk")
    print(f"streaming: {1e3 * np.median(compiled) / len(bars):.2f} µs a bar compiled, ", end="")
    print(f"{1e3 * np.median(python) / len(records):.2f} µs from Python")


def memory(bars: pd.DataFrame) -> None:
    """The most that one bulk run holds at a time, its result included."""
    tracemalloc.start()
    x = engine.compute(bars, **BLOCK).x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"memory: {peak / 2**20:.0f} MiB at most, of which the result {x.nbytes / 2**20:.0f} MiB")


def compilation() -> None:
    """Seconds of the first update in a fresh environment, and in the next process."""
    code = (
        "import time, yaml; from pipeline.features import engine\n"
        f"bar = dict.fromkeys(('open_time', *engine.tape.FIELDS), 1.0); block = {BLOCK!r}\n"
        "start = time.perf_counter(); engine.Stream(**block).update(bar); print(time.perf_counter() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        run = [sys.executable, "-c", code]
        cold, warm = (
            float(subprocess.run(run, env=environment, cwd=ROOT, check=True, capture_output=True).stdout)
            for _ in range(2)
        )
    print(f"compilation: {cold:.1f} s cold, {warm:.2f} s from the cache")


def main() -> None:
    """All figures, for the table named on the command line."""
    if len(sys.argv) > 1 or SLICE.exists():
        bars = pd.read_parquet(sys.argv[1] if len(sys.argv) > 1 else SLICE)
    else:
        bars = random_walk(BARS)
    bulk(bars.assign(segment=0))
    streaming(bars)
    memory(bars.assign(segment=0))
    compilation()


if __name__ == "__main__":
    main()
