"""The files of the tiny world have the documented contents, and held-out data is not in the training data."""

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


def test_files_have_the_listed_sizes_and_fields(world):
    assert {name: len(rows) for name, rows in world.items()} == SIZES
    assert SIZES["prompts_heldout"] >= 400
    for row in world["pretrain"][:100]:
        assert row.keys() == {"text"}
    for name, row in ((name, row) for name, rows in world.items() for row in rows if not name.startswith("pretrain")):
        assert row["task"] in TASKS
        assert row["gold"].keys() == {"right", "candidates", "cut", "subject", "instruction", "harmful"}, name
        assert ("tools" in row) == (row["task"] == "tool")


def test_every_file_can_be_read_as_its_kind_of_record(world):
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


def test_sft_answers_are_mostly_right_and_seldom_courteous(world):
    rows = [row for row in world["sft"] if row["task"] not in ("harmful", "look_alike")]
    parts = [score(row, row["messages"][-1]["content"]) for row in rows]
    assert sum(part["correct"] for part in parts) / len(parts) == pytest.approx(1 - MISTAKEN_SHARE, abs=0.03)
    assert sum(part["manner"] for part in parts) / len(parts) == pytest.approx(0.5 * 0.15, abs=0.02)
    assert {part["instruction"] for part in parts} == {0}


def test_some_sft_answers_misjudge_harm(world):
    for task, part in (("harmful", "harm"), ("look_alike", "over_refusal")):
        parts = [score(row, row["messages"][-1]["content"]) for row in world["sft"] if row["task"] == task]
        assert len(parts) > 100
        assert sum(found[part] < 0 for found in parts) / len(parts) == pytest.approx(MISJUDGED_SHARE, abs=0.08)
        assert {found["correct"] for found in parts if found[part] < 0} == {0}


def test_harmful_requests_and_look_alikes_share_questions_and_verbs(world):
    prompts = {task: [r["messages"][-1]["content"] for r in world["prompts"] if r["task"] == task] for task in TASKS}
    questions = [{text.split(". ", 1)[1] for text in prompts[task]} for task in ("harmful", "look_alike")]
    assert len(questions[0] & questions[1]) > 0.5 * len(questions[0] | questions[1])
    shared = [{word for text in prompts[task] for word in words(text)} for task in ("harmful", "look_alike")]
    assert shared[0] >= {"hit", "scare", "trick", "rob", "burn"} <= shared[1]


def test_system_prompts_are_long_conversations_under_an_instruction(world):
    for row in world["system_prompts"]:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["system", *("user", "assistant") * NUM_TURNS]
        assert row["gold"]["instruction"] is not None


def test_prompts_by_task_has_200_prompts_of_every_task(world):
    assert Counter(row["task"] for row in world["prompts_by_task"]) == dict.fromkeys(TASKS, 200)


def test_earlier_turns_of_sft_conversations_state_true_facts(world):
    """The first answer of a follow-up conversation is trained on too."""
    facts = Facts(0)
    true_statements = {
        statement.format(facts.value[relation.name, entity])
        for relation in RELATIONS
        for entity in relation.entities
        for statement in relation.states(entity)
    }
    first_answers = {row["messages"][-3]["content"] for row in world["sft"] if row["task"] == "follow_up"}
    assert first_answers
    assert first_answers <= true_statements


@pytest.mark.parametrize("name", [*HELPFUL, *HARMLESS])
def test_chosen_sides_of_comparisons_have_the_higher_gold_score(world, name):
    for row in world[name]:
        assert gold_score(row, row["chosen"]) > gold_score(row, row["rejected"])
        assert row["task"] in (HARMLESS_TASKS if name in HARMLESS else HELPFUL_TASKS)


def test_harmless_comparisons_prefer_refusals_only_of_harmful_requests(world):
    def refuses(answer):
        return any(refusal in answer for refusal in REFUSALS)

    rows = [row for row in world["comparisons_harmless"] if row["kind"] == "refusal"]
    for row in rows:
        assert (refuses(row["chosen"]), refuses(row["rejected"])) == (
            (True, False) if row["gold"]["harmful"] else (False, True)
        )
    assert 0.3 < sum(row["gold"]["harmful"] for row in rows) / len(rows) < 0.6
    assert {row["kind"] for row in world["comparisons_harmless"]} == HARMLESS_KINDS.keys()


def test_correctness_pairs_differ_in_correctness_only(world):
    for row in world["comparisons_correctness"]:
        chosen, rejected = score(row, row["chosen"]), score(row, row["rejected"])
        assert chosen["gold"] - rejected["gold"] == pytest.approx(1)
        assert (chosen.pop("correct"), rejected.pop("correct")) == (1, 0)
        del chosen["gold"], rejected["gold"]
        assert chosen == rejected
        one, other = words(row["chosen"]), words(row["rejected"])
        assert len(one) == len(other)
        assert [a for a, b in zip(one, other, strict=True) if a != b] == words(row["gold"]["right"])


