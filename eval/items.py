"""The items of an evaluation: the same conversations for every subject, encoded by each subject's own tokenizer.

Prompts are read and limited in length once, with the main tokenizer. A subject with the same vocabulary gets those
tokens. A subject with another vocabulary gets the same messages, encoded by its own tokenizer. An endpoint gets the
messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import RecordError, encode, read_back, read_prompt
from config.sections import Sampling
from engine.data.chatml_section import ChatML
from engine.data.rows import Limit, RowLoader
from engine.errors import RunError
from engine.run.folder import RunFolder
from eval.item_store import fingerprint
from eval.models import Models
from eval.recipe import Eval
from eval.subjects import LocalModel, Subject


@dataclass(frozen=True)
class Item:
    number: int
    """index from 0 in the data's order; also the query id in the random stream"""
    input_ids: list[int]
    """prompt tokens by the main tokenizer, including the opening of the answer"""
    messages: list[dict[str, Any]]
    """the prompt's messages, after truncation"""
    record: dict[str, Any]
    """record that the prompt was read from"""


class Items:
    """All items, with their prompts as tokens of any tokenizer or as messages."""

    def __init__(
        self,
        items: Sequence[Item],
        main: PreTrainedTokenizerBase,
        chatml: ChatML,
        fields: Mapping[str, str | None],
        roles: Mapping[str, str] | None = None,
    ):
        self.items, self.main, self.chatml, self.fields, self.roles = items, main, chatml, fields, roles
        self._prompts = {id(main): [item.input_ids for item in items]}

    def __len__(self) -> int:
        return len(self.items)

    def prompts(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Return the token ids of every prompt. `tokenizer` must come from `Models`. Results are cached.

        Raise RunError, naming the item, if the tokenizer cannot encode it.
        """
        if id(tokenizer) not in self._prompts:
            self._prompts[id(tokenizer)] = [self._encoded(item, tokenizer) for item in self.items]
        return self._prompts[id(tokenizer)]

    def chats(self) -> list[list[dict[str, str]]]:
        """Return every prompt as messages with role and content, for an endpoint.

        Where a conversation has tools, tool calls or reasoning, they are written out as the text that models read.
        """
        return [self._chat(item) for item in self.items]

    def keys(self, prompts: Sequence[Any]) -> list[str]:
        """Return the item store's key of each item: a hash of its number and its prompt in `prompts`."""
        return [fingerprint(item.number, prompt) for item, prompt in zip(self.items, prompts, strict=True)]

    def _tools(self, item: Item) -> tuple[dict[str, Any], ...] | None:
        return read_prompt(item.record, self.fields, self.roles).tools

    def _encoded(self, item: Item, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        try:
            return encode(
                item.messages,
                tokenizer,
                tools=self._tools(item),
                add_generation_prompt=True,
                tool_format=self.chatml.tools,
            ).input_ids
        except RecordError as error:
            raise RunError(
                f"data.prompts, item {item.number}: the tokenizer of {tokenizer.name_or_path} cannot encode it: {error}"
            ) from None

    def _chat(self, item: Item) -> list[dict[str, str]]:
        if self._tools(item) or any(
            message.get("tool_calls") or message.get("reasoning_content") or message["role"] == "tool"
            for message in item.messages
        ):
            *messages, answer = read_back(item.input_ids, self.main)
            # A ReAct answer that ends in an action awaits its observation, so it stays as the last message.
            return [*messages, answer] if answer["content"] else messages
        return [{"role": message["role"], "content": message["content"]} for message in item.messages]


def read_items(recipe: Eval, models: Models, folder: RunFolder) -> Items:
    """Load the items of data.prompts. What was kept and dropped is printed and saved in the run folder."""
    data = recipe.data
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, models.main_tokenizer)
    found = loader.load_prompts("prompts", Limit("data.max_prompt_tokens", data.max_prompt_tokens))
    rows = folder.keep_report("prompts", *found)[: recipe.eval.prompts_limit]
    items = [Item(number, list(row.input_ids), row.messages, row.record) for number, row in enumerate(rows)]
    return Items(items, models.main_tokenizer, recipe.chatml, data.fields, data.roles)


def check_context(items: Items, subjects: Mapping[str, Subject], models: Models, sampling: Sampling) -> None:
    """Raise RunError, naming the subject, if a prompt and its answer may not fit into a model's context."""
    for name, subject in subjects.items():
        if not isinstance(subject, LocalModel):
            continue
        context = models.context(subject.path, subject.revision)
        lengths = [len(prompt) for prompt in items.prompts(models.tokenizer_of(subject))]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if context is not None and lengths[longest] + sampling.max_new_tokens > context:
            raise RunError(
                f"eval.subjects.{name}={subject.path} has a context of {context:,} tokens, and item {longest} of "
                f"data.prompts has {lengths[longest]:,}, before an answer of up to "
                f"sampling.max_new_tokens={sampling.max_new_tokens:,}; "
                "lower data.max_prompt_tokens or sampling.max_new_tokens, or leave the subject out"
            )
