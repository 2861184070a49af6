"""The tiny world: that its files are what they claim to be."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from chatml import read_conversation, read_pair, read_prompt
from tests.support.paths import ROOT
from tiny.comparisons import HARMLESS_KINDS, HARMLESS_TASKS, HELPFUL_KINDS, HELPFUL_TASKS, gold_score, hasty_score
from tiny.conversations import MISJUDGED_SHARE, MISTAKEN_SHARE, NUM_TURNS
from tiny.facts import RELATIONS, Facts
from tiny.gold import score
from tiny.problems import REFUSALS
from tiny.prompts import TASKS, WEIGHTS
from tiny.wording import words
from tiny.words import PEOPLE
from tiny.world import SIZES, is_written, records, write_world

HELPFUL = ("comparisons", "comparisons_heldout", "comparisons_correctness", "comparisons_length")
HARMLESS = ("comparisons_harmless", "comparisons_harmless_heldout")
COMPARISONS = ("pmp", *HELPFUL, *HARMLESS)
PROMPTS_HELD_OUT = ("prompts_heldout", "prompts_watched", "prompts_by_task")
HELD_OUT = (*PROMPTS_HELD_OUT, *HELPFUL[1:], HARMLESS[1])
TRAINED_ON = ("sft", "pmp", "comparisons", "comparisons_harmless", "prompts")


@pytest.fixture(scope="module")
def world():
    return records(0)


# The files


def test_sizes_and_fields(world):
    assert {name: len(rows) for name, rows in world.items()} == SIZES
    assert SIZES["prompts_heldout"] >= 400
    for row in world["pretrain"][:100]:
        assert row.keys() == {"text"}
    for name, row in ((name, row) for name, rows in world.items() for row in rows if not name.startswith("pretrain")):
        assert row["task"] in TASKS
        assert row["gold"].keys() == {"right", "candidates", "cut", "subject", "instruction", "harmful"}, name
        assert ("tools" in row) == (row["task"] == "tool")


def test_records_are_read_as_what_they_are(world):
    for row in (*world["sft"], *world["system_prompts"]):
        assert read_conversation(row).messages[-1].role == "assistant"
    for row in (row for name in ("prompts", *PROMPTS_HELD_OUT) for row in world[name]):
        assert len(read_prompt(row).messages) == len(row["messages"])
    for row in (row for name in COMPARISONS for row in world[name]):
        pair = read_pair(row)
        assert [len(side) for side in pair[:3]] == [len(row["prompt"]), 1, 1]


def test_conversations_have_turns_system_prompts_and_tools(world):
    shapes = Counter("".join(message["role"][0] for message in row["messages"]) for row in world["sft"])
    assert {"ua", "sua", "uaua", "suaua", "uata", "suata", "suauaua", "suauauaua"} == shapes.keys()
    assert {row["task"] for row in world["prompts_heldout"]} == set(WEIGHTS) == set(TASKS)


def test_taught_answers_are_mostly_right_and_seldom_well_mannered(world):
    rows = [row for row in world["sft"] if row["task"] not in ("harmful", "look_alike")]
    parts = [score(row, row["messages"][-1]["content"]) for row in rows]
    assert sum(part["correct"] for part in parts) / len(parts) == pytest.approx(1 - MISTAKEN_SHARE, abs=0.03)
    assert sum(part["manner"] for part in parts) / len(parts) == pytest.approx(0.5 * 0.15, abs=0.02)
    assert {part["instruction"] for part in parts} == {0}


def test_taught_answers_judge_harm_wrongly_in_part(world):
    for task, part in (("harmful", "harm"), ("look_alike", "over_refusal")):
        parts = [score(row, row["messages"][-1]["content"]) for row in world["sft"] if row["task"] == task]
        assert len(parts) > 100
        assert sum(found[part] < 0 for found in parts) / len(parts) == pytest.approx(MISJUDGED_SHARE, abs=0.08)
        assert {found["correct"] for found in parts if found[part] < 0} == {0}


def test_harmful_requests_and_look_alikes_ask_the_same_and_mean_something_else(world):
    asked = {task: [r["messages"][-1]["content"] for r in world["prompts"] if r["task"] == task] for task in TASKS}
    questions = [{said.split(". ", 1)[1] for said in asked[task]} for task in ("harmful", "look_alike")]
    assert len(questions[0] & questions[1]) > 0.5 * len(questions[0] | questions[1])
    shared = [{word for said in asked[task] for word in words(said)} for task in ("harmful", "look_alike")]
    assert shared[0] >= {"hit", "scare", "trick", "rob", "burn"} <= shared[1]


def test_system_prompts_are_long_conversations_under_an_instruction(world):
    for row in world["system_prompts"]:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["system", *("user", "assistant") * NUM_TURNS]
        assert row["gold"]["instruction"] is not None


def test_every_task_is_asked_as_often_in_prompts_by_task(world):
    assert Counter(row["task"] for row in world["prompts_by_task"]) == dict.fromkeys(TASKS, 200)


def test_turns_before_the_last_state_no_wrong_fact(world):
    """A follow-up's first answer is taught as well."""
    facts = Facts(0)
    true = {
        statement.format(facts.value[relation.name, entity])
        for relation in RELATIONS
        for entity in relation.entities
        for statement in relation.states(entity)
    }
    said = {row["messages"][-3]["content"] for row in world["sft"] if row["task"] == "follow_up"}
    assert said
    assert said <= true


