"""The progress of parts of the work that are no steps."""

from engine.run.console import Steps


def test_a_log_gets_a_line_occasionally_with_the_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("engine.run.console.time.monotonic", lambda: now[0])
    steps = Steps("rm", 15, 15)
    with steps.part("evaluation", 400) as show:
        for done, at in ((100, 105.0), (200, 112.0), (300, 118.0), (400, 124.0)):
            now[0] = at
            show(done)
    # 12 s for 200 of 400; the next line is due 10 s after it.
    assert capsys.readouterr().out == "rm evaluation 200/400  12 s left\nrm evaluation 400/400  0 s left\n"


def test_ranks_that_do_not_speak_are_silent(monkeypatch, capsys):
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", -1.0)
    with Steps("rm", 1, enabled=False).part("evaluation", 2) as show:
        show(2)
    assert capsys.readouterr().out == ""
