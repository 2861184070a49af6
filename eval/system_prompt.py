"""Multi-turn conversations under a system turn: a subject answers turn by turn, with its earlier answers in the prompt.

    system, question 1                          -> answer 1
    system, question 1, answer 1, question 2    -> answer 2, and so on

Answers enter the next prompt as text, so an answer that spells a control token cannot end its turn. A conversation that
no longer fits is stopped, never truncated.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import RecordError, encode
from config.sections import Sampling
from engine.data import encoding
from engine.data.rows import Limit, RowLoader
from engine.generation.request import GenerationRequest
from engine.generation.streams import RandomStream
from engine.run.folder import RunFolder
from eval.answers import ask_endpoint, generate
from eval.item_store import ItemStore, Row, fingerprint
from eval.models import Load, Models
from eval.obedience import TOO_LONG, UNREADABLE
from eval.recipe import Eval
from eval.subjects import Endpoint

Chat = list[dict[str, str]]
"""messages with role and content"""


@dataclass(frozen=True)
class Script:
    """A conversation without answers: the system turn and the user turns."""

    number: int
    """index from 0 in the data's order; also the query id in the random stream"""
    messages: Chat
    """the system turn, then the user turns in order"""
    record: dict[str, Any]
    """record that the conversation was read from"""

    @property
    def turns(self) -> int:
        return len(self.messages) - 1

    def chat(self, answers: Sequence[str]) -> Chat:
        """Return the prompt of the next turn, given the answers so far (fewer than there are turns)."""
        chat = self.messages[:1]
        for question, answer in zip(self.messages[1:], answers, strict=False):
            chat += [question, {"role": "assistant", "content": answer}]
        return [*chat, self.messages[1 + len(answers)]]


@dataclass(frozen=True)
class Asked:
    """The prompt of one turn of one conversation."""

    number: int
    chat: Chat
    prompt: list[int]
    """tokens of `chat`, including the opening of the answer"""


Answer = Callable[[int, Sequence[Asked]], list[Row]]
"""(turn from 0, its prompts) -> one {"answers": [one answer]} per prompt, see eval/answers.py"""


def read_scripts(recipe: Eval, models: Models, folder: RunFolder) -> list[Script]:
    """Load the conversations of data.system_prompts. What was kept and dropped is saved in the run folder."""
    data = recipe.data
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, models.main_tokenizer)
    limit = Limit("data.max_prompt_tokens", data.max_prompt_tokens)
    rows = folder.keep_report("system_prompts", *loader.load(encoding.questions, "system_prompts", limit))
    return [Script(number, json.loads(row["messages"]), json.loads(row["record"])) for number, row in enumerate(rows)]


def converse_with_model(
    store: ItemStore,
    scripts: Sequence[Script],
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    seed: int,
    room: int,
) -> list[Row]:
    """Run `converse` with a model. All subjects sample with the same random numbers."""

    def answer(turn: int, asked: Sequence[Asked]) -> list[Row]:
        prompts, numbers = [each.prompt for each in asked], [each.number for each in asked]
        request = GenerationRequest(prompts, numbers, 1, RandomStream.named(seed, "system_prompt", turn))
        keys = [fingerprint(each.number, turn, each.prompt) for each in asked]
        return generate(store, keys, request, load, tokenizer, sampling)

    return converse(scripts, tokenizer, room, answer)


def converse_with_endpoint(
    store: ItemStore,
    scripts: Sequence[Script],
    name: str,
    endpoint: Endpoint,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    seed: int,
    room: int,
) -> list[Row]:
    """Run `converse` with an endpoint. `tokenizer` only measures the length of prompts."""

    def answer(turn: int, asked: Sequence[Asked]) -> list[Row]:
        keys = [fingerprint(each.number, turn, each.chat) for each in asked]
        return ask_endpoint(store, keys, [each.chat for each in asked], name, endpoint, sampling, seed)

    return converse(scripts, tokenizer, room, answer)


def converse(scripts: Sequence[Script], tokenizer: PreTrainedTokenizerBase, room: int, answer: Answer) -> list[Row]:
    """Return {"answers": [one per turn], "stopped": null or a reason} for each conversation.

    The first turn of all conversations is answered, then the second one, and so on. A conversation stops before a turn
    whose prompt has more than `room` tokens (reason `too_long`), and after an answer that `tokenizer` cannot encode
    (reason `unreadable`).
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
