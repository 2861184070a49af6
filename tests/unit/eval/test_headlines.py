"""The verdicts and tiles of the report: what got better and worse, for subjects of any name."""

import dataclasses

from eval.report.evaluation_files import EvaluationFiles
from eval.report.headlines import Bar, tiles, verdicts
from tests.support.evaluation_folder import interval, summary, write_evaluation
from tests.support.report_setting import write_recipe, write_stage


def test_significant_changes_are_listed_as_better_or_worse():
    (verdict,) = verdicts(summary(("before", "after")))
    assert verdict.subject == "after"
    assert verdict.better == [
        "preferred by gold on 62% of items (95% interval 58% to 66%, n 40)",
        "gold score +0.50 (95% interval +0.46 to +0.54, n 40)",
        "right answers +25.0 points (95% interval +21.0 to +29.0, n 40)",
        "manner +0.12 (95% interval +0.08 to +0.17, n 40)",
    ]
    assert verdict.worse == [
        "perplexity of pretrain, in bits per byte, +0.100 (95% interval +0.060 to +0.140, n 50)",
    ]
    assert verdict.distance == "KL to before: 3.00 nats per answer"
    assert verdict.unclear == [
        "instruction obeyed", "obeyed throughout", "obeyed at first turn", "obeyed at last turn",
    ]  # fmt: skip
    assert verdict.remark == ""


def test_a_difference_whose_interval_contains_0_is_unclear():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {
        "answers": {"gold": interval(0.03), "accuracy": interval(-0.03), "win_rate": interval(0.47, by="gold")}
    }
    (verdict,) = verdicts(figures)
    assert (verdict.better, verdict.worse) == ([], [])
    assert verdict.unclear == ["win rate", "gold score", "right answers"]


def test_a_difference_over_five_items_or_fewer_is_unclear():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {"answers": {"gold": interval(3.0, n=5), "win_rate": interval(1.0, n=5)}}
    (verdict,) = verdicts(figures)
    assert (verdict.better, verdict.unclear) == ([], ["win rate", "gold score"])
    figures["differences"]["after"] = {"answers": {"gold": interval(3.0, n=6)}}
    assert verdicts(figures)[0].better == ["gold score +3.00 (95% interval +2.96 to +3.04, n 6)"]


def test_losses_are_listed_as_worse():
    figures = summary(("before", "after"))
    figures["differences"]["after"] = {
        "answers": {"gold": interval(-0.5), "without_end": interval(0.1), "win_rate": interval(0.2, by="gold")}
    }
    (verdict,) = verdicts(figures)
    assert verdict.better == []
    assert verdict.worse == [
        "preferred by gold on only 20% of items (95% interval 16% to 24%, n 40)",
        "gold score -0.50 (95% interval -0.54 to -0.46, n 40)",
        "cut off +10.0 points (95% interval +6.0 to +14.0, n 40)",
    ]


def test_a_score_that_rises_while_gold_falls_is_remarked_as_reward_hacking():
    figures = summary(("before", "after"))
    figures["differences"]["after"]["answers"] |= {"gold": interval(-0.5), "score": interval(2.0)}
    (verdict,) = verdicts(figures)
    assert verdict.remark == "The reward's score rose while gold fell: a sign of reward hacking."


def test_a_verdict_without_gold_warns_that_it_rests_on_the_reward():
    figures = summary(("before", "after"), gold=False)
    (optimised,) = verdicts(figures, ["after"])
    assert "score by rm +1.00 (95% interval +0.96 to +1.04, n 40)" in optimised.better
    assert optimised.remark == (
        "It was trained or picked by the reward that gives the score, so a higher score is weak evidence."
    )
    (other,) = verdicts(figures)
    assert other.remark == (
        "There is no gold scorer: this verdict is only as reliable as the reward that gives the score."
    )


def test_one_subject_has_no_verdict():
    assert verdicts(summary(("only",))) == []
    assert verdicts({}) == []


def test_tiles_show_every_subject():
    shown = {tile.label: tile.bars for tile in tiles(summary(("x", "y", "z")))}
    assert shown["Gold score"] == [Bar("x", "1.00"), Bar("y", "1.50", "better"), Bar("z", "2.00", "better")]
    assert shown["Preferred to x"] == [Bar("y", "62%", "better"), Bar("z", "75%", "better")]
    assert shown["Perplexity of pretrain"] == [Bar("x", "4.05"), Bar("y", "4.55", "worse"), Bar("z", "5.05", "worse")]
    assert shown["KL to the reference"] == [Bar("y", "3.00"), Bar("z", "6.00")]
    assert shown["Accuracy of rewards"] == [Bar("pmp", "67%"), Bar("rm", "96%")]
    assert list(tiles({})) == []


def test_subjects_optimised_for_the_scoring_reward_are_recognised(tmp_path):
    """PPO models by the reward of their recipe, best of n by the reward that picks; another path is another reward."""
    names = ("talk", "tuned", "best", "other_best")
    write_evaluation(tmp_path / "eval", names)
    (tmp_path / "world").mkdir()
    for name, kind in (("talk", "sft"), ("tuned", "ppo")):
        write_stage(tmp_path, name, kind)
    models = {name: f"{tmp_path}/{name}/model" for name in ("talk", "tuned")}
    best = {"best": {"best_of": "talk", "n": 2}, "other_best": {"best_of": "talk", "n": 2, "reward": "pmp"}}
    rewards = {"pmp": f"{tmp_path}/pmp/model", "rm": f"{tmp_path}/rm/model"}
    files = EvaluationFiles(write_recipe(tmp_path, {**models, **best}, rewards, None))
    assert [name for name in names if files.optimised(name)] == ["tuned", "best"]
    other_reward = write_recipe(tmp_path, {**models, **best}, rewards | {"rm": "owner/another"}, None)
    assert not dataclasses.replace(files, recipe=other_reward).optimised("tuned")
    recipe = tmp_path / "tuned" / "recipe.yaml"
    mix = f"{{mix: {{a: [x, {tmp_path}/rm/model], b: {{rule: 'a:b'}}}}}}"
    recipe.write_text(recipe.read_text().replace(f"{{path: {tmp_path}/rm/model}}", mix))
    assert EvaluationFiles(files.recipe).optimised("tuned")
    assert not EvaluationFiles(other_reward).optimised("tuned")
