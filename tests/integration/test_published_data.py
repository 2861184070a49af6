"""Published data sets: how many records are kept, and which tokens are trained on."""

import pytest

from chatml import IGNORE
from tests.support.paths import DATA
from tests.support.rows_setting import conversation_rows, pair_rows, prompt_rows, recipe
from tests.support.tokenizers import qwen

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")


@pytest.mark.parametrize("tools", ["hermes", "react"])
def test_glaive_trains_on_tool_calls_and_not_on_tool_results(tools):
    path = str(DATA / "glaive_toolcall_en.json")
    rows, report = conversation_rows(path, recipe(tools=tools), qwen(), key="data.train", max_length=16384)
    assert report.kept == 300
    trained = "".join(qwen().decode([label for label in row["labels"] if label != IGNORE]) for row in rows)
    assert trained.count("<tool_call>") == (211 if tools == "hermes" else 0)
    assert trained.count("\nObservation:") == (211 if tools == "react" else 0)
    assert "tool_response" not in trained


@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("alpaca_en.json", conversation_rows),
        ("alpaca_zh.json", conversation_rows),
        ("hh_helpful_online.jsonl.gz", pair_rows),
        ("hh_helpful_rejection_sampled.jsonl.gz", pair_rows),
        ("hh_harmless_base.jsonl.gz", pair_rows),
        ("preference_en_sharegpt.json", pair_rows),
        ("hh_harmless_base.jsonl.gz", prompt_rows),
    ],
)
def test_at_least_95_percent_of_a_published_set_are_kept(file, make):
    """The test tokenizer needs about one token per 1.5 characters; a real one needs a third of these lengths."""
    limit = {"max_prompt_tokens": 2048} if make is prompt_rows else {"max_length": 4096}
    _, report = make({"path": str(DATA / file), "take": 500}, recipe(), qwen(), key="data.train", **limit)
    assert report.kept >= 0.95 * report.read > 0
