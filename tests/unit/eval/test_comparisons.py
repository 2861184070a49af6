"""Figures of reward models on comparisons, against numbers worked by hand."""

import math

import pytest

from eval.comparisons import margin_figures, mostly_length, reward_figures, warnings


def test_figures_of_four_comparisons_by_hand():
    """Chosen side longer: right, wrong; of equal length: right; shorter: a tie."""
    figures = margin_figures([2.0, -1.0, 1.0, 0.0], [3, 5, 0, -2])
    assert figures["accuracy"] == 2.5 / 4
    assert figures["by_length"] == {
        "chosen_longer": {"pairs": 2, "accuracy": 0.5},
        "equal": {"pairs": 1, "accuracy": 1.0},
        "chosen_shorter": {"pairs": 1, "accuracy": 0.5},
    }
    assert figures["prefers_longer"] == (1 + 0 + 0.5) / 3
    assert figures["length_only_accuracy"] == (1 + 1 + 0.5 + 0) / 4
    assert figures["length_explains"] == pytest.approx(0.125 / 0.125)
    sigma = [1 / (1 + math.exp(-m)) for m in (0, 1, 2)]
    assert figures["calibration"] == [
        [sigma[0], 0.5, 1], [pytest.approx(sigma[1]), 0.5, 2], [sigma[2], 1.0, 1],
    ]  # fmt: skip
    assert figures["ece"] == pytest.approx((0 + 2 * (sigma[1] - 0.5) + (1 - sigma[2])) / 4)


def test_preferring_the_shorter_side_counts_as_length():
    figures = margin_figures([1.0] * 40, [-3] * 40)
    assert figures["length_only_accuracy"] == 1
    assert figures["prefers_longer"] == 0
    assert mostly_length(figures)


def test_a_warning_if_length_explains_most_of_the_accuracy():
    """80 of 100 chosen sides are longer; the model is right on 90."""
    longer = [1] * 80 + [-1] * 20
    pairs = [
        {
            "set": "hh",
            "subset": None,
            "scores": {"rm": [float(i < 90), 0.5], "fair": [1.0, 0.0]},
            "tokens": [10 + d, 10],
        }
        for i, d in enumerate(longer)
    ]
    rewards = reward_figures(pairs)
    assert rewards["rm"]["comparisons"]["hh"]["length_explains"] == pytest.approx(0.3 / 0.4)
    assert list(warnings({"rm": rewards["rm"]})) == [
        "rm on hh: length alone is right on 80.0%, the reward on 90.0%: length could explain 75% of its accuracy above "
        "chance; compare answers of equal length"
    ]


@pytest.mark.parametrize(
    ("margins", "longer"),
    [
        ([1.0] * 100, [1] * 60 + [-1] * 40),  # length explains a fifth
        ([1.0] * 5 + [-1.0] * 3, [1] * 5 + [-1] * 3),  # length explains all of it, but eight pairs are too few
        ([-1.0] * 60 + [1.0] * 40, [1] * 90 + [-1] * 10),  # nothing to explain: worse than chance
    ],
    ids=["a part", "too few", "no gain"],
)
def test_no_warning_about_length(margins, longer):
    assert not mostly_length(margin_figures(margins, longer))


def pair(subset, chosen, rejected):
    return {"set": "bench", "subset": subset, "scores": {"rm": [chosen, rejected]}, "tokens": [3, 3]}


def test_subsets_have_figures_of_their_own():
    """chat: right, wrong, a tie; math: right; a comparison without a subset counts in the set only."""
    pairs = [pair("chat", 1.0, 0.0), pair("math", 2.0, 1.0), pair("chat", 0.0, 1.0), pair("chat", 1.0, 1.0)]
    figures = reward_figures([*pairs, pair(None, 1.0, 0.0)])["rm"]["comparisons"]["bench"]
    assert (figures["pairs"], figures["accuracy"]) == (5, 3.5 / 5)
    assert list(figures["subsets"]) == ["chat", "math"]
    # Wilson's interval of 1 of 1: [1 / (1 + z²), 1]
    assert figures["subsets"]["math"] == {
        "pairs": 1,
        "accuracy": 1.0,
        "accuracy_ci95": [pytest.approx(1 / (1 + 1.959964**2)), pytest.approx(1.0)],
    }
    assert (figures["subsets"]["chat"]["pairs"], figures["subsets"]["chat"]["accuracy"]) == (3, 0.5)


def test_without_subsets_there_are_no_subset_figures():
    assert "subsets" not in reward_figures([pair(None, 1.0, 0.0)])["rm"]["comparisons"]["bench"]
