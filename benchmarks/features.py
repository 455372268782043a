"""Measure the speed of the features beside TA-Lib's: `python benchmarks/features.py [bars.parquet]`.

The bars are the given table, or the real market data in ../shared/data, or a random walk of the same length. Both
libraries run in turns, single-threaded, from arrays of float64 to one array per column; figures are medians.
"""

import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import talib
import yaml

from pipeline.features import chunks, engine

ROOT = Path(__file__).resolve().parents[1]
REAL_BARS = ROOT.parent / "shared" / "data" / "BTCUSDT_1m_2024-01-01_90d.parquet"
BLOCK = yaml.safe_load((ROOT / "params.yaml").read_text())["datasets"]["klines"]["features"]
WALK_BARS, REPEATS, STREAM_BARS = 129_600, 21, 20_000


def draw_random_walk(bars: int) -> pd.DataFrame:
    """Return a kline table of `bars` one-minute bars, one segment."""
    rng = np.random.default_rng(0)
    close = 40_000.0 * np.exp(rng.normal(0.0, 5e-4, bars).cumsum())
    start = np.concatenate([close[:1], close[:-1]])
    volume = rng.exponential(20.0, bars)
    return pd.DataFrame(
        {
            "open_time": 1_704_067_200_000 + 60_000 * np.arange(bars),
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


def list_talib_calls(bars: pd.DataFrame) -> tuple[list[Callable[[], object]], int]:
    """Return TA-Lib's calls for the columns that it has, with the same windows, and the number of these columns."""
    high, low, close, volume = (bars[name].to_numpy() for name in ("high", "low", "close", "volume"))
    fast, slow, signal = BLOCK["macd_windows"]
    n, bands, deviations = BLOCK["trend_window"], BLOCK["bollinger_window"], BLOCK["bollinger_deviations"]
    columns: list[Callable[[], object]] = [
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
    triples: list[Callable[[], object]] = [
        lambda: talib.MACD(close, fast, slow, signal),
        lambda: talib.BBANDS(close, bands, deviations, deviations),
    ]
    return [*columns, *triples], len(columns) + 3 * len(triples)


def measure_ms(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def benchmark_bulk(bars: pd.DataFrame) -> None:
    """Print the time of bulk and of TA-Lib, in turns."""
    calls, talib_columns = list_talib_calls(bars)
    columns = len(engine.compute(bars, **BLOCK).columns)
    ours, theirs = np.array(
        [
            (measure_ms(lambda: engine.compute(bars, **BLOCK)), measure_ms(lambda: [call() for call in calls]))
            for _ in range(REPEATS)
        ]
    ).T
    print(f"bulk    {len(bars):,} bars, {columns} columns: {np.median(ours):.1f} ms, best {ours.min():.1f} ms")
    print(
        f"TA-Lib  {len(bars):,} bars, {talib_columns} columns: {np.median(theirs):.1f} ms, best {theirs.min():.1f} ms"
    )
    ratio = np.median((ours / columns) / (theirs / talib_columns))
    print(
        f"per column: {np.median(ours) / columns:.3f} ms, TA-Lib {np.median(theirs) / talib_columns:.3f} ms, ", end=""
    )
    print(f"ratio {ratio:.2f}")


@numba.njit
def stream_bars(plans: Any, memory: np.ndarray, chunk: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Stream every bar of `matrix` by itself, as a compiled caller would."""
    for i in range(matrix.shape[1]):
        engine.advance(plans, memory, chunk, matrix, i, 1, out, 0)


def update_all(stream: engine.Stream, records: list[Any]) -> None:
    """Feed bars to a stream."""
    for bar in records:
        stream.update(bar)


def benchmark_streaming(bars: pd.DataFrame) -> None:
    """Print microseconds per bar, from compiled code and from Python."""
    records: list[Any] = bars[:STREAM_BARS].to_dict("records")
    streams = [engine.Stream(**BLOCK) for _ in range(5)]
    python = [measure_ms(partial(update_all, stream, records)) for stream in streams]
    layout, matrix = streams[0].layout, np.stack([bars[name].to_numpy(np.float64) for name in chunks.FIELDS])
    out = np.empty((len(layout.columns), 1), dtype=np.float32)
    stream_bars(
        layout.plans, layout.memory.copy(), chunks.allocate_chunk(1, layout.lookback_bars), matrix[:, :1].copy(), out
    )
    compiled = [
        measure_ms(
            lambda: stream_bars(
                layout.plans, layout.memory.copy(), chunks.allocate_chunk(1, layout.lookback_bars), matrix, out
            )
        )
        for _ in range(5)
    ]
    if out[:, 0].tobytes() != engine.compute(bars.assign(segment=0), **BLOCK).x[-1].tobytes():
        raise AssertionError("the last bar's columns differ between compiled streaming and bulk")
    print(f"streaming: {1e3 * np.median(compiled) / len(bars):.2f} µs per bar compiled, ", end="")
    print(f"{1e3 * np.median(python) / len(records):.2f} µs from Python")


def measure_memory(bars: pd.DataFrame) -> None:
    """Print the peak memory of one bulk run, its result included."""
    tracemalloc.start()
    x = engine.compute(bars, **BLOCK).x
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"memory: {peak / 2**20:.0f} MiB at peak, of which the result {x.nbytes / 2**20:.0f} MiB")


def measure_compilation() -> None:
    """Print the seconds of the first update without a cache, and in the next process."""
    code = (
        "import time, yaml; from pipeline.features import engine\n"
        f"bar = dict.fromkeys(engine.chunks.FIELDS, 1.0) | {{'open_time': 1_704_067_200_000}}; block = {BLOCK!r}\n"
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
    """Print all figures for the table named on the command line."""
    if len(sys.argv) > 1 or REAL_BARS.exists():
        bars = pd.read_parquet(sys.argv[1] if len(sys.argv) > 1 else REAL_BARS)
    else:
        bars = draw_random_walk(WALK_BARS)
    benchmark_bulk(bars.assign(segment=0))
    benchmark_streaming(bars)
    measure_memory(bars.assign(segment=0))
    measure_compilation()


if __name__ == "__main__":
    main()
