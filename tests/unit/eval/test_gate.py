"""`eval.require`: valid and invalid requirements, and verdicts for numbers, null and missing figures."""

import pytest

from config import RecipeError
from eval.gate import check_figures, read_requirements

SUMMARY = {
    "subjects": {"far": {"answers": {"tokens": None, "why": {"tokens": "not counted"}, "distinct": 1.0}}},
    "differences": {"ppo": {"answers": {"accuracy": {"mean": -0.06, "ci95": [-0.1, 0.02], "n": 30}}}},
    "rewards": {"rm": {"comparisons": {"pairs": {"accuracy": 0.75}}}},
}


ACCURACY = "differences.ppo.answers.accuracy"
OF_RM = "rewards.rm.comparisons.pairs.accuracy"


@pytest.mark.parametrize(
    ("path", "condition", "line"),
    [
        (f"{ACCURACY}.mean", ">= -0.01", "FAILED {} = -0.06, required >= -0.01"),
        (f"{ACCURACY}.mean", ">-0.1", "ok     {} = -0.06, required > -0.1"),
        (f"{ACCURACY}.ci95.1", "< 0.03", "ok     {} = 0.02, required < 0.03"),
        (OF_RM, "== .75", "ok     {} = 0.75, required == 0.75"),
        (OF_RM, "<= 7.4e-1", "FAILED {} = 0.75, required <= 0.74"),
        ("subjects.far.answers.distinct", "< 1", "FAILED {} = 1.0, required < 1"),
        ("subjects.far.answers.tokens", "> 0", "FAILED {} = null (not counted), required > 0"),
        ("subjects.far.answers.gold", "> 0", "FAILED {0} = null (summary.json has no {0}), required > 0"),
        (f"{ACCURACY}.ci95.2", "> 0", "FAILED {0} = null (summary.json has no {0}), required > 0"),
        (ACCURACY, "> 0", "FAILED {0} = null ({0} is not a number; name one of its parts), required > 0"),
    ],
)
def test_verdicts_of_requirements(path, condition, line):
    (verdict,) = check_figures(read_requirements({path: condition}, "eval.require", ["far", "ppo"], ["rm"]), SUMMARY)
    assert str(verdict) == line.format(path)
    assert verdict.ok == line.startswith("ok")
    assert verdict.as_dict()["ok"] == verdict.ok


@pytest.mark.parametrize(
    ("path", "condition", "message"),
    [
        (
            "accuracy",
            "> 0",
            "eval.require: accuracy is not a path into summary.json; start with subjects, differences, pairs, rewards, "
            "seconds, for example differences.NAME.answers.accuracy.mean",
        ),
        (
            "differences..mean",
            "> 0",
            "eval.require: differences..mean is not a path into summary.json; start with subjects, differences, pairs, "
            "rewards, seconds, for example differences.NAME.answers.accuracy.mean",
        ),
        (
            "differences.pp.answers.gold.mean",
            "> 0",
            "eval.require: differences.pp.answers.gold.mean names pp, which is not among eval.subjects (far, ppo)",
        ),
        (
            "rewards.pmp.comparisons.pairs.accuracy",
            "> 0",
            "eval.require: rewards.pmp.comparisons.pairs.accuracy names pmp, which is not among eval.rewards (rm)",
        ),
        (
            "differences.ppo.answers.gold.mean",
            "0.5",
            "eval.require: differences.ppo.answers.gold.mean is 0.5; it must be one of <= >= == < > and a number, for "
            'example ">= 0.5"',
        ),
        (
            "differences.ppo.answers.gold.mean",
            "=> 0.5",
            "eval.require: differences.ppo.answers.gold.mean is => 0.5; it must be one of <= >= == < > and a number, "
            'for example ">= 0.5"',
        ),
        (
            "differences.ppo.answers.gold.mean",
            1,
            "eval.require: differences.ppo.answers.gold.mean is 1; it must be one of <= >= == < > and a number, for "
            'example ">= 0.5"',
        ),
    ],
)
def test_unknown_paths_names_and_conditions_are_refused(path, condition, message):
    with pytest.raises(RecipeError) as error:
        read_requirements({path: condition}, "eval.require", ["far", "ppo"], ["rm"])
    assert str(error.value) == message


def test_a_mapping_whose_quotes_the_shell_removed_is_read():
    given = "{differences.ppo.answers.accuracy.mean: >= -0.01, rewards.rm.comparisons.pairs.accuracy: > .5}"
    read = read_requirements(given, "eval.require", ["ppo"], ["rm"])
    assert [f"{each.path} {each}" for each in read] == [
        "differences.ppo.answers.accuracy.mean >= -0.01",
        "rewards.rm.comparisons.pairs.accuracy > 0.5",
    ]


@pytest.mark.parametrize("value", [["subjects.ppo.answers.gold > 0"], 3])
def test_requirements_that_are_no_mapping_are_refused(value):
    with pytest.raises(RecipeError, match=r"^eval.require is .*; it must be a mapping, "):
        read_requirements(value, "eval.require", ["ppo"], ["rm"])
