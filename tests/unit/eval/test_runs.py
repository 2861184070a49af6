"""What a report says of each run, read from the run's own files."""

import json

import pytest

from eval.report.runs import describe_run, learning_rate
from tests.support.stage_runs import write_jsonl

ENVIRONMENT = {
    "command": ["python", "-m", "sft", "my recipe.yaml"], "commit": "60b08e9", "device": "cpu", "processes": 2,
    "packages": {"plumbline": "0.1.0"},
}  # fmt: skip


def test_a_finished_run(tmp_path):
    """The rate is the recipe's peak, the throughput the median; a shell reads the command as it was given."""
    (tmp_path / "recipe.yaml").write_text("stage: sft\ntrainer: {learning_rate: 0.001, lr_scheduler_type: cosine}\n")
    steps = [{"step": step, "learning_rate": 1e-5, "tokens_per_second": 100 * step} for step in (1, 10, 11)]
    write_jsonl(tmp_path / "metrics.jsonl", [*steps, {"step": 31, "train_loss": 1.0}])
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    (tmp_path / "finished.json").write_text(json.dumps({"steps": 31, "seconds": 1.0, "at": "2026-01-02T03:04:05"}))
    run = describe_run("mine", tmp_path)
    assert run.columns == {
        "steps": "31", "learning rate": "0.001, cosine", "tokens a second": "1,000", "finished": "2026-01-02 03:04",
        "device": "2 × cpu", "plumbline": "0.1.0", "commit": "60b08e9",
    }  # fmt: skip
    assert (run.name, run.command) == ("mine", "python -m sft 'my recipe.yaml'")
    assert run.recipe.startswith("stage: sft")


def test_a_run_that_has_not_finished(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 7}])
    columns = describe_run("mine", tmp_path).columns
    assert {name: value for name, value in columns.items() if value} == {"steps": "7", "finished": "no"}


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ({"trainer": {"learning_rate": 2e-6}}, "2e-06, linear"),
        ({"trainer": {"lr_scheduler_type": "constant"}}, "0.0005, constant"),  # TRL's default, known from the metrics
        ({"ppo": {"policy_learning_rate": 7e-5, "value_learning_rate": "1e-3", "lr_scheduler_type": "cosine"}},
         "policy 7e-05, value 0.001, cosine"),
    ],
)  # fmt: skip
def test_the_learning_rate(recipe, text):
    assert learning_rate(recipe, [{"learning_rate": 5e-4}, {"learning_rate": 1e-4}, {}]) == text


def test_no_learning_rate():
    assert learning_rate({"stage": "eval"}, []) == ""
