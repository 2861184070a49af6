"""Published data sets, read whole: what is kept of them, and what is trained on."""

import pytest

from chatml import IGNORE
from tests.support.paths import DATA
from tests.support.rows_setting import conversation_rows, pair_rows, prompt_rows, recipe
from tests.support.tokenizers import qwen

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


@pytest.mark.parametrize("tools", ["hermes", "react"])
def test_glaive_trains_on_what_the_assistant_says(tools):
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
def test_published_sets_are_kept(file, make):
    """The test tokenizer writes about a token a character and a half; a real one needs a third of this length."""
    limit = {"max_prompt_tokens": 2048} if make is prompt_rows else {"max_length": 4096}
    _, report = make({"path": str(DATA / file), "take": 500}, recipe(), qwen(), key="data.train", **limit)
    assert report.kept >= 0.95 * report.read > 0
