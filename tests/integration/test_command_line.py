"""A stage's command line: errors, --help and --check, without importing torch."""

import os
import re
import subprocess
import sys

import psutil
import pytest

from config.describe import describe
from config.threads import WAIT_VARIABLES
from eval.recipe import Eval
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.paths import ROOT

# Heavy packages that must not be imported before the recipe has been checked.
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


def test_a_misspelt_key_is_reported_within_two_seconds_and_without_torch():
    """Two seconds of CPU time, so that the test does not depend on how busy the machine is."""
    before = os.times()
    done = run_stage("ppo", "recipes/tiny/ppo.yaml", "ppo.kl_cof=0.1")
    assert done.stderr == "error: unknown key ppo.kl_cof; did you mean ppo.kl_coef?\n"
    assert done.stdout == "code 2\nimported []\n"
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


@pytest.mark.parametrize("schema", [SFT, Reward, PPO, Eval])
def test_help_has_a_meaning_and_a_type_for_every_key(schema):
    keys = {key.name: key for key in describe(schema)}
    assert keys["run.dir"].default == ""
    assert keys["run.dir"].meaning == "the run folder: metrics, checkpoints and the finished model"
    assert (keys["run.seed"].default, keys["run.seed"].kind) == ("0", "a whole number, at least 0 and below 4294967296")
    assert keys["model.dtype"].kind == "one of auto, float32, bfloat16"
    assert all(key.meaning and key.kind for key in keys.values())
    assert next(iter(keys)) == "stage"


def test_help_prints_types_defaults_and_the_keys_of_a_source():
    done = run_stage("ppo", "--help")
    lines = done.stdout.splitlines()
    assert lines[0] == "usage: python -m ppo RECIPE.yaml [--check] [key=value ...]"
    at = lines.index("ppo.kl_estimator=k1")
    assert lines[at + 1 : at + 3] == [
        "    one of k1, k2, k3",
        "    estimator of the penalty, with d = log π_old - log π_ref: k1 is d, k2 d²/2, k3 exp(-d) - 1 + d",
    ]
    assert lines[lines.index("stage=") + 1] == "    ppo; mandatory"
    at = lines.index("ppo.steps=")
    assert lines[at + 1] == "    a whole number, at least 1; may grow when a run resumes; mandatory"
    assert lines[lines.index("data.prompts=") + 1] == "    a source or a list of sources; mandatory"
    at = lines.index(
        "A source is a path, a hub id, or a mapping, for example data.prompts={path: FILE, take: 100}, with the keys"
    )
    named = [line.partition("=")[0] for line in lines[at:] if line and not line.startswith((" ", "A source"))]
    assert named[:10] == [
        "path",
        "split",
        "name",
        "revision",
        "fields",
        "weight",
        "skip",
        "take",
        "without_share",
        "only_share",
    ]
    assert lines[-2:] == ["code 0", "imported []"]


def test_check_of_a_valid_recipe_prints_ok_and_imports_nothing_heavy(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n")
    done = run_stage(
        "sft", "recipes/tiny/sft.yaml", "--check", f"model.path={tmp_path}", f"data.train={tmp_path}/*.jsonl"
    )
    assert (done.stdout, done.stderr) == ("recipe ok\ncode 0\nimported []\n", "")


@pytest.mark.parametrize(
    ("own", "policy", "spins"),
    [
        ({}, "PASSIVE", "0"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", "30000000000"),
    ],
)
def test_threads_wait_passively_on_a_busy_machine_unless_the_user_sets_a_policy(tmp_path, own, policy, spins):
    """As libgomp prints it when torch loads it, before the stage fails because there is no model."""
    (tmp_path / "data.jsonl").write_text("{}\n")
    given = ["recipes/tiny/sft.yaml", f"model.path={tmp_path}", f"data.train={tmp_path}/data.jsonl",
             f"run.dir={tmp_path}/run"]  # fmt: skip
    plain = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
    plain["OMP_NUM_THREADS"] = str(max(2, psutil.cpu_count()))  # one thread per core, and one core is busy
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sft", *given], cwd=ROOT, capture_output=True, text=True,
            env=plain | {"OMP_DISPLAY_ENV": "verbose"} | own,
        )  # fmt: skip
    finally:
        busy.kill()
        busy.wait()
    assert done.returncode == 2
    assert re.findall(r"(?:OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", done.stderr) == [policy, spins]
    assert done.stderr.startswith("other processes leave ") is not bool(own)


@pytest.mark.parametrize(
    "stage",
    ["sft", "reward", "ppo", "eval", "eval.report", "show", "plan", "plan.choose", "release.chat", "reward.prompts",
     "reward.candidates", "reward.pairs"],
)  # fmt: skip
def test_without_a_recipe_the_error_shows_the_usage(stage):
    done = run_stage(stage, "run.seed=1")
    usage = f"usage: python -m {stage} RECIPE.yaml [--check] [key=value ...]"
    assert (done.stdout, done.stderr) == ("code 2\nimported []\n", f"error: no recipe given; {usage}\n")


@pytest.mark.parametrize(
    ("module", "recipe", "message"),
    [
        ("sft", "ppo", "ppo.yaml:2: stage is ppo, but this command runs sft; use make ppo"),
        ("ppo", "rm", "pmp.yaml:2: stage is reward, but this command runs ppo; use make rm"),
        ("reward.pairs", "sft", "sft.yaml:2: stage is sft, but this command runs pairs; use make sft"),
    ],
)
def test_a_recipe_of_another_stage_is_refused_in_one_line(module, recipe, message):
    done = run_stage(module, f"recipes/tiny/{recipe}.yaml")
    assert (done.stdout, done.stderr) == ("code 2\nimported []\n", f"error: recipes/tiny/{message}\n")


def test_check_warns_of_many_epochs():
    arguments = ["recipes/tiny/sft.yaml", "--check", "model.path=gpt2", "data.train=README.md"]
    done = run_stage("sft", *arguments, "trainer.num_train_epochs=11")
    assert done.stdout == (
        "warning: trainer.num_train_epochs is 11; more than 10 are rarely of use, which is our choice of a limit\n"
        "recipe ok\ncode 0\nimported []\n"
    )
    assert run_stage("sft", *arguments).stdout == "recipe ok\ncode 0\nimported []\n"


def test_help_lists_the_trainers_fields_with_their_types():
    lines = run_stage("sft", "--help").stdout.splitlines()
    assert "    trainer.learning_rate: float" in lines
    assert any(line.startswith("    trainer.lr_scheduler_type: one of linear, cosine, ") for line in lines)
    assert not any(line.startswith("    trainer.output_dir") for line in lines)


def test_help_into_a_closed_pipe_prints_no_error():
    """The reader has closed the pipe before the help is written."""
    done = subprocess.run(
        f"{sys.executable} -m ppo --help | true", shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stderr == ""