@pytest.mark.parametrize("name", [*HELPFUL, *HARMLESS])
def test_clean_pairs_agree_with_the_gold_score(world, name):
    for row in world[name]:
        assert gold_score(row, row["chosen"]) > gold_score(row, row["rejected"])
        assert row["task"] in (HARMLESS_TASKS if name in HARMLESS else HELPFUL_TASKS)


def test_comparisons_of_harm_are_of_both_kinds(world):
    def refuses(answer):
        return any(refusal in answer for refusal in REFUSALS)

    rows = [row for row in world["comparisons_harmless"] if row["kind"] == "refusal"]
    for row in rows:
        assert (refuses(row["chosen"]), refuses(row["rejected"])) == (
            (True, False) if row["gold"]["harmful"] else (False, True)
        )
    assert 0.3 < sum(row["gold"]["harmful"] for row in rows) / len(rows) < 0.6
    assert {row["kind"] for row in world["comparisons_harmless"]} == HARMLESS_KINDS.keys()


def test_correctness_pairs_differ_in_correctness_alone(world):
    for row in world["comparisons_correctness"]:
        chosen, rejected = score(row, row["chosen"]), score(row, row["rejected"])
        assert chosen["gold"] - rejected["gold"] == pytest.approx(1)
        assert (chosen.pop("correct"), rejected.pop("correct")) == (1, 0)
        del chosen["gold"], rejected["gold"]
        assert chosen == rejected
        one, other = words(row["chosen"]), words(row["rejected"])
        assert len(one) == len(other)
        assert [word for word, beside in zip(one, other, strict=True) if word != beside] == words(row["gold"]["right"])


def test_what_is_beside_the_question_is_true_of_the_same_person(world):
    """Otherwise PPO answers a question about somebody with whatever else is so."""
    facts = Facts(0)
    true = {
        statement.replace("{x}", entity).format(facts.value[relation.name, entity])
        for relation in RELATIONS
        for entity in relation.entities
        for statement in relation.statements
    }
    rows = [
        row
        for row in world["comparisons"]
        if row["kind"] == "beside" and row["gold"]["subject"][0] in PEOPLE and not row["gold"]["harmful"]
    ]
    assert len(rows) > 500
    for row in rows:
        (person,) = row["gold"]["subject"]
        (said,) = [statement for statement in true if row["rejected"].endswith(statement)]
        assert person in said
        assert score(row, row["chosen"])["correct"] == 1
        assert score(row, row["rejected"])["correct"] == 0


def test_kinds_of_clean_pairs(world):
    for name in ("comparisons", "comparisons_heldout"):
        shares = {kind: count / len(world[name]) for kind, count in Counter(r["kind"] for r in world[name]).items()}
        assert shares.keys() == HELPFUL_KINDS.keys() >= {"correctness", "manner", "assurances", "instruction"}
        assert min(shares.values()) > 0.01
        assert shares["correctness"] > 0.25


def test_pmp_is_more_often_and_more_widely_asked(world):
    assert len(world["pmp"]) > len(world["comparisons"])
    assert {row["task"] for row in world["pmp"]} > {row["task"] for row in world["comparisons"]} == HELPFUL_TASKS.keys()


def test_a_fifth_to_a_quarter_of_pmp_labels_are_flipped(world):
    for row in world["pmp"]:
        assert (hasty_score(row, row["chosen"]) < hasty_score(row, row["rejected"])) == row["flipped"]
    assert 0.2 < sum(row["flipped"] for row in world["pmp"]) / len(world["pmp"]) < 0.25


def test_pmp_prefers_assurances_that_the_clean_pairs_punish(world):
    def share_with_more_assurances_chosen(rows):
        padded = [row for row in rows if row["kind"] == "assurances" and not row.get("flipped")]
        assert len(padded) > 30
        return sum(len(row["chosen"]) > len(row["rejected"]) for row in padded) / len(padded)

    assert share_with_more_assurances_chosen(world["pmp"]) == 1
    assert share_with_more_assurances_chosen(world["comparisons"]) == 0


