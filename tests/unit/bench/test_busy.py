"""Step times beside a busy core: the table by hand, the order of its parts, and both stages on a tiny shape."""

import pytest

import bench.busy
from bench.busy import SETTINGS, UNCHANGED, AlternatingSteps, make_inputs, measure, table
from bench.timed import WARMUP_STEPS, EnoughError


def figures(ppo_alone, ppo_busy):
    return {"ppo_alone": ppo_alone, "ppo_busy": ppo_busy, "sft_alone": 1.0, "sft_busy": 1.5}


def test_ratios_are_to_the_unchanged_step_alone_of_the_same_round():
    rounds = [
        {UNCHANGED: figures(1.0, 8.0), "one": figures(1.25, 2.0)},
        {UNCHANGED: figures(2.0, 8.0), "one": figures(2.0, 3.0)},
        {UNCHANGED: figures(1.0, 9.0)},  # stopped before the other setting
    ]
    plain, one = table(rounds).splitlines()[2:]
    assert plain.startswith(f"| {UNCHANGED} | 1.00 | 1.00 (1.00 to 1.00) | 8.00 | 8.00 (4.00 to 9.00) | 1.00 |")
    assert one == (
        "| one | 1.62 | 1.12 (1.00 to 1.25) | 2.50 | 1.75 (1.50 to 2.00) "
        "| 1.00 | 1.00 (1.00 to 1.00) | 1.50 | 1.50 (1.50 to 1.50) |"
    )


@pytest.mark.parametrize(("busy_first", "order"), [(False, ["alone", "busy"]), (True, ["busy", "alone"])])
def test_the_busy_process_runs_in_one_part_of_the_steps(monkeypatch, busy_first, order):
    monkeypatch.setattr(bench.busy, "PART_SECONDS", 0.0)
    times, parts = AlternatingSteps(busy_first), []
    for _ in range(WARMUP_STEPS):
        times.end_step(0)
    for _ in range(2):
        parts.append((times.part, times.neighbour is not None and times.neighbour.poll() is None))
        if len(parts) < 2:
            times.end_step(0)
    assert parts == [(part, part == "busy") for part in order]
    with pytest.raises(EnoughError):
        times.end_step(0)
    assert times.neighbour is None
    assert {part: len(times.found[part]) for part in order} == {"alone": 1, "busy": 1}


def test_every_setting_starts_without_openmp_variables(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.busy.os, "environ", {"OMP_NUM_THREADS": "7"})
    calls = []
    monkeypatch.setattr(bench.busy, "run_side", lambda side, given, environment=None: (
        calls.append((side, given.get("busy_first"), environment, "OMP_NUM_THREADS" in bench.busy.os.environ))
        or figures(1.0, 2.0)
    ))  # fmt: skip
    given = [UNCHANGED, "GOMP_SPINCOUNT=1000"]
    for rounds in (1, 2):  # the second call continues
        bench.busy.main(given, rounds, tmp_path)
    inputs = ("bench.busy:make_inputs", None, None, False)
    side, one = "bench.busy:measure", SETTINGS["GOMP_SPINCOUNT=1000"]
    assert calls == [
        inputs, (side, False, {}, False), (side, False, one, False),
        inputs, (side, True, one, False), (side, True, {}, False),
    ]  # fmt: skip
    assert "| GOMP_SPINCOUNT=1000 | 1.00 | 1.00 (1.00 to 1.00) | 2.00 |" in capsys.readouterr().out


def test_both_stages_are_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(bench.busy, "PART_SECONDS", 0.0)
    make_inputs(str(tmp_path))
    found = measure(str(tmp_path), busy_first=True)
    names = {f"{stage}_{part}" for stage in ("ppo", "sft") for part in ("alone", "busy", "others")}
    assert found.keys() == names
    assert all(found[name] > 0 for name in names if not name.endswith("others"))
