"""Conversations under an instruction: what a subject answers, turn by turn, with its own earlier answers before it.

    system, question 1                          -> answer 1
    system, question 1, answer 1, question 2    -> answer 2, and so on

Answers enter the next prompt as text, so one that spells a control token cannot end its turn. A conversation that grows
longer than may be read is not asked any further, and never cut.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import RecordError, encode
from config.sections import Sampling
from engine.data import encoding
from engine.data.rows import Limit, load_rows
from engine.generation.request import GenerationRequest
from engine.generation.streams import RandomStream
from engine.run.folder import RunFolder
from eval.answers import ask, generate
from eval.item_store import ItemStore, Row, fingerprint
from eval.models import Load, Models
from eval.obedience import TOO_LONG, UNREADABLE
from eval.recipe import Eval
from eval.subjects import Endpoint

Chat = list[dict[str, str]]
"""messages, role and content"""


@dataclass(frozen=True)
class Script:
    """A conversation before anybody has answered."""

    number: int
    """from 0, in the data's order; the query's number in the random stream"""
    messages: Chat
    """the system turn, then what the user asks, turn by turn"""
    record: dict[str, Any]
    """the record that it was read from"""

    @property
    def turns(self) -> int:
        return len(self.messages) - 1

    def chat(self, answers: Sequence[str]) -> Chat:
        """What is asked once there are these answers, which are fewer than the turns."""
        chat = self.messages[:1]
        for question, answer in zip(self.messages[1:], answers, strict=False):
            chat += [question, {"role": "assistant", "content": answer}]
        return [*chat, self.messages[1 + len(answers)]]


@dataclass(frozen=True)
class Asked:
    """One turn of one conversation, about to be answered."""

    number: int
    chat: Chat
    prompt: list[int]
    """the chat as tokens, up to where the answer begins"""


Answer = Callable[[int, Sequence[Asked]], list[Row]]
"""(turn from 0, what is asked in it) -> for each {"answers": [one]}, see eval/answers.py"""


def read_scripts(recipe: Eval, models: Models, folder: RunFolder) -> list[Script]:
    """The conversations that data.system_prompts names."""
    data = recipe.data
    found = load_rows(
        encoding.questions,
        data.sources("system_prompts"),
        data=data,
        chatml=recipe.chatml,
        seed=recipe.run.seed,
        tokenizer=models.main_tokenizer,
        key="data.system_prompts",
        limit=Limit("data.max_prompt_tokens", data.max_prompt_tokens),
    )
    rows = folder.keep_report("system_prompts", *found)
    return [Script(number, json.loads(row["messages"]), json.loads(row["record"])) for number, row in enumerate(rows)]


def of_model(
    store: ItemStore,
    scripts: Sequence[Script],
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    seed: int,
    room: int,
) -> list[Row]:
    """`converse` with a model; all subjects draw with the same random numbers."""

    def answer(turn: int, asked: Sequence[Asked]) -> list[Row]:
        prompts, numbers = [each.prompt for each in asked], [each.number for each in asked]
        request = GenerationRequest(prompts, numbers, 1, RandomStream.named(seed, "system_prompt", turn))
        keys = [fingerprint(each.number, turn, each.prompt) for each in asked]
        return generate(store, keys, request, load, tokenizer, sampling)

    return converse(scripts, tokenizer, room, answer)


def of_endpoint(
    store: ItemStore,
    scripts: Sequence[Script],
    name: str,
    endpoint: Endpoint,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    seed: int,
    room: int,
) -> list[Row]:
    """`converse` with an endpoint; `tokenizer` only measures."""

    def answer(turn: int, asked: Sequence[Asked]) -> list[Row]:
        keys = [fingerprint(each.number, turn, each.chat) for each in asked]
        return ask(store, keys, [each.chat for each in asked], name, endpoint, sampling, seed)

    return converse(scripts, tokenizer, room, answer)


def converse(scripts: Sequence[Script], tokenizer: PreTrainedTokenizerBase, room: int, answer: Answer) -> list[Row]:
    """For each conversation {"answers": [one a turn], "stopped": null, or why it was not asked to its end}.

    All conversations are asked their first turn, then their second one, and so on. One whose prompt has more than
    `room` tokens stops (`too_long`), and one with an answer that `tokenizer` has no tokens for (`unreadable`).
    """
    rows: list[Row] = [{"answers": [], "stopped": None} for _ in scripts]
    for turn in range(max((script.turns for script in scripts), default=0)):
        asked: list[Asked] = []
        for script, row in zip(scripts, rows, strict=True):
            if turn >= script.turns or row["stopped"]:
                continue
            chat = script.chat([known["text"] for known in row["answers"]])
            try:
                prompt = encode(chat, tokenizer, add_generation_prompt=True).input_ids
            except RecordError:
                row["stopped"] = UNREADABLE
                continue
            if len(prompt) > room:
                row["stopped"] = TOO_LONG
                continue
            asked.append(Asked(script.number, chat, prompt))
        for each, found in zip(asked, answer(turn, asked), strict=True):
            rows[each.number]["answers"] += found["answers"]
    return rows
