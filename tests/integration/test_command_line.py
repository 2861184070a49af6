"""A stage on the command line, before anything heavy is imported."""

import os
import subprocess
import sys

import pytest

from config.describe import describe
from eval.recipe import Eval
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.paths import ROOT

# Heavy packages that must not be imported before the recipe is known to be good.
HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft")
RUN = f"""
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as left:
    print("code", left.code)
print("imported", [name for name in {HEAVY} if name in sys.modules])
"""


def run_stage(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_misspelt_key_is_answered_within_two_seconds_and_without_torch():
    """And within two seconds of work, however little of the machine is free."""
    before = os.times()
    done = run_stage("ppo", "recipes/tiny/ppo.yaml", "ppo.kl_cof=0.1")
    assert done.stderr == "error: unknown key ppo.kl_cof; did you mean ppo.kl_coef?\n"
    assert done.stdout == "code 2\nimported []\n"
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


@pytest.mark.parametrize("schema", [SFT, Reward, PPO, Eval])
def test_help_has_a_line_of_meaning_for_every_key(schema):
    lines = {key: (default, meaning) for key, default, meaning in describe(schema)}
    assert lines["run.dir"] == ("", "the run folder: metrics, checkpoints and the finished model")
    assert lines["run.seed"][0] == "0"
    assert all(meaning for _, meaning in lines.values())


def test_check_says_ok_and_imports_nothing_heavy(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    done = run_stage(
        "sft", "recipes/tiny/sft.yaml", "--check", f"model.path={tmp_path}", f"data.train={tmp_path}/*.jsonl"
    )
    assert (done.stdout, done.stderr) == ("recipe ok\ncode 0\nimported []\n", "")


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "eval"])
def test_without_a_recipe_the_usage_is_told(stage):
    done = run_stage(stage, "run.seed=1")
    usage = f"usage: python -m {stage} RECIPE.yaml [--check] [key=value ...]"
    assert (done.stdout, done.stderr) == ("code 2\nimported []\n", f"error: no recipe given; {usage}\n")


def test_help_may_be_cut_short():
    """Whoever reads it has gone before it is written."""
    done = subprocess.run(
        f"{sys.executable} -m ppo --help | true", shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stderr == ""
