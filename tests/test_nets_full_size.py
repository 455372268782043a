"""The commands of the README that fit nets at the sizes of the literature: every key exists, and plugins take them.

They need a GPU or days; so their overrides are applied as `dvc exp run -S` does, and the nets are built, not fitted.
"""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from benchmarks import nets
from pipeline.models import plugins
from pipeline.models.base import Signature
from pipeline.models.nets.engine.net import Net
from tests.data import OUTPUTS
from tests.params import PARAMS

ROOT = Path(__file__).parents[1]
COMMANDS = re.findall(
    r"dvc exp run -n (\w+) ((?:.|\\\n)+?)\n(?!\s)",
    (ROOT / "pipeline/models/nets/README.md").read_text().partition("**Full size.**")[2].partition("**Order books")[0],
)
LEAST_PARAMETERS = {"lstm2x128": 220_000, "patchtst_full": 400_000, "tft_full": 1_000_000, "tlob_full": 1_000_000}
BENCHMARKED = {"lstm2x128": "LSTM 2x128", "patchtst_full": "PatchTST", "tft_full": "TFT"}  # in benchmarks/nets.py


def count_weights(model: Net) -> int:
    return sum(weight.numel() for weight in model.net.parameters())


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_command_of_full_size_has_keys_that_exist_and_a_net_that_its_plugin_builds(
    name: str, words: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    overrides = [given.strip("'") for given in re.findall(r"-S ('[^']+'|\S+)", words)]
    apply_overrides(tmp_path / "params.yaml", overrides)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (model,) = {found[1] for each in overrides if (found := re.match(r"\+?models\.nets\.(\w+)", each))}
    block = params["models"]["nets"][model]
    assert block["dataset"] in params["datasets"]
    columns = tuple(f"column_{i}" for i in range(44))
    kind = "barrier" if block["dataset"] == "orderbook" else "return"
    built = plugins.build("nets", block, Signature(columns, OUTPUTS[kind]), shared=params["nets"], seed=0)
    assert isinstance(built, Net)
    assert count_weights(built) > LEAST_PARAMETERS[name]
    if name in BENCHMARKED:  # the net that `benchmarks/nets.py --full-size` measures
        measured = nets.make_model(BENCHMARKED[name], nets.Workload(512, 1, 1))
        assert (measured.window, count_weights(measured)) == (built.window, count_weights(built))
    assert params["nets"]["train_stride"] == 1 < PARAMS["nets"]["train_stride"]


def test_every_net_of_the_literature_has_a_command() -> None:
    assert [name for name, _ in COMMANDS] == list(LEAST_PARAMETERS)
    assert set(BENCHMARKED.values()) == set(nets.FULL_SIZE)
