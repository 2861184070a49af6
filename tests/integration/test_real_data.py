"""One step of SFT, reward model and PPO on published data, from the tiny base: at least 90 % of records are kept."""

import json
from pathlib import Path

import pytest

from config import load
from ppo.recipe import PPO
from ppo.train import train as train_ppo
from reward.recipe import Reward
from reward.train import train as train_reward
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.support.paths import DATA, ROOT

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")


@pytest.fixture(autouse=True)
def use_mini(mini, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    monkeypatch.chdir(ROOT)


def share_kept(run: Path, name: str) -> float:
    """Return the share of records of a data key that are kept."""
    report = json.loads((run / "data.json").read_text())[name]
    return report["kept"] / report["read"]


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        ("alpaca_en.json", []),
        ("alpaca_zh.json", []),
        ("gsm8k_train.jsonl", ["data.fields={question: prompt, answer: response}"]),
        ("glaive_toolcall_en.json", []),
        ("glaive_toolcall_en.json", ["chatml.tools=react", "chatml.train_on=last_answer"]),
    ],
)
def test_sft_takes_a_step_on_published_conversations(source, overrides, tmp_path):
    train_sft(load(SFT, "recipes/tiny/sft.yaml", [f"run.dir={tmp_path}", f"data.train={DATA / source}",
                                                  "trainer.max_steps=1", *overrides]))  # fmt: skip
    assert share_kept(tmp_path, "train") >= 0.9
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_reward_model_takes_a_step_on_published_comparisons(tmp_path, monkeypatch):
    monkeypatch.setattr("reward.train.MAX_OFFSET_PAIRS", 64)
    train_reward(load(Reward, "recipes/tiny/rm.yaml", [
        f"run.dir={tmp_path}", f"data.train={DATA / 'hh_helpful_rejection_sampled.jsonl.gz'}",
        f"data.eval={{path: {DATA / 'hh_helpful_online.jsonl.gz'}, take: 50}}", "trainer.max_steps=1",
        "trainer.per_device_train_batch_size=2",
    ]))  # fmt: skip
    assert share_kept(tmp_path, "train") >= 0.9
    assert share_kept(tmp_path, "eval") >= 0.9


def test_ppo_takes_a_step_on_published_prompts_and_text(tmp_path):
    train_ppo(load(PPO, "recipes/tiny/ppo.yaml", [
        f"run.dir={tmp_path}", f"data.prompts={DATA / 'hh_harmless_base.jsonl.gz'}",
        f"data.pretrain={DATA / 'wikitext2_valid.txt'}", "ppo.steps=1", "ppo.value_warmup_steps=0",
        "ppo.queries_per_step=4", "sampling.max_new_tokens=8",
    ]))  # fmt: skip
    assert share_kept(tmp_path, "prompts") >= 0.9
