"""Progress of parts of a run outside of its steps, such as evaluation."""

from engine.run.console import Steps


def test_without_a_terminal_a_line_every_10_seconds_shows_the_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("engine.run.console.time.monotonic", lambda: now[0])
    steps = Steps("rm", 15, 15)
    with steps.part("evaluation", 400) as show:
        for done, at in ((100, 105.0), (200, 112.0), (300, 118.0), (400, 124.0)):
            now[0] = at
            show(done)
    # 200 of 400 took 12 s; the next line is due 10 s later.
    assert capsys.readouterr().out == "rm evaluation 200/400  12 s left\nrm evaluation 400/400  0 s left\n"


def test_a_disabled_rank_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", -1.0)
    with Steps("rm", 1, enabled=False).part("evaluation", 2) as show:
        show(2)
    assert capsys.readouterr().out == ""
