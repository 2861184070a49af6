"""The account of what became of records: counts, lengths, what is printed and what the run folder holds."""

import json

from engine.data.report import Report


def test_the_account_in_one_line_and_in_the_run_folder():
    report = Report(read=1000)
    report.keep(tokens=90, whole=120, trained=40)
    report.keep(tokens=5000, whole=5000, trained=4999, rows=3)
    report.drop("too long", 700)
    report.drop("too long", 300)
    report.drop("equal sides", 1)
    assert report.line("train") == (
        "train: 2 of 1,000 records kept (1 cut) in 4 rows, 3 dropped (2 too long, 1 equal sides); "
        "5,090 tokens, 5,039 trained on, 1,031 lost"
    )
    assert json.loads(json.dumps(report.as_dict())) == {
        "read": 1000,
        "kept": 2,
        "cut": 1,
        "dropped": {"too long": 2, "equal sides": 1},
        "rows": 4,
        "tokens": 5090,
        "trained_tokens": 5039,
        "lost_tokens": 1031,
    }