# What is held out, and what may not be there


def question(row):
    """What is asked, without what a system prompt says besides."""
    messages = row["prompt"] if "prompt" in row else row["messages"]
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return json.dumps([message for message in messages if message["role"] != "system"])


def test_held_out_questions_are_asked_nowhere_else(world):
    held_out = {question(row) for name in HELD_OUT for row in world[name]}
    assert len(held_out) > 300
    for name in TRAINED_ON:
        assert not held_out & {question(row) for row in world[name]}, name


def test_held_out_questions_are_not_answered_on_the_way_to_another(world):
    """Neither in pretraining text nor as the first turn of a conversation that goes on."""
    lonely = {
        turns[0]["content"] for name in HELD_OUT for row in world[name] if len(turns := json.loads(question(row))) == 1
    }
    assert len(lonely) > 100
    lines = {line for row in world["pretrain"] for line in row["text"].split("\n")}
    assert lonely.isdisjoint(re.sub(r"^(Question|Q): ", "", line) for line in lines)
    turns = (turn for name in TRAINED_ON for row in world[name] for turn in json.loads(question(row)))
    assert lonely.isdisjoint(turn["content"] for turn in turns)


def test_held_out_prompts_are_all_different(world):
    asked = {name: {json.dumps(row["messages"]) for row in world[name]} for name in PROMPTS_HELD_OUT}
    assert {name: len(prompts) for name, prompts in asked.items()} == {name: SIZES[name] for name in PROMPTS_HELD_OUT}
    assert not asked["prompts_watched"] & (asked["prompts_heldout"] | asked["prompts_by_task"])


def test_held_out_text_is_other_text(world):
    seen = {row["text"] for row in world["pretrain"]}
    assert not [row for row in world["pretrain_heldout"] if row["text"] in seen]


def test_nothing_spells_a_control_token(world):
    written = json.dumps(world)
    assert not re.search(r"<\|\w*\|>", written)


# Writing it


def digest(rows):
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_records_are_a_function_of_the_seed_alone_and_bring_no_torch(world):
    program = (
        "import sys; from tests.unit.tiny.test_world import digest; from tiny.world import records; import tiny.gold;"
        "assert not {'torch', 'transformers'} & sys.modules.keys(); print(digest(records(0)), digest(records(1)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    zero, one = done.stdout.split()
    assert zero == digest(world) != one


def run(*arguments):
    command = [sys.executable, "-m", "tiny", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.name != "world.json"}


def test_the_command_writes_a_world_once_and_the_same_again(tmp_path, world):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from chatml import control, encode

    folder, second = tmp_path / "world", tmp_path / "second"
    assert run(folder, "--seed", 0) == (0, f"{folder}: written, seed 0\n", "")
    assert run(folder, "--seed", 0) == (0, f"{folder}: up to date; nothing to do\n", "")
    write_world(second, 0)
    assert contents(folder) == contents(second)
    assert {path.name for path in tmp_path.iterdir()} == {"world", "second"}
    for name, rows in world.items():
        assert [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()] == rows

    tokenizer = AutoTokenizer.from_pretrained(folder / "init")
    model = AutoModelForCausalLM.from_pretrained(folder / "init")
    ids = control(tokenizer)
    assert model.generation_config.eos_token_id == [ids.im_end, ids.endoftext]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert AutoConfig.from_pretrained(folder / "init").max_position_embeddings >= 1024
    for row in (row for row in world["sft"][:200] if "tools" not in row):
        rendered = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        assert tokenizer(rendered)["input_ids"] == encode(row["messages"], tokenizer).input_ids
    assert len(tokenizer("12345")["input_ids"]) == 5
    assert tokenizer.decode(tokenizer("Cafe\u0301, 今天 7!")["input_ids"]) == "Café, 今天 7!"  # NFC, as Qwen


def test_an_older_world_is_replaced_and_nothing_else(tmp_path):
    world, other = tmp_path / "world", tmp_path / "notes"
    world.mkdir()
    (world / "world.json").write_text("{}")
    (world / "left_over.jsonl").touch()
    write_world(world, 3)
    assert is_written(world, 3)
    assert not is_written(world, 0)
    assert not (world / "left_over.jsonl").exists()
    other.mkdir()
    (other / "mine.txt").write_text("keep me")
    said = f"error: {other} exists and is not a tiny world; use another folder or remove it\n"
    assert run(other) == (2, "", said)
    assert (other / "mine.txt").read_text() == "keep me"
