"""python -m bench.tiny_seeds: the commands it runs, resuming, and exit codes.

Stages are stand-ins that copy a folder of a hand-written run, unless it is there already.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bench.tiny_bars import Run
from bench.tiny_seeds import STAGES, commands, main
from config import load
from eval.recipe import Eval
from reward.recipe import Reward
from tests.support.paths import ROOT
from tests.support.tiny_runs import write_run

# `python -m STAGE ...` in the folder of the test; it appends its arguments to calls.txt.
STAND_IN = """
import os, shutil, sys, time
from pathlib import Path

tiny = Path(os.environ["TINY"])
Path("calls.txt").open("a").write(f"{tiny.name} {os.environ['OMP_NUM_THREADS']} {' '.join(sys.argv[1:])}\\n")
recipe = Path(sys.argv[1]).stem
names = {"harmless": "harmless", "tasks": "eval-tasks"}
(folder,) = [word.rpartition("/")[2] for word in sys.argv if word.startswith("run.dir=")] or [names.get(recipe, recipe)]
if Path("fails", tiny.name, folder).exists():
    print("Traceback", file=sys.stderr)
    sys.exit("error: loss is nan")
if Path("slow").exists() and folder == "ppo":
    Path("slow").unlink()
    time.sleep(60)
if not (tiny / folder).exists():
    shutil.copytree(Path("made") / folder, tiny / folder)
"""
# Ctrl-C has its effect also if the tests run in the background, where the shell ignores it.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from bench.tiny_seeds import main
main(sys.argv[2:])
"""
ARGUMENTS = ["--seeds", "3", "4", "--folder", "seeds", "--recipes", "recipes", "--out", "page.md"]


@pytest.fixture(autouse=True)
def stand_ins(tmp_path, monkeypatch):
    """Write empty recipes, stand-ins for all stages, and a run that holds every bar, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for package in ("tiny", "sft", "reward", "ppo", "eval"):
        Path(package).mkdir()
        Path(package, "__main__.py").write_text(STAND_IN)
    Path("recipes").mkdir()
    for stage in STAGES:
        Path("recipes", f"{stage.recipe}.yaml").touch()
    write_run(Path("made"))


def exit_code(*more):
    """Run the command and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([*ARGUMENTS, *more])
    return end.value.code or 0


def calls():
    return [line.split() for line in Path("calls.txt").read_text().splitlines()]


def test_every_stage_runs_for_every_seed_and_number_of_threads(capsys):
    assert exit_code() == 0
    assert [words[:3] for words in calls() if words[2] == "recipes/ppo.yaml"] == [
        [name, threads, "recipes/ppo.yaml"]
        for name, threads in (("3-1", "1"), ("4-1", "1"), ("3-2", "2"), ("4-2", "2"))
    ]
    first = [" ".join(words[2:]) for words in calls() if words[0] == "3-1"]
    assert first[:9] == [
        "seeds/3-1/world --seed 3",
        *(f"recipes/{name}.yaml run.seed=3" for name in ("base", "sft", "pmp", "rm", "harmless", "ppo")),
        *(f"recipes/{name}.yaml run.seed=3 eval.require={{}}" for name in ("eval", "tasks")),
    ]
    # Reward models without PMP are trained for the first number of threads only.
    assert [words[0] for words in calls() if "run.dir" in " ".join(words)] == ["3-1", "3-1", "4-1", "4-1"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].split() == ["gold", "accuracy", "KL", "rm", "harmless", "perplexity", "worst", "task", "minutes"]
    figures = ["0.4", "0.01", "3", "0.95", "0.92", "1.05", "0.25", "7.5"]
    assert shown[4] == "seed 3, 1 thread  " + "".join(f"{figure:>11}" for figure in figures) + "  holds"
    assert shown[-1] == "page.md: written"
    assert (
        Path("page.md")
        .read_text()
        .startswith(
            "# Does the tiny world align on every seed?\n\n"
            "    .venv/bin/python -m bench.tiny_seeds --seeds 3 4 --folder seeds --recipes recipes --out page.md\n"
        )
    )


def test_a_bar_that_fails_is_exit_code_1(capsys):
    text = Path("made/eval/summary.json").read_text()
    Path("made/eval/summary.json").write_text(text.replace('"kl_to_reference": 3.0', '"kl_to_reference": 5.0'))
    assert exit_code("--threads", "2") == 1
    out = capsys.readouterr().out
    assert out.count("FAILS: KL") == 2
    assert "holds  harm falls (95 % interval entirely below 0)" in out
    assert (
        "- seed 4, 2 threads: KL of PPO from SFT, nats per response is 5, required <= 4" in Path("page.md").read_text()
    )


