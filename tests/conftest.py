"""Settings and fixtures that all tests share, among them a small finished pipeline of the tiny world."""

import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from config import load
from tests.support.paths import ROOT

# Prepared data goes to a temporary folder, and the hub's cache on this machine is not read. The libraries read these
# variables when they are imported.
CACHE = tempfile.TemporaryDirectory(prefix="plumbline-tests-")
os.environ |= {"HF_DATASETS_CACHE": CACHE.name, "HF_HOME": CACHE.name, "HF_HUB_OFFLINE": "1"}
# Code that another run compiled may use other CPU instructions than these tests ask for.
os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{CACHE.name}/inductor"
# Servers that tests start on this machine are reached without a proxy.
os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
from tests.support.compat import reset_accelerate  # noqa: E402
from tests.support.rows_setting import write_records  # noqa: E402

# Hypothesis draws the same examples in every run, so a failure can be repeated.
settings.register_profile("plumbline", derandomize=True)
settings.load_profile("plumbline")


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection; each Trainer collects at its start, which took 0.3 s."""
    gc.freeze()


@pytest.fixture(autouse=True)
def reset_accelerate_state():
    """Reset accelerate after each test that imported it; it keeps the first run's precision for all later ones."""
    yield
    if state := sys.modules.get("accelerate.state"):
        reset_accelerate(state)


@pytest.fixture
def file(tmp_path):
    """Return a function that writes records to a JSON Lines file and returns its path."""
    return lambda *records, name="data.jsonl": write_records(tmp_path / name, *records)


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    """Return a folder like runs/tiny after `make tiny MINI=1`, without eval: world base sft pmp rm harmless ppo."""
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
