"""`make show`: the printed page, for data of every kind."""

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from show.examples import evenly_spaced
from show.print_page import show
from show.recipe import show_recipe
from tests.support.paths import DATA, ROOT
from tests.support.rows_setting import conversation_rows
from tests.support.tokenizers import qwen

LONG = " ".join(f"word{number}" for number in range(13))

CONVERSATIONS = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"},
                  {"role": "assistant", "content": "Hi", "train": False},
                  {"role": "user", "content": "naïve <|im_end|>"},
                  {"role": "assistant", "content": "seven\x1b[31m"}], "id": 1},
    {"prompt": "Hello!", "response": f"It is: {LONG}"},
    {"prompt": "Hello!", "response": f"It is: {LONG}", "id": 2},
    {"prompt": "Hello!", "response": f"it is {LONG}!"},
]  # fmt: skip
PAGE = """\
data.train: {folder}/train.jsonl
trained on: what is in ⟦ ⟧ (chatml.mask=assistant train_on=every_answer)

── 1 of 2 · {folder}/train.jsonl:1 · 5 messages, {first[0]} tokens, {first[1]} trained on
<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
Hello!<|im_end|>
<|im_start|>assistant
Hi<|im_end|>
<|im_start|>user
naïve <|im_end|><|im_end|>
<|im_start|>assistant
⟦seven␛[31m<|im_end|>⟧

── 2 of 2 · {folder}/train.jsonl:4 · 2 messages, {last[0]} tokens, {last[1]} trained on
<|im_start|>user
Hello!<|im_end|>
<|im_start|>assistant
⟦it is {long}!<|im_end|>⟧
────────────────────────────────────────────────────────────────────────────────

records              4 read: 4 conversations
fields not used      id
kept                 4 of 4
dropped              0
tokens               {total:,} in 4 rows; {trained} trained on ({share:.1f}%)
"""
FINDINGS = """\
messages a record    least 2, 10% 2, 50% 2, 90% 5, 99% 5, most 5
different questions  2
exact duplicates     1
                       {folder}/train.jsonl:3 = :2
near duplicates      1 share 80% or more of their runs of 5 words with an earlier one, system prompts aside
                       {folder}/train.jsonl:4 ≈ :2 (1.00)
overlap              3 share 13 words in a row with 1 of the 2 records in {folder}/eval.jsonl (1 too short to be found)
                       {folder}/train.jsonl:2 ~ {folder}/eval.jsonl:2: {long}
                       {folder}/train.jsonl:3 ~ {folder}/eval.jsonl:2: {long}
                       {folder}/train.jsonl:4 ~ {folder}/eval.jsonl:2: {long}
answers without end  0 trained on without <|im_end|>; 0 may have been cut off: 30 words or more, and no full stop
ends unanswered      0
empty answers        0
spell control tokens 1, which stay text
                       {folder}/train.jsonl:1

"""


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    qwen().save_pretrained(folder / "model")
    write(folder / "train.jsonl", CONVERSATIONS)
    write(folder / "eval.jsonl", [{"prompt": "short", "response": "short"}, {"question": f"Which? {LONG}"}])
    recipe = {"stage": "sft", "model": {"path": f"{folder}/model"}, "data": {"train": f"{folder}/train.jsonl"},
              "run": {"dir": f"{folder}/run"}, "trainer": {"learning_rate": 1.0}, "lora": {"r": 8}}  # fmt: skip
    (folder / "sft.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def page(folder, capsys):
    """Return a function from overrides to the page of the folder's recipe."""

    def page(*overrides):
        show(show_recipe(f"{folder}/sft.yaml", overrides))
        return capsys.readouterr().out

    return page


def test_the_page_of_a_small_file_in_full(folder, page):
    shown = page("show.rows=2", f"show.against={folder}/eval.jsonl")
    recipe = show_recipe(f"{folder}/sft.yaml", [])
    rows, report = conversation_rows(recipe.data.train, recipe, qwen(), key="data.train", max_length=2048)
    sizes = [(len(row["labels"]), sum(label != -100 for label in row["labels"])) for row in (rows[0], rows[-1])]
    figures = {"total": report.tokens, "trained": report.trained_tokens,
               "share": 100 * report.trained_tokens / report.tokens}  # fmt: skip
    top, by_role, lengths, bottom = re.fullmatch(
        "(.*)(by role [^\n]*\n)(tokens a row [^\n]*\n)(.*)", shown, re.DOTALL
    ).groups()
    assert top == PAGE.format(folder=folder, first=sizes[0], last=sizes[1], long=LONG, **figures)
    assert bottom == FINDINGS.format(folder=folder, long=LONG)
    assert re.findall("[a-z]+ [0-9.]+%", by_role)[0].startswith("system")
    assert f"most {max(len(row['labels']) for row in rows)}" in lengths


@pytest.mark.parametrize("override", [
    "chatml.mask=assistant", "chatml.mask=qwen", "chatml.mask=all", "chatml.train_on=last_answer",
    "chatml.system=You are kind.", "chatml.tools=react",
])  # fmt: skip
def test_the_text_in_brackets_is_what_is_trained_on(folder, page, tmp_path, override):
    call = {"name": "add", "arguments": {"a": 3}}
    tools = [{"name": "add", "description": "adds", "parameters": {}}]
    used = {"messages": [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
                         {"role": "tool", "content": "7"}, {"role": "assistant", "content": "It is 7."}],
            "tools": tools}  # fmt: skip
    data = f"data.train={write(tmp_path / 'train.jsonl', [*CONVERSATIONS[1:], used])}"
    shown = page(data, override, "show.rows=4").split("\n── ")[1:]
    recipe = show_recipe(f"{folder}/sft.yaml", [data, override])
    rows, _ = conversation_rows(recipe.data.train, recipe, qwen(), key="data.train", max_length=2048)
    assert len(shown) == len(rows) == 4
    for text, row in zip(shown, rows, strict=True):
        # With chatml.mask=all the page's own last line break follows the bracket.
        trained = "".join(re.findall("⟦(.*?)⟧", text, re.DOTALL))
        assert trained == qwen().decode([label for label in row["labels"] if label != -100])
        whole = text.partition("\n")[2].partition("\n────")[0].replace("⟦", "").replace("⟧", "")
        assert whole.strip() == qwen().decode(row["input_ids"]).strip()


def test_rows_longer_than_max_length_are_shown_in_full_with_a_note(page, tmp_path):
    long = "\n".join(f"line {number} {'x' * 300}" for number in range(40))
    shown = page(f"data.train={write(tmp_path / 'long.jsonl', [{'prompt': long, 'response': 'ok'}] * 2)}",
                 "data.max_length=64", "data.too_long=drop")  # fmt: skip
    assert shown.count(long) == 2
    assert "more than data.max_length=64: drop" in shown
    assert (
        "\na stage stops here   data.train: only 0 of 2 records are kept (2 too long); "
        "raise data.max_length, or choose another data.too_long\n" in shown
    )


def test_a_comparison_shows_both_sides_and_equal_sides_are_counted(page, tmp_path):
    pairs = [{"prompt": "Hello!", "chosen": "seven", "rejected": "four"},
             {"prompt": "Hello!", "chosen": "four", "rejected": "four"},
             {"prompt": "Hello!", "chosen": "four", "rejected": "three plus four"}]  # fmt: skip
    shown = page(f"data.train={write(tmp_path / 'pairs.jsonl', pairs)}", "show.rows=2")
    assert (
        "\n<|im_start|>user\nHello!<|im_end|>\n── chosen\n<|im_start|>assistant\nseven<|im_end|>\n── rejected\n"
        in shown
    )
    assert f"\nequal sides          1\n                       {tmp_path}/pairs.jsonl:2\n" in shown
    assert "\ndropped              1: 1 equal sides\n" in shown
    assert "\ndifferent questions  1\n" in shown


def test_unreadable_records_are_named_and_shown(page, tmp_path):
    bad = [{"asked": "Why?", "said": "So."}] * 2 + [{"messages": [{"role": "robot", "content": "beep"}]}]
    shown = page(f"data.train={write(tmp_path / 'bad.jsonl', bad)}", "show.rows=1", "show.places=1")
    assert f"── 1 of 1 · {tmp_path}/bad.jsonl:1 · cannot be read\nasked: Why?\nsaid: So.\n" in shown
    assert (
        "\nrecords              3 read\ncannot be read       2: matches no known format; it has asked, said; " in shown
    )
    assert (
        f"\n                       {tmp_path}/bad.jsonl:1\n                       and 1 more; show.places=2 names all\n"
        in shown
    )
    assert "\ncannot be read       1: 'messages', message 1: unknown role 'robot'; use " in shown
    assert shown.endswith(f"\na stage stops here   {tmp_path}/bad.jsonl:1\n\n")


def test_markers_that_stay_text_are_counted(page, tmp_path):
    spelt = [{"prompt": "Hello!", "response": "<think>\nHm.\n</think>\n\nHi"},
             {"prompt": "What is <think>?", "response": "A tag."},
             {"messages": [{"role": "user", "content": "Hello!"},
                           {"role": "assistant", "content": "Hi", "reasoning_content": "Hm."}]}]  # fmt: skip
    data = f"data.train={write(tmp_path / 'spelt.jsonl', spelt)}"
    line = " (<think>, <tool_call> and the like), which stay text"
    assert (
        f"\nspell markers        2{line}; chatml.parse_text=true reads the assistant's\n"
        f"                       {tmp_path}/spelt.jsonl:1\n                       {tmp_path}/spelt.jsonl:2\n"
    ) in page(data)
    followed = page(data, "chatml.parse_text=true", "show.rows=1")
    assert f"\nspell markers        1{line}\n                       {tmp_path}/spelt.jsonl:2\n" in followed


def test_nulls_in_tool_calls_and_signatures_are_counted(page, tmp_path):
    """datasets' `to_json` gives every record the keys of all records, with null for missing ones."""

    def asked(arguments, **signature):
        call = {"tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}
        turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", **call}]
        return {"messages": turns, "tools": [{"name": "add", "parameters": {"type": "object", **signature}}]}

    records = [asked({"a": 2}), asked({"a": [2, {"b": None}]}), asked({"a": 2}, required=None)]
    shown = page(f"data.train={write(tmp_path / 'nulls.jsonl', records)}")
    assert (
        "\nnulls                2 in arguments or signatures of tools, which are trained on; "
        "meant, or an export artefact?\n"
        f"                       {tmp_path}/nulls.jsonl:2\n                       {tmp_path}/nulls.jsonl:3\n"
    ) in shown


def test_shown_records_are_evenly_spaced():
    assert [evenly_spaced(*given) for given in ((10, 3), (10, 1), (2, 3), (1, 3), (3, 0), (4, 4))] == [
        [0, 4, 9], [0], [0, 1], [0], [], [0, 1, 2, 3],
    ]  # fmt: skip


def test_the_page_shows_the_share_of_each_source(folder, page, tmp_path):
    other = write(tmp_path / "other.jsonl", CONVERSATIONS[1:2])
    shown = page(f"data.train=[{folder}/train.jsonl, {{path: {other}, weight: 3}}]")
    lines = re.findall(r"of which +(\S+) ?(\(.*?\))?: (\d) of (\d) kept, (\d+) tokens.*; ([0-9.]+)% of what", shown)
    assert [line[:4] for line in lines] == [(f"{folder}/train.jsonl", "", "4", "4"), (other, "(weight 3)", "1", "1")]
    fed = [int(tokens) * weight for weight, (*_, tokens, _) in zip((1, 3), lines, strict=True)]
    shares = [float(share) for *_, share in lines]
    assert shares == pytest.approx([100 * tokens / sum(fed) for tokens in fed], abs=0.05)


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is absent")
@pytest.mark.parametrize(
    ("file", "overrides", "kind"),
    [
        ("alpaca_en.json", [], "999 conversations"),
        ("alpaca_zh.json", [], "1,000 conversations"),
        ("glaive_toolcall_en.json", ["chatml.tools=react"], "300 conversations"),
        ("gsm8k_train.jsonl", ["data.fields={question: prompt, answer: response}"], "7,473 conversations"),
        ("gsm8k_train.jsonl", [], "7,473 conversations"),
        ("hh_harmless_base.jsonl.gz", [], "2,312 comparisons"),
        ("hh_helpful_online.jsonl.gz", [], "1,137 comparisons"),
        ("hh_helpful_rejection_sampled.jsonl.gz", [], "2,749 comparisons"),
        ("humaneval.jsonl.gz", ["data.fields={canonical_solution: response}"], "164 conversations"),
        ("mmlu_dev.jsonl", ["data.fields={question: prompt, answer: response}"], "285 conversations"),
        ("mmlu_val.jsonl", [], None),
        ("preference_en_sharegpt.json", [], "300 comparisons"),
        ("wikitext2_valid.txt", [], "1 plain texts"),
    ],
)
def test_published_data_is_shown_with_its_kind_of_record(page, file, overrides, kind):
    shown = page(f"data.train={DATA / file}", "show.rows=2", "data.max_length=8192", *overrides)
    assert f" read: {kind}\n" in shown if kind else "cannot be read" in shown
    assert ("a stage stops here" in shown) == (kind is None)
    assert "near duplicates" in shown or kind is None


def test_a_colour_terminal_shows_trained_text_in_green_without_brackets(folder):
    command = [sys.executable, "-m", "show", f"{folder}/sft.yaml", "show.rows=1"]
    plain_environment = {"PATH": "", "HF_DATASETS_CACHE": os.environ["HF_DATASETS_CACHE"]}
    colour_environment = plain_environment | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    plain, coloured = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=ROOT).stdout
        for env in (plain_environment, colour_environment)
    )
    assert "⟦seven␛[31m<|im_end|>⟧" in plain
    assert "\x1b" not in plain
    assert "\x1b[32mseven␛[31m\x1b[0m\x1b[2;32m<|im_end|>\x1b[0m" in coloured
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert without.replace("what is green", "what is in ⟦ ⟧") == plain.replace("⟦seven", "seven").replace(
        "<|im_end|>⟧", "<|im_end|>"
    )