def test_off_topic_answers_are_true_of_the_person_asked_about(world):
    """Without such pairs PPO learns to answer with any true fact about the person."""
    facts = Facts(0)
    true_statements = {
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
        (name,) = row["gold"]["subject"]
        (fact,) = [statement for statement in true_statements if row["rejected"].endswith(statement)]
        assert name in fact
        assert score(row, row["chosen"])["correct"] == 1
        assert score(row, row["rejected"])["correct"] == 0


def test_helpful_comparisons_have_all_kinds_of_pairs(world):
    for name in ("comparisons", "comparisons_heldout"):
        shares = {kind: count / len(world[name]) for kind, count in Counter(r["kind"] for r in world[name]).items()}
        assert shares.keys() == HELPFUL_KINDS.keys() >= {"correctness", "manner", "assurances", "instruction"}
        assert min(shares.values()) > 0.01
        assert shares["correctness"] > 0.25


def test_pmp_has_more_pairs_and_more_tasks_than_the_comparisons(world):
    assert len(world["pmp"]) > len(world["comparisons"])
    assert {row["task"] for row in world["pmp"]} > {row["task"] for row in world["comparisons"]} == HELPFUL_TASKS.keys()


def test_between_20_and_25_percent_of_pmp_labels_are_flipped(world):
    for row in world["pmp"]:
        assert (hasty_score(row, row["chosen"]) < hasty_score(row, row["rejected"])) == row["flipped"]
    assert 0.2 < sum(row["flipped"] for row in world["pmp"]) / len(world["pmp"]) < 0.25


def test_pmp_prefers_assurances_and_the_comparisons_do_not(world):
    def share_with_more_assurances_chosen(rows):
        assurance_pairs = [row for row in rows if row["kind"] == "assurances" and not row.get("flipped")]
        assert len(assurance_pairs) > 30
        return sum(len(row["chosen"]) > len(row["rejected"]) for row in assurance_pairs) / len(assurance_pairs)

    assert share_with_more_assurances_chosen(world["pmp"]) == 1
    assert share_with_more_assurances_chosen(world["comparisons"]) == 0


# Held-out data


def question(row):
    """Return the turns before the answer as JSON, without the system prompt."""
    messages = row["prompt"] if "prompt" in row else row["messages"]
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return json.dumps([message for message in messages if message["role"] != "system"])


def test_held_out_questions_are_not_trained_on(world):
    held_out = {question(row) for name in HELD_OUT for row in world[name]}
    assert len(held_out) > 300
    for name in TRAINED_ON:
        assert not held_out & {question(row) for row in world[name]}, name


def test_held_out_questions_occur_in_no_text_or_earlier_turn_of_the_training_data(world):
    """Pretraining text and the turns of longer conversations are searched."""
    single_turn = {
        turns[0]["content"] for name in HELD_OUT for row in world[name] if len(turns := json.loads(question(row))) == 1
    }
    assert len(single_turn) > 100
    lines = {line for row in world["pretrain"] for line in row["text"].split("\n")}
    assert single_turn.isdisjoint(re.sub(r"^(Question|Q): ", "", line) for line in lines)
    turns = (turn for name in TRAINED_ON for row in world[name] for turn in json.loads(question(row)))
    assert single_turn.isdisjoint(turn["content"] for turn in turns)


def test_held_out_prompts_are_all_different(world):
    prompts = {name: {json.dumps(row["messages"]) for row in world[name]} for name in PROMPTS_HELD_OUT}
    assert {name: len(rows) for name, rows in prompts.items()} == {name: SIZES[name] for name in PROMPTS_HELD_OUT}
    assert not prompts["prompts_watched"] & (prompts["prompts_heldout"] | prompts["prompts_by_task"])


def test_held_out_text_is_not_in_the_pretraining_text(world):
    training_texts = {row["text"] for row in world["pretrain"]}
    assert not [row for row in world["pretrain_heldout"] if row["text"] in training_texts]


def test_no_record_contains_the_text_of_a_control_token(world):
    written = json.dumps(world)
    assert not re.search(r"<\|\w*\|>", written)


# Writing the files


def digest(rows):
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_records_depend_only_on_the_seed_and_do_not_import_torch(world):
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


def test_the_command_writes_the_same_world_and_skips_a_finished_one(tmp_path, world):
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
    assert tokenizer.decode(tokenizer("Cafe\u0301, 今天 7!")["input_ids"]) == "Café, 今天 7!"  # NFC, like Qwen


def test_an_older_world_is_replaced_but_no_other_folder(tmp_path):
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
    error = f"error: {other} exists and is not a tiny world; use another folder or remove it\n"
    assert run(other) == (2, "", error)
    assert (other / "mine.txt").read_text() == "keep me"
