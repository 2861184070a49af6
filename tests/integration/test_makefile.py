"""What `make` runs, with a stand-in for Python that writes down how it was called."""

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
    """Runs make in a project that is set up; returns its result and the stand-in's calls, the folder TINY first."""
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    # Nothing of a make that this test may itself run under.
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


def test_tiny_runs_every_stage_in_turn(make):
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


def test_annotated_makes_comparisons_and_a_reward_model_of_them(make):
    done, calls = make("annotated", "SEED=1")
    assert done.returncode == 0
    assert {call[0] for call in calls} == {"runs/tiny-1"}
    modules = ("sft", "sft", "reward.prompts", "reward.candidates", "reward.pairs", "reward")
    stages = ("base", "sft", "prompts", "candidates", "pairs", "rm")
    assert commands(calls) == [
        f"-m {module} recipes/tiny-annotated/{stage}.yaml run.seed=1"
        for module, stage in zip(modules, stages, strict=True)
    ]


def test_tiny_ends_with_the_first_stage_that_fails(make):
    done, calls = make("tiny", fails="reward")
    assert done.returncode == 2
    assert commands(calls)[-1] == "-m reward recipes/tiny/pmp.yaml"


def test_a_seed_has_its_own_folder_and_goes_to_every_stage(make):
    _, calls = make("tiny", "SEED=1", "ARGS=run.save_steps=5")
    assert {call[0] for call in calls} == {"runs/tiny-1"}
    assert commands(calls)[:2] == [
        "-m tiny runs/tiny-1/world --seed 1",
        "-m sft recipes/tiny/base.yaml run.seed=1 run.save_steps=5",
    ]
    _, calls = make("rm", "SEED=0")
    assert calls[-1] == ["runs/tiny", "-m", "reward", "recipes/tiny/rm.yaml", "run.seed=0"]


def test_args_are_words_of_the_shell(make):
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


def test_show_takes_any_recipe(make):
    _, calls = make("show", "ARGS=show.rows=5")
    _, calls = make("show", "RECIPE=recipes/tiny/pmp.yaml", "SEED=3")
    assert commands(calls) == [
        "-m show recipes/tiny/sft.yaml show.rows=5",
        "-m show recipes/tiny/pmp.yaml run.seed=3",
    ]


def test_a_plan_is_of_any_recipe_on_any_hardware(make):
    _, calls = make("plan", "RECIPE=my.yaml", "HARDWARE=fsdp2", "ARGS=plan.device=a100")
    assert commands(calls) == ["-m plan my.yaml plan.hardware=fsdp2 plan.device=a100"]
    _, calls = make("plan")
    assert commands(calls)[-1] == "-m plan recipes/tiny/sft.yaml"


def test_bench_takes_parts_and_options(make):
    _, calls = make("bench", "ARGS=sft --rounds 3")
    assert commands(calls) == ["-m bench sft --rounds 3"]


@pytest.mark.parametrize("hardware", ["cpu_2", "auto"])
def test_with_hardware_the_recipe_is_checked_and_then_launched(make, hardware):
    """What auto stands for is what the plan of the recipe prints."""
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


def test_without_a_plan_nothing_is_launched(make):
    done, calls = make("rm", "HARDWARE=auto", fails="plan.choose")
    assert done.returncode == 2
    assert commands(calls)[-1] == "-m plan.choose recipes/tiny/rm.yaml"


def test_a_second_setup_installs_nothing(make):
    done, calls = make("setup")
    assert (done.stdout, calls) == ("make: Nothing to be done for 'setup'.\n", [])


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        (
            "sys.version_info",
            "error: plumbline needs Python 3.11 or newer as ./python3; "
            "install it, or use another: make PYTHON3=python3.12",
        ),
        ("ensurepip", "error: ./python3 cannot create virtual environments; on Debian: apt install python3-venv"),
    ],
)
def test_without_a_fitting_python_one_line_says_so(make, tmp_path, lacks, expected):
    (tmp_path / "python3").write_text(f'#!/bin/sh\ncase "$*" in *{lacks}*) exit 1;; esac\n')
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
def test_what_takes_arguments_gets_them(make, target, module):
    _, calls = make(target, "ARGS=5 1")
    assert commands(calls) == [f"-m {module} 5 1"]
