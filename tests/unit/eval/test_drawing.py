"""How plots are drawn: means, ticks and limits of their axes."""

import pytest

from eval.report.drawing import binned_mean, canvas, count_axis, curve, not_below_zero, running_mean


def test_a_running_mean_is_shorter_at_the_ends():
    assert running_mean([1.0, 2.0, 6.0, 3.0], 1).tolist() == [1.5, 3.0, 11 / 3, 4.5]


def test_means_of_like_lengths():
    assert binned_mean([1, 2, 9, 10], [0.0, 2.0, 5.0, 7.0], 3) == ([1.5, 9.5], [1.0, 6.0])
    assert binned_mean([4, 4], [1.0, 2.0], 3) == ([4.0], [1.5])


@pytest.mark.parametrize(("last", "ticks"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (50, [0, 10, 20, 30, 40, 50])])
def test_steps_have_ticks_at_whole_numbers(last, ticks):
    _, panels = canvas(2)
    for axes in panels:
        axes.plot(range(1, last + 1), range(1, last + 1), "o")
    count_axis(panels[1].xaxis, "step")
    low, high = panels[0].get_xlim()
    assert [tick for tick in panels[0].get_xticks() if low <= tick <= high] == [tick for tick in ticks if tick >= low]


def test_few_points_are_visible():
    """A line through one point would be an empty plot."""
    _, (axes,) = canvas()
    curve(axes, [20], [1.0], "red")
    curve(axes, range(11), range(11), "red")
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]


@pytest.mark.parametrize(
    ("values", "lowest"), [([0.0, 0.0], 0.0), ([0.0, 1.0], 0.0), ([-1.0, 1.0], -1.1), ([8, 9], 7.95)]
)
def test_an_axis_has_no_empty_part_below_zero(values, lowest):
    _, (axes,) = canvas()
    axes.plot([1, 2], values)
    not_below_zero(axes)
    assert axes.get_ylim()[0] == pytest.approx(lowest)
