"""The verdicts and tiles of the report: what got better and worse, for subjects of any name."""

import dataclasses

from eval.report.evaluation_files import EvaluationFiles
from eval.report.headlines import Bar, tiles, verdicts
from tests.support.evaluation_folder import interval, summary, write_evaluation
from tests.support.report_setting import write_recipe, write_stage


def rows(verdict, tone):
    return [(change.label, change.mean, change.interval) for change in verdict.of(tone)]


def labels(verdict, tone):
    return [change.label for change in verdict.of(tone)]


def test_significant_changes_are_listed_as_better_or_worse():
    """Each with its interval and n; the scores by rewards are no evidence beside gold."""
    (verdict,) = verdicts(summary(("before", "after")))
    assert verdict.subject == "after"
    assert rows(verdict, "better") == [
        ("preferred to before by gold", "62%", "58% to 66%, n 40"),
        ("gold score", "+0.50", "+0.46 to +0.54, n 40"),
        ("right answers", "+25.0 points", "+21.0 to +29.0, n 40"),
        ("manner", "+0.12", "+0.08 to +0.17, n 40"),
    ]
    assert rows(verdict, "worse") == [("bits per byte of pretrain", "+0.100", "+0.060 to +0.140, n 50")]
    assert rows(verdict, "unclear") == [
        (label, "+0.0 points", "-4.0 to +4.0, n 40")
        for label in ("instruction obeyed", "obeyed throughout", "obeyed at first turn", "obeyed at last turn")
    ]
    assert verdict.others == ["KL to before: 3.00 nats per answer", "tokens per answer +0.5 (+0.5 to +0.5, n 40)"]
    assert verdict.remark == ""


def test_a_difference_whose_interval_contains_0_is_unclear():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {
        "answers": {"gold": interval(0.03), "accuracy": interval(-0.03), "win_rate": interval(0.47, by="gold")}
    }
    (verdict,) = verdicts(figures)
    assert (verdict.of("better"), verdict.of("worse")) == ([], [])
    assert rows(verdict, "unclear") == [
        ("preferred to before by gold", "47%", "43% to 51%, n 40"),
        ("gold score", "+0.03", "-0.01 to +0.07, n 40"),
        ("right answers", "-3.0 points", "-7.0 to +1.0, n 40"),
    ]


def test_a_difference_over_five_items_or_fewer_is_unclear():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {
        "answers": {"gold": interval(3.0, n=5), "win_rate": interval(1.0, n=5, by="gold")}
    }
    (verdict,) = verdicts(figures)
    assert labels(verdict, "unclear") == ["preferred to before by gold", "gold score"]
    figures["differences"]["after"] = {"answers": {"gold": interval(3.0, n=6)}}
    assert labels(verdicts(figures)[0], "better") == ["gold score"]


def test_losses_are_listed_as_worse():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {
        "answers": {"gold": interval(-0.5), "without_end": interval(0.1), "win_rate": interval(0.2, by="gold")}
    }
    (verdict,) = verdicts(figures)
    assert verdict.of("better") == []
    assert rows(verdict, "worse") == [
        ("preferred to before by gold", "20%", "16% to 24%, n 40"),
        ("gold score", "-0.50", "-0.54 to -0.46, n 40"),
        ("cut off", "+10.0 points", "+6.0 to +14.0, n 40"),
    ]


def test_a_score_that_rises_while_gold_falls_is_remarked_as_reward_hacking():
    figures = summary(("before", "after"))
    figures["differences"]["after"]["answers"] |= {"gold": interval(-0.5), "score": interval(2.0)}
    (verdict,) = verdicts(figures)
    assert verdict.remark == "The score by rm rose while gold fell: a sign of reward hacking."


