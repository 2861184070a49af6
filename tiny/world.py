"""Write the files of the tiny world: all data and initial models of the stages, generated from one seed.

    pretrain, pretrain_heldout            {"text"}
    sft, system_prompts                   {"messages", "tools"?, "task", "gold"}
    pmp, comparisons, comparisons_heldout, comparisons_correctness, comparisons_shifted, comparisons_length,
    comparisons_harmless, comparisons_harmless_heldout
                                          {"prompt", "chosen", "rejected", "tools"?, "kind", "task", "gold"}
    prompts, prompts_heldout, prompts_watched, prompts_by_task
                                          {"messages", "tools"?, "task", "gold"}
    init/, init_small/                    tokenizer and random weights
    world.json                            seed, version of this code, number of records of each file, seconds

Held-out comparisons and prompts have word combinations that occur nowhere else. comparisons_shifted has the tasks that
no clean comparison has; in comparisons_length the worse side is longer, with assurances. prompts_watched is for
evaluation during training, prompts_heldout and prompts_by_task are for evaluation at the end.
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
from tiny.conversations import NUM_TURNS, long_record, sft_record
from tiny.facts import Facts
from tiny.prompts import WEIGHTS, draw_prompt
from tiny.text import document

Record = dict[str, Any]
ABOUT_FILE = "world.json"
PROMPTS_PER_TASK = 200
# Number of records of each file.
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
    "comparisons_harmless": 2000,
    "comparisons_harmless_heldout": 400,
    "prompts": 3000,
    "prompts_heldout": 500,
    "prompts_watched": 200,
    "prompts_by_task": PROMPTS_PER_TASK * len(WEIGHTS),
}

# Folder -> hidden size: the model that is aligned, and a smaller one that generates candidate responses too.
WIDTHS = {"init": 128, "init_small": 64}

# These files have no duplicates and no record of the named file, since evaluation treats their records as independent.
DISTINCT_FROM = {"prompts_heldout": "prompts", "prompts_watched": "prompts_heldout", "pretrain_heldout": "pretrain"}


class FolderError(Exception):
    """The output folder has other contents, which a world must not replace."""


def records(seed: int) -> dict[str, list[Record]]:
    """Return file name without .jsonl -> its records, which depend only on the seed and the name."""
    facts = Facts(seed)
    makers: dict[str, Callable[[Random], Record]] = {
        "pretrain": lambda rng: {"text": document(facts, rng)},
        "pretrain_heldout": lambda rng: {"text": document(facts, rng)},
        "sft": lambda rng: sft_record(facts, rng),
        "system_prompts": lambda rng: long_record(facts, rng, NUM_TURNS, held_out=True),
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
        draw = _distinct(make, made[DISTINCT_FROM[name]]) if name in DISTINCT_FROM else make
        made[name] = [draw(rng) for _ in range(SIZES[name])]
    made["prompts_by_task"] = [
        record for task in WEIGHTS for record in _prompts_of_task(facts, task, made["prompts_watched"])
    ]
    return made


def _prompts_of_task(facts: Facts, task: str, others: list[Record]) -> list[Record]:
    """Return held-out prompts of one task, all different and none of them in `others`."""
    rng = Random(f"{facts.seed}/prompts_by_task/{task}")
    draw = _distinct(lambda rng: draw_prompt(facts, rng, held_out=True, tasks={task: 1}).record, others)
    return [draw(rng) for _ in range(PROMPTS_PER_TASK)]


def _distinct(make: Callable[[Random], Record], others: list[Record]) -> Callable[[Random], Record]:
    """Return a function like `make` that draws again if the record came before or is in `others`."""
    seen = {json.dumps(record) for record in others}

    def draw(rng: Random) -> Record:
        while (key := json.dumps(record := make(rng))) in seen:
            pass
        seen.add(key)
        return record

    return draw


def write_world(folder: Path, seed: int) -> None:
    """Write the world into `folder`, which may have an older world or be empty; raises FolderError otherwise.

    The files are written to a temporary folder first; an interruption before they are complete changes nothing.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / ABOUT_FILE).exists() or not any(folder.iterdir()))):
        raise FolderError(f"{folder} exists and is not a tiny world; use another folder or remove it")
    # Imported here because they import torch, which is not needed if the world exists already.
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
    (partial / ABOUT_FILE).write_text(json.dumps(about, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def is_written(folder: Path, seed: int) -> bool:
    """Return whether `folder` has the world of this seed, written by this version of the code."""
    try:
        about = json.loads((folder / ABOUT_FILE).read_text())
        return (about["seed"], about["version"]) == (seed, version())
    except (OSError, ValueError, KeyError, TypeError):  # missing, or not written by this code
        return False


def version() -> str:
    """Return the version of this code, a digest of the files of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _written(conversations: Iterable[Record]) -> Iterable[str]:
    """Yield the text of each turn of the conversations, as it is tokenised."""
    for record in conversations:
        conversation = read_conversation(record)
        yield from (turn.text for turn in render(conversation.messages, conversation.tools))
