"""The world's files: everything that the stages read, drawn by one seed.

    pretrain, pretrain_heldout            {"text"}
    sft, system_prompts                   {"messages", "tools"?, "task", "gold"}
    pmp, comparisons, comparisons_heldout, comparisons_correctness, comparisons_shifted, comparisons_length,
    comparisons_harmless, comparisons_harmless_heldout
                                          {"prompt", "chosen", "rejected", "tools"?, "kind", "task", "gold"}
    prompts, prompts_heldout, prompts_watched, prompts_by_task
                                          {"messages", "tools"?, "task", "gold"}
    init/, init_small/                    tokenizer and random weights
    world.json                            seed, the version of this code, how many records of each file, seconds

Held-out comparisons and prompts are of word combinations that occur nowhere else. Those in comparisons_shifted are of
tasks that no clean comparison is of; in comparisons_length the worse side is the longer one, full of assurances.
prompts_watched is for measuring during training, prompts_heldout and prompts_by_task for measuring at the end.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

from chatml import read_conversation, render
from tiny.comparisons import COMPARED_TASKS, OTHER_TASKS, PLAIN_TASKS, harmless_record, helpful_record, pmp_record
from tiny.conversations import TURNS, long_record, sft_record
from tiny.facts import Facts
from tiny.prompts import WEIGHTS, draw_prompt
from tiny.text import document

Record = dict[str, Any]
ABOUT = "world.json"
PROMPTS_A_TASK = 200
# How many records of each file.
SIZES = {
    "pretrain": 14000,
    "pretrain_heldout": 400,
    "sft": 2500,
    "system_prompts": 150,
    "pmp": 12000,
    "comparisons": 8000,
    "comparisons_heldout": 600,
    "comparisons_correctness": 400,
    "comparisons_shifted": 600,
    "comparisons_length": 400,
    "comparisons_harmless": 1000,
    "comparisons_harmless_heldout": 400,
    "prompts": 3000,
    "prompts_heldout": 500,
    "prompts_watched": 200,
    "prompts_by_task": PROMPTS_A_TASK * len(WEIGHTS),
}

# Random weights by folder: the model that is aligned, and a smaller one that writes candidate answers beside it.
WIDTHS = {"init": 128, "init_small": 64}

# Here no record may come twice, or that stands in the file named: what is measured on them takes them for independent.
WITHOUT_REPETITION = {
    "prompts_heldout": "prompts",
    "prompts_watched": "prompts_heldout",
    "pretrain_heldout": "pretrain",
}


class FolderError(Exception):
    """A folder that a world must not replace: what, and the way out."""


def records(seed: int) -> dict[str, list[Record]]:
    """All records by file; a file's records depend on nothing but the seed and the file's name."""
    facts = Facts(seed)
    makers: dict[str, Callable[[Random], Record]] = {
        "pretrain": lambda rng: {"text": document(facts, rng)},
        "pretrain_heldout": lambda rng: {"text": document(facts, rng)},
        "sft": lambda rng: sft_record(facts, rng),
        "system_prompts": lambda rng: long_record(facts, rng, TURNS, held_out=True),
        "pmp": lambda rng: pmp_record(facts, rng),
        "comparisons": lambda rng: helpful_record(facts, rng, held_out=False),
        "comparisons_heldout": lambda rng: helpful_record(facts, rng, held_out=True),
        "comparisons_correctness": lambda rng: helpful_record(
            facts, rng, {"correctness": 1}, tasks=PLAIN_TASKS, held_out=True
        ),
        "comparisons_shifted": lambda rng: helpful_record(facts, rng, tasks=OTHER_TASKS, held_out=True),
        "comparisons_length": lambda rng: helpful_record(
            facts, rng, {"assurances": 1}, tasks=PLAIN_TASKS, held_out=True
        ),
        "comparisons_harmless": lambda rng: harmless_record(facts, rng, held_out=False),
        "comparisons_harmless_heldout": lambda rng: harmless_record(facts, rng, held_out=True),
        "prompts": lambda rng: draw_prompt(facts, rng, held_out=False, tasks=COMPARED_TASKS).record,
        "prompts_heldout": lambda rng: draw_prompt(facts, rng, held_out=True).record,
        "prompts_watched": lambda rng: draw_prompt(facts, rng, held_out=True, tasks=COMPARED_TASKS).record,
    }
    made: dict[str, list[Record]] = {}
    for name, make in makers.items():
        rng = Random(f"{seed}/{name}")
        draw = _distinct(make, made[WITHOUT_REPETITION[name]]) if name in WITHOUT_REPETITION else make
        made[name] = [draw(rng) for _ in range(SIZES[name])]
    made["prompts_by_task"] = [
        record for task in WEIGHTS for record in _prompts_of_task(facts, task, made["prompts_watched"])
    ]
    return made


def _prompts_of_task(facts: Facts, task: str, others: list[Record]) -> list[Record]:
    """Held-out prompts of one task, all different and none of them among `others`."""
    rng = Random(f"{facts.seed}/prompts_by_task/{task}")
    draw = _distinct(lambda rng: draw_prompt(facts, rng, held_out=True, tasks={task: 1}).record, others)
    return [draw(rng) for _ in range(PROMPTS_A_TASK)]


def _distinct(make: Callable[[Random], Record], others: list[Record]) -> Callable[[Random], Record]:
    """Draws again whatever came before or is among the others."""
    seen = {json.dumps(record) for record in others}

    def draw(rng: Random) -> Record:
        while (key := json.dumps(record := make(rng))) in seen:
            pass
        seen.add(key)
        return record

    return draw


def write_world(folder: Path, seed: int) -> None:
    """Write the whole world into `folder`, in one step: a kill leaves what was there before.

    Another world is replaced; raises FolderError where the folder holds anything else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / ABOUT).exists() or not any(folder.iterdir()))):
        raise FolderError(f"{folder} is there already and holds no tiny world; name another folder, or remove it")
    # These bring torch, which a world that is there already can do without.
    from transformers.utils.logging import disable_progress_bar

    from tiny.base import initial_model
    from tiny.tokenizer import train_tokenizer

    disable_progress_bar()
    began = time.perf_counter()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    made = records(seed)
    for name, rows in made.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (partial / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tokenizer = train_tokenizer([*(row["text"] for row in made["pretrain"]), *_written(made["sft"])])
    for name, width in WIDTHS.items():
        initial_model(tokenizer, seed, width).save_pretrained(partial / name)
        tokenizer.save_pretrained(partial / name)
    about = {
        "seed": seed,
        "version": version(),
        "records": {name: len(rows) for name, rows in made.items()},
        "seconds": round(time.perf_counter() - began, 1),
    }
    (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def is_written(folder: Path, seed: int) -> bool:
    """Whether `folder` holds this very world, as this code would write it."""
    try:
        said = json.loads((folder / ABOUT).read_text())
        return (said["seed"], said["version"]) == (seed, version())
    except (OSError, ValueError, KeyError, TypeError):  # not there, or nothing that this code wrote
        return False


def version() -> str:
    """A digest of the code that makes worlds."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _written(conversations: Iterable[Record]) -> Iterable[str]:
    """The turns of conversations as they will be tokenised."""
    for record in conversations:
        conversation = read_conversation(record)
        yield from (turn.text for turn in render(conversation.messages, conversation.tools))
