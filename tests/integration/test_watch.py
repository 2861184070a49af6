"""What a person sees of a PPO run: warnings by made-up metrics, held-out gold, the table, samples on the console."""

import re

import pytest

from config import RecipeError
from engine.run.console import Steps
from engine.run.metrics import read
from ppo.step_metrics import as_text
from ppo.train import train
from ppo.warning_rules import RULES, warnings_of
from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import same, untimed, weights

DOC = ROOT / "docs" / "ppo.md"
FINE = {
    "first_ratio_error": 1e-6, "kl": 1.0, "entropy": 1.0, "response_tokens": 10.0, "without_end": 0.0,
    "explained_variance": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def gold(record, answer):
    return {"gold": float(len(answer))}


def rows(steps, **changes):
    """Metrics of a run in which all is well but for `changes` in its second half."""
    return [{"step": n + 1, **FINE, **(changes if n >= steps // 2 else {})} for n in range(steps)]


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("ratio", {"first_ratio_error": 0.5}, "before any update the policy's ratio is off 1 by 0.5"),
        ("kl_negative", {"kl": -0.5}, "kl is -0.5 nats a response over the last steps"),
        ("kl_high", {"kl": 31.0}, "kl is 31 nats a response, above watch.kl=30"),
        ("entropy_collapse", {"entropy": 0.2}, "entropy is 0.2 nats a token, 20% of what it was at first"),
        ("length_growth", {"response_tokens": 25.0}, "answers have 25 tokens, 2.5 times what they had at first"),
        ("without_end", {"without_end": 0.5}, "50% of the answers have no end"),
        ("value_useless", {"explained_variance": -0.25},
         "values explain nothing of the returns (explained_variance -0.25)"),
    ],
)  # fmt: skip
def test_each_warning(setting, name, changes, text):
    recipe = recipe_of(setting)
    assert warnings_of(rows(40, **changes), recipe) == {name: f"{text}; docs/ppo.md tells what to do"}
    assert warnings_of(rows(40), recipe) == {}
    assert warnings_of([], recipe) == {}


def test_what_could_not_be_computed_is_no_warning(setting):
    assert warnings_of(rows(40, explained_variance=None, kl=float("nan"), without_end=None), recipe_of(setting)) == {}


def measured(step, score, gold):
    return {"step": step, **FINE, "heldout_score": score, "heldout_gold": gold, "heldout_gold_error": 0.05}


def test_a_reward_that_rises_while_gold_falls(setting):
    history = [measured(1, 0.0, 0.5), {"step": 2, **FINE}, measured(10, 2.0, 1.0)]
    # √(0.05² + 0.05²) · 2 = 0.14
    assert warnings_of([*history, measured(20, 3.0, 0.87)], recipe_of(setting)) == {}
    assert warnings_of([*history, measured(20, 1.0, 0.5)], recipe_of(setting)) == {}
    assert warnings_of([*history, measured(20, 3.0, 0.8), {"step": 21, **FINE}], recipe_of(setting)) == {
        "overoptimised": "since step 10 the reward rose from 2 to 3 and gold fell from 1 to 0.8 on held-out prompts; "
        "docs/ppo.md tells what to do"
    }


def test_every_warning_is_documented():
    section = DOC.read_text(encoding="utf-8").partition("## Warnings")[2]
    assert re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE) == list(RULES)


def test_a_run_is_watched_and_not_changed_by_it(setting, tmp_path, capsys):
    """Warnings once, where they begin; gold at the steps asked for; the same policy as unwatched, and when resumed."""
    overrides = ["ppo.steps=4", "run.save_steps=2", "watch.kl=1e-9", "ppo.policy_learning_rate=0.05"]
    gold = "tests.integration.test_watch:gold"
    watched = [*overrides, f"data.heldout={setting.parent}/prompts.jsonl", f"watch.gold={gold}",
               "watch.every=2", "watch.show_samples_every=3", "ppo.log_samples_every=2"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'plain'}", *overrides))
    capsys.readouterr()
    train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", *watched))
    out = capsys.readouterr().out
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "run"))
    metrics = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in metrics if "heldout_gold" in row] == [1, 2, 4]
    assert metrics[1]["heldout_gold"] != metrics[3]["heldout_gold"]
    assert {"heldout_score", "heldout_gold_error", "heldout_seconds"} <= metrics[3].keys()
    assert {row["step"] for row in read(tmp_path / "run" / "samples.jsonl")} == {2, 4}
    assert out.count("two answers of step 3:\n  score ") == 1
    assert "two answers of step 2" not in out

    found = read(tmp_path / "run" / "warnings.jsonl")
    assert [(row["step"], row["warning"]) for row in found if row["warning"] == "kl_high"] == [(3, "kl_high")]
    assert "warning: kl_high at step 3: kl is " in out

    before = untimed(tmp_path / "run")
    for name in ("finished.json", "checkpoint-4/COMPLETE"):
        (tmp_path / "run" / name).unlink()
    train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", *watched))
    assert read(tmp_path / "run" / "warnings.jsonl") == found
    assert untimed(tmp_path / "run") == before


def test_gold_needs_something_to_measure_on(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "watch.gold=a:b")
    assert str(error.value) == "watch.gold is a:b, but there is nothing to measure on; give data.heldout"


def test_the_table_of_a_log(capsys, monkeypatch):
    """A head, then a line now and then, and always the last one."""
    monkeypatch.setattr("engine.run.console.QUIET", -1.0)
    steps = Steps("ppo", 3)
    steps.row(1, {"score": 1.23456, "learn_seconds": 2.0})
    monkeypatch.setattr("engine.run.console.QUIET", 99.0)
    steps.row(2, {"score": -1.0, "learn_seconds": 2.0})
    steps.row(3, {"score": float("nan"), "learn_seconds": 20.0})
    assert capsys.readouterr().out == (
        "         ppo     score   learn s\n"
        "         1/3     1.235         2\n"
        "         3/3       nan        20\n"
    )  # fmt: skip


def test_samples_on_the_console():
    sample = {"prompt": "x" * 400 + "\nWho?\n", "response": "Me.<|im_end|>", "score": 1.234, "kl": -0.5}
    text = as_text([sample])
    assert text.startswith("  score 1.23, kl -0.5\n  | … xxx")
    assert text.endswith("x\n  | Who?\n  | Me.<|im_end|>")
