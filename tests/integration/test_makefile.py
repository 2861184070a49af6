"""The commands that `make` runs, recorded by a stand-in for Python."""

import os
import shutil
import subprocess

import pytest

from tests.support.paths import ROOT

STAND_IN = """#!/bin/sh
printf '%s|' "$TINY" "$@" >> calls
echo >> calls
case "$2" in "$FAILS") exit 2;; plan.choose) echo fsdp2;; esac
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make in a set-up project; it returns the result and the calls, each TINY first."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    # Remove the variables of a make that may have started this test.
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "TINY", "MINI", "SEED", "ARGS", "RECIPE", "HARDWARE")
    clean = {name: value for name, value in os.environ.items() if name not in outer} | {"LC_ALL": "C"}

    def run(*arguments: str, fails: str = "none") -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
        done = subprocess.run(
            ["make", "PYTHON=./python", *arguments],
            cwd=tmp_path,
            env=clean | {"FAILS": fails},
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done, [line.rstrip("|").split("|") for line in lines]

    return run


def commands(calls: list[list[str]]) -> list[str]:
    return [" ".join(call[1:]) for call in calls]


def test_make_tiny_runs_every_stage_in_order(make):
    done, calls = make("tiny", "-j4")
    assert done.returncode == 0
    assert {call[0] for call in calls} == {"runs/tiny"}
    assert commands(calls) == [
        "-m tiny runs/tiny/world --seed 0",
        "-m sft recipes/tiny/base.yaml",
        "-m sft recipes/tiny/sft.yaml",
        "-m reward recipes/tiny/pmp.yaml",
        "-m reward recipes/tiny/rm.yaml",
        "-m reward recipes/tiny/harmless.yaml",
        "-m ppo recipes/tiny/ppo.yaml",
        "-m eval recipes/tiny/eval.yaml",
        "-m eval.report recipes/tiny/eval.yaml",
    ]


def test_make_annotated_makes_comparisons_and_trains_a_reward_model(make):
    done, calls = make("annotated", "SEED=1")
    assert done.returncode == 0
    assert {call[0] for call in calls} == {"runs/tiny-1"}
    modules = ("sft", "sft", "reward.prompts", "reward.candidates", "reward.pairs", "reward")
    stages = ("base", "sft", "prompts", "candidates", "pairs", "rm")
    assert commands(calls) == [
        f"-m {module} recipes/tiny-annotated/{stage}.yaml run.seed=1"
        for module, stage in zip(modules, stages, strict=True)
    ]


def test_make_tiny_stops_at_the_first_stage_that_fails(make):
    done, calls = make("tiny", fails="reward")
    assert done.returncode == 2
    assert commands(calls)[-1] == "-m reward recipes/tiny/pmp.yaml"


def test_seed_sets_the_folder_and_run_seed_of_every_stage(make):
    _, calls = make("tiny", "SEED=1", "ARGS=run.save_steps=5")
    assert {call[0] for call in calls} == {"runs/tiny-1"}
    assert commands(calls)[:2] == [
        "-m tiny runs/tiny-1/world --seed 1",
        "-m sft recipes/tiny/base.yaml run.seed=1 run.save_steps=5",
    ]
    _, calls = make("rm", "SEED=0")
    assert calls[-1] == ["runs/tiny", "-m", "reward", "recipes/tiny/rm.yaml", "run.seed=0"]


def test_args_are_split_as_by_the_shell(make):
    _, calls = make(
        "sft",
        "RECIPE=my.yaml",
        "ARGS=chatml.system='You are: kind, and brief.' data.train=[a.jsonl,b.jsonl] 'data.fields={question: prompt}'",
    )
    assert calls == [
        ["runs/tiny", "-m", "sft", "my.yaml", "chatml.system=You are: kind, and brief.",
         "data.train=[a.jsonl,b.jsonl]", "data.fields={question: prompt}"]
    ]  # fmt: skip
    gate = 'eval.require={"differences.ppo.answers.accuracy.mean": ">= -0.01"}'
    _, calls = make("eval", f"ARGS='{gate}'")
    assert calls[-1] == ["runs/tiny", "-m", "eval", "recipes/tiny/eval.yaml", gate]


def test_make_show_takes_any_recipe(make):
    _, calls = make("show", "ARGS=show.rows=5")
    _, calls = make("show", "RECIPE=recipes/tiny/pmp.yaml", "SEED=3")
    assert commands(calls) == [
        "-m show recipes/tiny/sft.yaml show.rows=5",
        "-m show recipes/tiny/pmp.yaml run.seed=3",
    ]


def test_make_plan_takes_any_recipe_and_hardware(make):
    _, calls = make("plan", "RECIPE=my.yaml", "HARDWARE=fsdp2", "ARGS=plan.device=a100")
    assert commands(calls) == ["-m plan my.yaml plan.hardware=fsdp2 plan.device=a100"]
    _, calls = make("plan")
    assert commands(calls)[-1] == "-m plan recipes/tiny/sft.yaml"


def test_make_bench_passes_parts_and_options(make):
    _, calls = make("bench", "ARGS=sft --rounds 3")
    assert commands(calls) == ["-m bench sft --rounds 3"]


@pytest.mark.parametrize("hardware", ["cpu_2", "auto"])
def test_hardware_checks_the_recipe_before_launching(make, hardware):
    """HARDWARE=auto uses the name that plan.choose prints."""
    _, calls = make("ppo", f"HARDWARE={hardware}", "ARGS=ppo.steps=3")
    chosen = ["-m plan.choose recipes/tiny/ppo.yaml ppo.steps=3"] if hardware == "auto" else []
    assert commands(calls) == [
        "-m ppo recipes/tiny/ppo.yaml --check ppo.steps=3",
        *chosen,
        f"-m engine.run.launch {'fsdp2' if chosen else hardware} ppo recipes/tiny/ppo.yaml ppo.steps=3",
    ]
    done, calls = make("rm", f"HARDWARE={hardware}", fails="reward")
    assert done.returncode == 2
    assert commands(calls)[-1] == "-m reward recipes/tiny/rm.yaml --check"


def test_nothing_is_launched_if_plan_choose_fails(make):
    done, calls = make("rm", "HARDWARE=auto", fails="plan.choose")
    assert done.returncode == 2
    assert commands(calls)[-1] == "-m plan.choose recipes/tiny/rm.yaml"


def test_a_second_make_setup_installs_nothing(make):
    done, calls = make("setup")
    assert (done.stdout, calls) == ("make: Nothing to be done for 'setup'.\n", [])


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (
            "sys.version_info",
            "error: plumbline needs Python 3.11 or newer as ./python3; "
            "install it, or use another: make PYTHON3=python3.12",
        ),
        ("ensurepip", "error: ./python3 cannot create virtual environments; on Debian: apt install python3-venv"),
    ],
)
def test_a_python_without_the_version_or_venv_is_reported_in_one_line(make, tmp_path, missing, expected):
    (tmp_path / "python3").write_text(f'#!/bin/sh\ncase "$*" in *{missing}*) exit 1;; esac\n')
    (tmp_path / "python3").chmod(0o755)
    done, calls = make("-B", "setup", "PYTHON3=./python3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == expected
    assert calls == []


@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("drill", "tests.support.drill"),
        ("claims", "bench.claims"),
        ("push", "release.push"),
        ("merge", "release.merge"),
        ("release", "release.checkpoint"),
    ],
)
def test_targets_pass_their_arguments(make, target, module):
    _, calls = make(target, "ARGS=5 1")
    assert commands(calls) == [f"-m {module} 5 1"]
