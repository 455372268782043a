"""Flags of symbols: in bulk and streamed, refused for unknown symbols, guarded, and static columns of the TFT."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import config
from pipeline.datasets.klines.guard import list_columns
from pipeline.deployment.feature_library import write_library
from pipeline.features import engine
from pipeline.leakage.features import truncation
from pipeline.models.base import Signature
from pipeline.models.plugins import build
from pipeline.row_groups import TableFile
from pipeline.samples import Samples
from tests.data import BAR_MS, OUTPUTS
from tests.params import BLOCKS, PARAMS
from tests.test_features import SHORT, make_bars

FLAGS = {"groups": ["price", "symbols"], "symbol_flags": ["AAA", "BBB", "CCC"]}
BLOCK = SHORT | FLAGS
NAMES = ["symbol_AAA", "symbol_BBB", "symbol_CCC"]
SYMBOLS = ("BBB", "AAA", "BBB")  # of three segments


def draw_symbols() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = [
        make_bars(rng.uniform(9, 11, 20), volume=rng.uniform(1, 3, 20)).assign(segment=np.int32(i), symbol=symbol)
        for i, symbol in enumerate(SYMBOLS)
    ]
    parts[2]["open_time"] += 100 * 60_000  # the second segment of BBB
    return pd.concat(parts, ignore_index=True)


def test_a_flag_is_one_in_the_bars_of_its_symbol_alone_and_leaves_the_other_columns_as_they_were() -> None:
    bars = draw_symbols()
    features = engine.compute(bars, **BLOCK)
    table = pd.DataFrame(features.x, columns=features.columns)
    expected = np.stack([bars["symbol"].iloc[features.rows] == name[-3:] for name in NAMES], axis=1)
    assert np.array_equal(table[NAMES], expected)
    assert {features.groups[name] for name in NAMES} == {"symbols"}
    assert {features.warm_up_bars[name] for name in NAMES} == {0}
    without = engine.compute(bars, **SHORT | {"groups": ["price"]})
    assert table[list(without.columns)].to_numpy(np.float32).tobytes() == without.x.tobytes()


def test_a_file_in_parts_has_the_flags_of_the_table(tmp_path: Path) -> None:
    bars = draw_symbols()
    bars.assign(symbol=pd.Categorical(bars["symbol"])).to_parquet(tmp_path / "bars.parquet", row_group_size=14)
    parts = list(engine.compute_parts(TableFile(tmp_path / "bars.parquet"), **BLOCK))
    assert len(parts) > 2
    assert np.concatenate([part.x for part in parts]).tobytes() == engine.compute(bars, **BLOCK).x.tobytes()


def test_a_stream_has_the_bytes_of_the_table_in_each_segment_and_after_a_restart() -> None:
    bars, streamed = draw_symbols(), []
    streams = {name: engine.Stream(**BLOCK, interval_ms=60_000, symbols=[name]) for name in ("AAA", "BBB")}
    for number, bar in enumerate(bars.drop(columns="segment").to_dict("records")):
        if number in (15, 45):
            state = streams["BBB"].state()
            streams["BBB"] = engine.Stream(**BLOCK, interval_ms=60_000, symbols=["BBB"])
            streams["BBB"].restore(state)
        streamed.append(streams[bar["symbol"]].update(bar))
    known = [values for values in streamed if values is not None]
    assert np.array(known).tobytes() == engine.compute(bars, **BLOCK).x.tobytes()


UNKNOWN = r"features.symbol_flags is \['AAA', 'CCC'\], and bars of BBB have no flag among them: no model has seen"


def test_a_symbol_without_a_flag_is_refused_in_bulk_and_in_a_stream() -> None:
    bars, block = draw_symbols(), BLOCK | {"symbol_flags": ["AAA", "CCC"]}
    with pytest.raises(ValueError, match=UNKNOWN):
        engine.compute(bars, **block)
    with pytest.raises(ValueError, match=UNKNOWN):
        engine.Stream(**block, symbols=["AAA", "BBB"])
    records = bars.drop(columns="segment").to_dict("records")
    stream = engine.Stream(**block)
    with pytest.raises(ValueError, match=UNKNOWN):
        stream.update(records[0])
    assert [stream.update(bar) for bar in records[20:40]][-1] is not None  # nothing of BBB has remained
    with pytest.raises(ValueError, match="bars without a symbol have no flag among them"):
        engine.Stream(**block).update({key: value for key, value in records[20].items() if key != "symbol"})
    with pytest.raises(ValueError, match="bars without a symbol have no flag among them"):
        engine.compute(bars.drop(columns="symbol"), **block)


def test_there_are_no_flags_without_their_key_and_a_list_that_is_not_allowed_is_refused() -> None:
    assert "symbols" not in engine.Stream(**PARAMS["datasets"]["klines"]["features"]).layout.groups.values()
    with pytest.raises(config.ParamsError, match="features.groups has symbols, which has no columns without symbol_fl"):
        engine.Stream(**SHORT | {"groups": ["price", "symbols"]})
    with pytest.raises(ValueError, match="symbol_flags is .*; its values must differ"):
        engine.Stream(**BLOCK | {"symbol_flags": ["AAA", "AAA"]})


def test_no_flag_reads_a_later_bar() -> None:
    bars = draw_symbols()[list_columns(BLOCK) or []]  # as the guard reads them
    features = engine.compute(bars, **BLOCK)

    def recompute(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
        found = engine.compute(table, **BLOCK)
        return [(found.rows, found.x)]

    found = truncation(bars, recompute, (features.rows, features.x), features.columns, cuts=6, seed=1)
    assert found.severity == "ok", found.message


def test_the_library_for_other_languages_refuses_flags(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the library is one of all symbols and has no flags of them"):
        write_library(tmp_path, engine.Stream(**BLOCK).layout)


def fit_tft(samples: Samples, static_columns: list[str]) -> np.ndarray:
    """Return the predictions of the second half of each symbol's rows by a TFT that has learned from the first."""
    block = BLOCKS["tft"][1]
    own = {"window": 2, "static_columns": static_columns, "dropout": 0.0, "loss": {"name": "mse"}}
    own["optimizer"] = {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.0}
    shared = PARAMS["nets"] | {"epochs": 12, "train_stride": 1, "batch_size": 64, "device": "cpu"}
    block = block | {"hyperparameters": block["hyperparameters"] | own}
    model = build("nets", block, Signature(samples.columns, OUTPUTS["return"]), shared=shared, seed=1)
    rows = np.arange(len(samples.y)).reshape(2, 3, -1)  # symbol, third of its times
    model.fit(samples, rows[:, 0].ravel(), rows[:, 1].ravel())
    return model.predict_rows(samples, rows[:, 2].ravel())[:, 0]


