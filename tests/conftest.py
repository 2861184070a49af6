"""What many tests stand on: the tiny world's whole pipeline in miniature, run once."""

import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from config import load
from tests.support.paths import ROOT

# Prepared data goes where nothing else is, and goes away with the tests; what this machine has of the hub is not looked
# at. The libraries read this when they are imported.
CACHE = tempfile.TemporaryDirectory(prefix="plumbline-tests-")
os.environ |= {"HF_DATASETS_CACHE": CACHE.name, "HF_HOME": CACHE.name, "HF_HUB_OFFLINE": "1"}
# Compiled code of another run may be for other instructions than these tests ask for.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{CACHE.name}/inductor"
# A proxy of this machine's is not asked for servers that tests start here.
os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
from tests.support.rows_setting import write_records  # noqa: E402

# The same examples in every run: what one finds, the next one finds as well.
settings.register_profile("plumbline", derandomize=True)
settings.load_profile("plumbline")


def pytest_collection_finish() -> None:
    """A Trainer collects garbage at its start: a third of a second, were it to look at all that was imported."""
    gc.freeze()


@pytest.fixture(autouse=True)
def own_precision():
    """accelerate keeps the precision of a process's first run for all others; few tests have imported it."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def file(tmp_path):
    """A function that writes records into a file of one a line, and returns its path."""
    return lambda *records, name="data.jsonl": write_records(tmp_path / name, *records)


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """A folder like runs/tiny after `make tiny MINI=1`, without evaluation: world base sft pmp rm harmless ppo."""
    from ppo.recipe import PPO
    from ppo.train import train as train_ppo
    from reward.recipe import Reward
    from reward.train import train as train_reward
    from sft.recipe import SFT
    from sft.train import train as train_sft
    from tiny.world import write_world

    folder = tmp_path_factory.mktemp("mini")
    stages = {
        "base": (SFT, train_sft), "sft": (SFT, train_sft), "pmp": (Reward, train_reward), "rm": (Reward, train_reward),
        "harmless": (Reward, train_reward), "ppo": (PPO, train_ppo),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINY", str(folder))
        patch.setattr("reward.train.MAX_OFFSET_PAIRS", 64)
        patch.chdir(ROOT)
        write_world(folder / "world", 0)
        for name, (schema, train) in stages.items():
            train(load(schema, f"recipes/tiny-mini/{name}.yaml"))
    return folder