def test_without_gold_every_reward_judges():
    (verdict,) = verdicts(summary(("before", "after"), gold=False), {"after": ["rm"]})
    assert rows(verdict, "better") == [
        ("preferred to before by rm", "62%", "58% to 66%, n 40"),
        ("score by rm", "+1.00", "+0.96 to +1.04, n 40"),
        ("score by pmp", "+0.50", "+0.46 to +0.54, n 40"),
    ]
    assert labels(verdict, "worse") == ["bits per byte of pretrain"]
    assert rows(verdict, "unclear")[0] == ("preferred to before by pmp", "50%", "46% to 54%, n 40")
    cautious = [change.label for change in verdict.changes if change.caution]
    assert cautious == ["preferred to before by rm", "score by rm"]


def test_without_gold_another_reward_shows_reward_hacking():
    """Only if it is another one than the subject was trained with."""
    figures = summary(("before", "after"), gold=False)
    figures["differences"]["after"]["answers"]["scores"]["pmp"] = interval(-0.5)
    hacked = "The score by rm rose while the score by pmp fell: a sign of reward hacking."
    assert [verdicts(figures, {"after": used})[0].remark for used in (["rm"], ["rm", "pmp"], [])] == [hacked, "", ""]


def test_a_summary_of_an_earlier_version_has_the_win_rate_of_its_main_reward():
    figures = summary(("before", "after"), gold=False)
    del figures["differences"]["after"]["answers"]["win_rates"]
    (verdict,) = verdicts(figures)
    assert [label for label in labels(verdict, "better") if "preferred" in label] == ["preferred to before by rm"]


def test_one_subject_has_no_verdict():
    assert verdicts(summary(("only",))) == []
    assert verdicts({}) == []


def test_tiles_show_every_subject():
    shown = {tile.label: tile.bars for tile in tiles(summary(("x", "y", "z")))}
    assert shown["Gold score"] == [Bar("x", "1.00"), Bar("y", "1.50", "better"), Bar("z", "2.00", "better")]
    assert shown["Preferred to x by gold"] == [Bar("y", "62%", "better"), Bar("z", "75%", "better")]
    assert shown["Perplexity of pretrain"] == [Bar("x", "4.05"), Bar("y", "4.55", "worse"), Bar("z", "5.05", "worse")]
    assert shown["KL to the reference"] == [Bar("y", "3.00"), Bar("z", "6.00")]
    assert shown["Accuracy of rewards"] == [Bar("pmp", "67%"), Bar("rm", "96%")]
    assert list(tiles({})) == []


def test_which_rewards_a_subject_was_trained_with(tmp_path):
    """By their PPO recipe, and best of n by the reward that chooses; a reward of another name is another one."""
    names = ("talk", "tuned", "best", "other_best")
    write_evaluation(tmp_path / "eval", names)
    (tmp_path / "world").mkdir()
    for name, kind in (("talk", "sft"), ("tuned", "ppo")):
        write_stage(tmp_path, name, kind)
    models = {name: f"{tmp_path}/{name}/model" for name in ("talk", "tuned")}
    best = {"best": {"best_of": "talk", "n": 2}, "other_best": {"best_of": "talk", "n": 2, "reward": "pmp"}}
    rewards = {"pmp": f"{tmp_path}/pmp/model", "rm": f"{tmp_path}/rm/model"}
    files = EvaluationFiles(write_recipe(tmp_path, {**models, **best}, rewards, None))
    assert [files.trained_with(name) for name in names] == [[], ["rm"], ["rm"], ["pmp"]]
    moved = write_recipe(tmp_path, {**models, **best}, rewards | {"rm": "owner/another"}, None)
    assert dataclasses.replace(files, recipe=moved).trained_with("tuned") == []
    recipe = tmp_path / "tuned" / "recipe.yaml"
    mix = f"{{mix: {{a: [x, {tmp_path}/rm/model], b: {{rule: 'a:b'}}}}}}"
    recipe.write_text(recipe.read_text().replace(f"{{path: {tmp_path}/rm/model}}", mix))
    assert EvaluationFiles(files.recipe).trained_with("tuned") == ["rm"]
    assert EvaluationFiles(moved).trained_with("tuned") == []
