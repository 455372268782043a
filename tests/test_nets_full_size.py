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
from pipeline import config
from pipeline.models import plugins
from pipeline.models.base import Signature
from pipeline.models.nets.engine.net import Net
from pipeline.models.target_keys import check_target_keys
from tests.data import OUTPUTS
from tests.params import PARAMS

ROOT = Path(__file__).parents[1]
COMMANDS = re.findall(
    r"dvc exp run -n (\w+) ((?:.|\\\n)+?)\n(?!\s)",
    (ROOT / "pipeline/models/nets/README.md").read_text().partition("**Full size.**")[2].partition("**Order books")[0],
)
SIZES = {  # of each command the columns that its net sees here, and its parameters
    "lstm2x128": (44, 4 * 128 * (44 + 128 + 2) + 4 * 128 * (128 + 128 + 2) + 129),
    "patchtst_full": (44, 922_912 - 96 * (42 * 128 + 1 + 22) + (42 * 128 + 1 + 45)),  # the paper's, with one output
    "tft_full": (44, 2 * (44 * 646 * 160 + 320 + 47_216) + 412_160 + 3 * 51_840 + 2 * 103_360 + 64_200 + 161),
    "nhits_full": (1, 1_798_128),  # of its paper, see test_nets_forecasters.py
    "deeplob_full": (40, 143_907),  # summary of the authors' notebook
    "tlob_full": (48, 1_135_971 + 8 * (40 + 2)),  # the authors' of 40 columns; embedding and normalization of 8 more
    "mlplob_full": (48, 3_012_411 + 8 * (40 + 2)),
}
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
    target = config.look_up(params, f"datasets.{block['dataset']}.targets.{block['target']}")
    check_target_keys(params, model, config.ModelBlock("nets", block, model), horizon_bars=target["horizon"])
    columns = tuple(f"column_{i}" for i in range(SIZES[name][0]))
    kind = "barrier" if block["dataset"] == "orderbook" else "return"
    built = plugins.build("nets", block, Signature(columns, OUTPUTS[kind]), shared=params["nets"], seed=0)
    assert isinstance(built, Net)
    assert count_weights(built) == SIZES[name][1]
    if name in BENCHMARKED:  # the net that `benchmarks/nets.py --full-size` measures
        measured = nets.make_model(BENCHMARKED[name], nets.Workload(512, 1, 1))
        assert (measured.window, count_weights(measured)) == (built.window, count_weights(built))
    assert params["nets"]["train_stride"] == 1 < PARAMS["nets"]["train_stride"]


def test_every_net_of_the_literature_has_a_command() -> None:
    assert [name for name, _ in COMMANDS] == list(SIZES)
    assert set(BENCHMARKED.values()) == set(nets.FULL_SIZE)
