import numpy as np
import pytest

from pipeline import artifacts
from pipeline.deployment import latency_adjusted
from pipeline.digests import ArtifactError

CURVE = {"values": [0.0, 1.0, 2.0], "net_return": [0.5, 0.2, None]}
FIGURES = {"p50_us": 6_000_000.0, "p99_us": 30_000_000.0}  # a tenth and a half of a minute


def test_a_latency_costs_its_share_of_what_a_bar_of_delay_costs():
    net = latency_adjusted.adjust_for_latency(CURVE, FIGURES, bar_ms=60_000, decision_delay_bars=0)
    assert net == {"none": 0.5, "p50_us": pytest.approx(0.47), "p99_us": pytest.approx(0.35), "one_bar": 0.2}
    later = latency_adjusted.adjust_for_latency(CURVE, FIGURES, bar_ms=60_000, decision_delay_bars=1)
    assert later["none"] == 0.2
    assert np.isnan(later["p50_us"])  # beyond what is known
    assert np.isnan(latency_adjusted.interpolate_net_return(CURVE, delay_bars=3.0))


def test_the_table_has_each_model_at_the_latency_of_each_selection():
    text = latency_adjusted.render_table(
        {"all": {"figures": FIGURES}}, {"a": CURVE}, bar_ms=60_000, decision_delay_bars=0
    )
    assert text.splitlines()[1].split() == ["a", "all", "50.0000%", "47.0000%", "35.0000%", "20.0000%"]


def test_without_a_measured_latency_the_command_says_how_to_measure_it(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MEASURED", tmp_path)
    with pytest.raises(ArtifactError, match=r"klines\.json does not exist; run `dvc exp run -S 'latency\.datasets"):
        latency_adjusted.read_latency("klines")