def test_a_failing_stage_ends_its_run_only(capsys):
    """The other runs are still measured."""
    Path("fails/3-1/ppo").mkdir(parents=True)
    assert exit_code("--threads", "1", "--jobs", "2") == 1
    why = "ppo recipes/ppo.yaml ended with code 1: error: loss is nan (full output: seeds/3-1/log.txt)"
    out = capsys.readouterr().out
    assert f"seed 3, 1 thread    {why}" in out.splitlines()
    assert out.count("  holds\n") == 1
    assert f"- seed 3, 1 thread: {why}" in Path("page.md").read_text()
    assert "from 1 run, in total" in Path("page.md").read_text()


def test_no_page_is_written_if_no_run_finished():
    for name in ("3-1", "4-1"):
        Path("fails", name, "base").mkdir(parents=True)
    assert exit_code("--threads", "1") == 1
    assert not Path("page.md").exists()


def press_ctrl_c(process):
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches the stage as well


def terminate(process):
    process.terminate()  # the command alone


def interrupt_the_stage(process):
    """As if Ctrl-C reached the stage first."""
    for stage in psutil.Process(process.pid).children():
        stage.send_signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [press_ctrl_c, terminate, interrupt_the_stage])
def test_a_stopped_command_resumes(stop):
    Path("slow").touch()
    words = [sys.executable, "-c", COMMAND, str(ROOT), *ARGUMENTS]
    stopped = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while Path("slow").exists():
        assert stopped.poll() is None
        time.sleep(0.05)
    stop(stopped)
    printed = stopped.communicate(timeout=30)[1]
    assert (stopped.returncode, printed) == (130, "\nstopped; the same command resumes\n")
    assert calls()[-1][2] == "recipes/ppo.yaml"
    assert {words[0] for words in calls()} == {"3-1"}  # no further run is started
    assert not Path("page.md").exists()
    calls_before = len(calls())

    assert exit_code() == 0
    again = [words[2] for words in calls()[calls_before:] if words[0] == "3-1"]
    assert again[:7] == [
        "seeds/3-1/world", *(f"recipes/{name}.yaml" for name in ("base", "sft", "pmp", "rm", "harmless", "ppo"))
    ]  # fmt: skip
    assert Path("page.md").exists()


def test_a_missing_recipe_is_reported_in_one_line(capsys):
    Path("recipes/tasks.yaml").unlink()
    assert exit_code() == 2
    assert capsys.readouterr().err == (
        "error: recipes/tasks.yaml does not exist; --recipes needs a folder with the recipes base, sft, pmp, "
        "rm, harmless, ppo, eval, tasks\n"
    )
    assert not Path("calls.txt").exists()


@pytest.mark.parametrize("key", ["--folder", "--out"])
def test_a_folder_that_cannot_be_created_is_reported_in_one_line(key, capsys):
    Path("file").touch()
    assert exit_code(key, "file/under/it") == 2
    assert capsys.readouterr().err.endswith("cannot be created (Not a directory); use another folder\n")
    assert not Path("calls.txt").exists()


@pytest.mark.parametrize("arguments", [["--seeds", "-1"], ["--threads", "0"], ["--jobs", "0"]])
def test_impossible_numbers_are_refused(arguments, capsys):
    assert exit_code(*arguments) == 2
    assert "--seeds must be at least 0, --threads and --jobs at least 1" in capsys.readouterr().err


def test_the_overrides_for_rewards_with_and_without_pmp_are_valid(monkeypatch):
    """Loaded over the tiny recipes as the stages load them."""
    monkeypatch.setenv("TINY", "home")
    *_, reward, evaluation = [words[2:] for words in commands(Run(3, 1), Path("home"), Path(), extra=True)]
    recipe = load(Reward, ROOT / "recipes" / "tiny" / "rm.yaml", reward)
    assert (recipe.run.dir, recipe.model.path, recipe.run.seed) == ("home/rm-without-pmp", "home/base/model", 3)
    recipe = load(Eval, ROOT / "recipes" / "tiny" / "eval.yaml", evaluation)
    assert recipe.run.dir == "home/eval-pmp"
    assert list(recipe.measures) == ["comparisons"]
    assert {name: of.paths for name, of in recipe.eval.reward_models().items()} == {
        name: [f"home/{folder}/model"]
        for name, folder in (("pmp", "pmp"), ("rm", "rm"), ("without_pmp", "rm-without-pmp"))
    }
