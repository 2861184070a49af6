"""run.push_to_hub and `make push` against a local hub, and the model card made from a run folder."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from config import RecipeError
from engine.errors import RunError
from tests.support.hub_server import serving
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import command

PUSH = "run.push_to_hub=me/mine"


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def run_with_hub(command, tmp_path, endpoint, token="hf_x"):
    """Run a command with a hub's endpoint and a token in its environment."""
    clean = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    env = clean | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    if token:
        env["HF_TOKEN"] = token
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)


def test_a_finished_run_is_pushed_privately_with_its_card(setting, tmp_path):
    run = tmp_path / "run"
    with serving() as (endpoint, repositories):
        done = run_with_hub(command("ppo", setting, f"run.dir={run}", "ppo.steps=1", PUSH), tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"{run}: pushed to {endpoint}/me/mine\n")
        mine = repositories["me/mine"]
        assert mine["private"]
        assert mine["tokens"] == {"Bearer hf_x"}
        assert mine["files"].keys() == {path.name for path in (run / "model").iterdir()}
        for name, content in mine["files"].items():
            assert content == (run / "model" / name).read_bytes()
        # The user chooses a licence and pushes again.
        card = run / "model_card.md"
        assert mine["files"]["README.md"] == card.read_bytes()
        card.write_text(card.read_text().replace("# license: yours", "license: mit # yours"))
        push = [sys.executable, "-m", "release.push", str(run)]
        again = run_with_hub(push, tmp_path, endpoint)
        assert (again.returncode, again.stdout) == (0, f"{run}: pushed to {endpoint}/me/mine\n"), again.stderr
        assert b"license: mit" in repositories["me/mine"]["files"]["README.md"]
        assert len(repositories["me/mine"]["commits"]) == 2
        other = run_with_hub([*push, "me/other"], tmp_path, endpoint)
        assert other.returncode == 0
        assert repositories.keys() == {"me/mine", "me/other"}
        named = repositories["me/other"]["files"]["README.md"]
        assert b"\n# me/other\n" in named
        assert b"license: mit" in named
        assert b"me/mine" not in named.split(b"## Recipe")[0]


def test_a_run_whose_push_fails_is_finished_and_can_be_pushed_later(setting, tmp_path):
    run = tmp_path / "run"
    done = run_with_hub(
        command("ppo", setting, f"run.dir={run}", "ppo.steps=1", PUSH, "run.hub_private=false"), tmp_path,
        "http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.endswith(" s\n")  # the line that says it is finished
    assert done.stderr.splitlines()[-1] == (
        f"{run}/model is complete, but could not be pushed to me/mine ([Errno 111] Connection refused); "
        f'push it later with: make push ARGS="{run} me/mine"'
    )
    assert (run / "finished.json").exists()
    push = [sys.executable, "-m", "release.push", str(run), "me/mine"]
    with serving(refusal=403) as (endpoint, repositories):
        refused = run_with_hub(push, tmp_path, endpoint)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {run}/model is complete, but could not be pushed to me/mine (")
        assert len(refused.stderr.splitlines()) == 1
    with serving() as (endpoint, repositories):
        assert run_with_hub(push, tmp_path, endpoint).returncode == 0
        assert not repositories["me/mine"]["private"]


def test_a_run_without_a_hub_token_stops_before_its_first_step(setting, tmp_path):
    done = run_with_hub(
        command("ppo", setting, f"run.dir={tmp_path}/run", PUSH), tmp_path, "http://127.0.0.1:9", token=None
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: run.push_to_hub=me/mine needs a hub token; log in with hf auth login, set HF_TOKEN, or leave "
        "run.push_to_hub out"
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_invalid_repository_name_is_refused(setting):
    for name in ("mine", "/mine", "a/b/c", "me/"):
        with pytest.raises(RecipeError) as error:
            recipe_of(setting, f"run.push_to_hub={name}")
        assert str(error.value) == f"run.push_to_hub is {name}; name a repository of the hub as owner/name"


@pytest.mark.parametrize(
    ("stage", "task", "tag", "metric"),
    [("sft", "text-generation", "sft", "`loss`"), ("rm", "text-classification", "reward-model", "`eval_accuracy`"),
     ("ppo", "text-generation", "ppo", "`kl`")],
)  # fmt: skip
def test_the_card_shows_recipe_data_and_metrics_of_the_run_folder(mini, stage, task, tag, metric):
    from engine.run.card import model_card

    run = mini / stage
    card = model_card(run, "me/mine")
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers", "pipeline_tag": task,
        "tags": ["plumbline", "chatml", *(["ppo", "rlhf"] if stage == "ppo" else [tag])],
    }  # fmt: skip  # no licence, and no base_model: the world's random weights are not on the hub
    assert "# license: yours to choose" in head
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == recipe
    before = {"sft": ["base"], "rm": ["pmp", "base"], "ppo": ["sft", "base"]}[stage]
    assert " ← ".join(f"`{mini}/{path}`" for path in [*(f"{name}/model" for name in before), "world/init"]) in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    data = json.loads((run / "data.json").read_text())
    for name, report in data.items():
        (row,) = [row for row in rows if row[0] == f"| `data.{name}`"]
        assert row[2] == f"{report['read']:,}"
    (row,) = [row for row in rows if row[0] == f"| {metric}"]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in logged if metric.strip("`") in line][-1]
    assert row[1:] == [f"{last[metric.strip('`')]:.5g}", f"{last['step']} |"]
    assert "seconds" not in text.split("## Recipe")[0].split("## Metrics")[1]


def test_the_card_of_an_adapter_names_peft_and_the_base_on_the_hub(tmp_path):
    from engine.run.card import model_card

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "adapter_config.json").touch()
    data = {"train": [{"path": "a.jsonl", "weight": 2}, "b.jsonl"]}
    recipe = {"stage": "sft", "model": {"path": "Qwen/Qwen2.5-7B"}, "data": data}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report = {"read": 1200, "kept": 1100, "cut": 3, "dropped": {"too long": 100}, "tokens": 54321}
    files = {
        "finished": {"steps": 4000, "seconds": 3600.4, "at": "2026-01-02T03:04:05"},
        "environment": {"processes": 8, "device": "GPU", "packages": {"torch": "2.13.0", "trl": None}},
        "data": {"train": report},
    }
    for name, value in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "metrics.jsonl").write_text('{"step": 4000, "loss": 1.23456789, "elapsed_seconds": 1.0}\n')
    card = model_card(tmp_path, "me/mine")
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["library_name"], head["base_model"]) == ("peft", "Qwen/Qwen2.5-7B")
    assert "4,000 steps, 3,600 s on\n8 × GPU, finished 2026-01-02." in card
    assert "| `data.train` | `a.jsonl`, `b.jsonl` | 1,200 | 1,100 | 3 | 100 | 54,321 |" in card
    assert "| metric | value | step |\n| --- | --- | --- |\n| `loss` | 1.2346 | 4,000 |\n" in card
    assert card.endswith("```\n\ntorch 2.13.0\n")


def test_a_recipe_without_a_stage_is_an_error_that_shows_the_line_to_add(tmp_path):
    """As in run folders of earlier versions; the stage is not guessed."""
    from engine.run.card import model_card

    (tmp_path / "recipe.yaml").write_text("model: {path: Qwen/Qwen2.5-7B}\n")
    with pytest.raises(RunError) as error:
        model_card(tmp_path, "me/mine")
    assert str(error.value) == f"{tmp_path}/recipe.yaml: stage is empty; add the line stage: ppo | reward | sft"
