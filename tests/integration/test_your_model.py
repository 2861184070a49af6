"""recipes/your-model on a small random model: every stage follows the former, in the folder that RUNS names."""

import json
from contextlib import redirect_stdout
from io import StringIO

import pytest

from config import load
from eval.evaluate import evaluate
from eval.recipe import Eval
from ppo.recipe import PPO
from ppo.train import train as train_ppo
from reward.recipe import Reward
from reward.train import train as train_reward
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.support.paths import ROOT
from tests.support.stage_runs import write_base, write_jsonl

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "are", "you", "today"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every stage printed, and the folder of the runs."""
    folder = tmp_path_factory.mktemp("yours")
    write_base(folder / "base")
    asked = [f"{one} {other}" for one in WORDS for other in WORDS[:8]]
    chat = write_jsonl(folder / "chat.jsonl", [{"question": text, "answer": text[::-1]} for text in asked])
    pairs = write_jsonl(folder / "pairs.jsonl", [{"prompt": t, "chosen": "fox", "rejected": "dog"} for t in asked])
    short = ["trainer.max_steps=4", "run.save_steps=2"]
    stages = {
        "sft": (SFT, train_sft, [f"data.train={chat}", "data.max_length=64", *short]),
        "rm": (Reward, train_reward, [f"data.train={pairs}", *short]),
        "ppo": (PPO, train_ppo, [f"data.prompts={chat}", "sampling.max_new_tokens=4", "ppo.queries_per_step=4",
                                 "ppo.steps=2", "ppo.value_warmup_steps=1", "watch.every=1", "run.save_steps=1"]),
        "eval": (Eval, evaluate, [f"data.prompts={{path: {chat}, only_share: 0.05}}", "sampling.max_new_tokens=4"]),
    }  # fmt: skip
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("MODEL", str(folder / "base"))
        patch.setenv("RUNS", str(folder))
        for name, (schema, run, overrides) in stages.items():
            with redirect_stdout(StringIO()) as out:
                run(load(schema, f"recipes/your-model/{name}.yaml", overrides))
            printed[name] = out.getvalue()
    return folder, printed


def test_every_stage_trains_adapters_of_the_model(told):
    folder, _ = told
    for place in ("sft/model", "rm/model", "ppo/model", "ppo/value"):
        adapter = json.loads((folder / place / "adapter_config.json").read_text())
        assert (adapter["base_model_name_or_path"], adapter["r"]) == (str(folder / "base"), 16)
    assert {json.loads((folder / name / "finished.json").read_text())["best"]["metric"] for name in ("sft", "rm")} == {
        "eval_loss", "eval_accuracy",
    }  # fmt: skip


def test_the_evaluation_compares_the_start_sft_and_ppo(told):
    folder, _ = told
    summary = json.loads((folder / "eval" / "summary.json").read_text())
    assert list(summary["subjects"]) == ["start", "sft", "ppo"]
    assert set(summary["differences"]) == {"sft", "ppo"}


def test_sft_says_what_it_is_about_to_do(told):
    folder, printed = told
    kept = json.loads((folder / "sft" / "data.json").read_text())
    records, held = kept["train"]["kept"], kept["eval"]["kept"]
    assert records + held == 112
    text = printed["sft"][printed["sft"].index(f"{folder}/sft, before the first step:") :]
    lines = {line[2:15].rstrip(): line[16:] for line in text.splitlines()[1:] if line.startswith("  ")}
    assert lines["data"].startswith(f"{records} records in ")
    assert lines["data"].endswith(" packed rows of up to 64 tokens")
    assert lines["held out"] == (
        f"{held} records, evaluated every 2 steps, the best checkpoint is kept, "
        "the run ends after 3 without a better one"
    )
    assert lines["steps"].startswith("4, which are ")
    assert lines["steps"].endswith("; 8 rows a step")
    assert lines["learning rate"] == "0.0002, constant_with_warmup"
    assert lines["weights"].endswith("%), LoRA of rank 16")
    assert (
        lines["template"] == "ChatML, tools as hermes; system prompt of conversations without one: none (chatml.system)"
    )
    assert lines["cost"].endswith(" tokens; make plan with the same arguments estimates memory and hours")


def test_the_other_stages_do_too(told):
    folder, printed = told
    assert f"{folder}/rm, before the first step:\n  data " in printed["rm"]
    assert " comparisons a step\n" in printed["rm"]
    prompts = json.loads((folder / "ppo" / "data.json").read_text())["prompts"]["kept"]
    assert (
        f"  data          {prompts} prompts\n  held out      {112 - prompts} prompts, measured every 1 steps, the best "
        "checkpoint by heldout_score is kept"
    ) in printed["ppo"]
    assert (
        "  steps         2, of which the first 1 train the value model only; 8 responses a step, "
        f"{8 / prompts:.3g} passes over the prompts\n"
        "  learning rate policy 1e-05, value model 5e-05; constant\n"
    ) in printed["ppo"]
    assert "  cost          up to 64 generated tokens; " in printed["ppo"]
