"""The table of the luck of a seed, on figures whose medians and ranges are known."""

import math
from pathlib import Path

import pytest

from benchmarks import seeds
from pipeline import artifacts, digests


def make_figures(sharpe: float, rank: float = 1.0) -> dict[str, float]:
    return {"ic": 0.1, "sharpe": sharpe, "net_return": sharpe / 100, "dsr": 0.5, "rank": rank}


OF_SEEDS = {
    1: {"a": make_figures(1.0), "b": make_figures(10.0), "c": make_figures(4.0)},
    2: {"a": make_figures(1.5), "b": make_figures(11.0), "c": make_figures(9.0)},
    3: {"a": make_figures(2.0), "b": make_figures(13.0), "c": make_figures(6.0)},
}


def test_models_are_ranked_by_the_median_over_seeds_and_those_without_one_are_last():
    assert seeds.rank_models(OF_SEEDS) == ["b", "c", "a"]
    undefined = {1: {**OF_SEEDS[1], "b": make_figures(math.nan)}}
    assert seeds.rank_models(undefined) == ["c", "a", "b"]


def test_a_row_has_the_median_and_the_range_of_each_figure():
    first = seeds.render_figures(OF_SEEDS).splitlines()[2]
    cells = "0.100 (0.100–0.100) | 11.0 (10.0–13.0) | 11.0% (10.0%–13.0%) | 0.50 (0.50–0.50) | 1 (1–1)"
    assert first == f"| `b` | {cells} |"
    assert "| – |" in seeds.render_figures({1: {"a": make_figures(math.nan)}})


def test_the_seed_matters_more_where_its_range_exceeds_the_gap_of_neighbors():
    _, _, *rows = seeds.render_neighbors(OF_SEEDS).splitlines()
    assert rows == ["| `b`, `c` | 5.0 | 5.0 | the model |", "| `c`, `a` | 4.5 | 5.0 | the seed |"]
    undefined = {1: {"a": make_figures(1.0), "b": make_figures(math.nan)}}
    assert "undefined" in seeds.render_neighbors(undefined)


def test_changes_are_those_of_params_and_an_unknown_key_is_refused():
    assert seeds.make_params(None, ["trees.num_boost_round=7", "seed=3"])["trees"]["num_boost_round"] == 7
    with pytest.raises(ValueError, match=r"params.yaml has no trees\.rounds; trees has num_boost_round"):
        seeds.make_params(None, ["trees.rounds=7"])


def test_real_bars_are_pinned_by_their_digest(tmp_path: Path):
    (tmp_path / "bars.parquet").write_bytes(b"bars")
    blocks = seeds.make_params(tmp_path / "bars.parquet", [])
    assert blocks["datasets"]["klines"]["source"] == "file"
    assert blocks["sources"]["file"]["sha256"] == digests.hash_files([tmp_path / "bars.parquet"])


def test_chosen_models_alone_are_fitted_and_an_unknown_one_is_refused():
    blocks = seeds.make_params(None, [])
    chosen = seeds.select_models(blocks, ["lstm", "lightgbm"])["models"]
    assert {family: list(members) for family, members in chosen.items() if members} == {
        "trees": ["lightgbm"],
        "nets": ["lstm"],
    }
    assert chosen.keys() == blocks["models"].keys()
    assert seeds.select_models(blocks, [])["models"] == blocks["models"] | {"ensembles": {}}
    with pytest.raises(ValueError, match="there is no model forest; klines has lightgbm"):
        seeds.select_models(blocks, ["forest"])


def test_a_folder_of_other_params_is_refused_and_what_is_prepared_is_not_made_again(tmp_path: Path, monkeypatch):
    ran = []
    monkeypatch.setattr(seeds, "run_stage", lambda folder, stage, key: ran.append(stage))
    seeds.prepare_market(tmp_path / "m", {"seed": 1})
    assert ran == list(seeds.PREPARED)
    artifacts.write_json(tmp_path / "m" / artifacts.report_path("sensitivity", "klines"), {})
    seeds.prepare_market(tmp_path / "m", {"seed": 1})
    assert len(ran) == len(seeds.PREPARED)
    with pytest.raises(ValueError, match="holds results of other params; name another --folder"):
        seeds.prepare_market(tmp_path / "m", {"seed": 2})


def test_finished_fits_of_a_seed_are_not_made_again(tmp_path: Path, monkeypatch):
    ran = []
    monkeypatch.setattr(seeds, "run_stage", lambda folder, stage, key: ran.append((folder.name, stage, key)))
    monkeypatch.setattr(seeds, "read_figures", lambda folder, names: dict.fromkeys(names))
    for part in seeds.SHARED:
        (tmp_path / part).mkdir(parents=True)
    blocks = seeds.select_models(seeds.make_params(None, []), ["lightgbm", "lstm"])
    (tmp_path / "seed_5" / artifacts.MODELS / "lightgbm").mkdir(parents=True)
    seeds.measure_seed(tmp_path, blocks, seed=5)
    assert ran == [
        ("seed_5", "audit", "lightgbm"),
        ("seed_5", "evaluate", "lightgbm"),
        ("seed_5", "train", "lstm"),
        ("seed_5", "audit", "lstm"),
        ("seed_5", "evaluate", "lstm"),
        ("seed_5", "compare", "klines"),
    ]
    assert "seeds:\n- 5\n" in (tmp_path / "seed_5/params.yaml").read_text()