def test_the_tft_learns_an_effect_whose_sign_is_that_of_the_symbol() -> None:
    """Of two coins y is the last return, and minus the last return: without the symbol nothing can be learned."""
    rng, count = np.random.default_rng(2), 360
    moves = rng.normal(size=2 * count).astype(np.float32)
    is_first = np.repeat([1.0, 0.0], count).astype(np.float32)
    time = np.tile(np.arange(count, dtype=np.int64) * BAR_MS, 2)
    samples = Samples(
        time=time,
        label_end=time + BAR_MS,
        segment=np.repeat(np.arange(2, dtype=np.int32), count),
        x=np.stack([moves, is_first, 1 - is_first], axis=1),
        columns=("return_1", "symbol_AAA", "symbol_BBB"),
        y=moves * (2 * is_first - 1),
    )
    unseen = samples.y.reshape(2, 3, -1)[:, 2].ravel()
    sees = fit_tft(samples, ["symbol_AAA", "symbol_BBB"])
    assert np.corrcoef(sees, unseen)[0, 1] > 0.8
    blind = Samples(
        **{name: getattr(samples, name) for name in ("time", "label_end", "segment", "y")},
        x=samples.x[:, :1],
        columns=samples.columns[:1],
    )
    assert abs(np.corrcoef(fit_tft(blind, []), unseen)[0, 1]) < 0.3
