"""Conversations whose last answer is to be scored, and what rules and judges read of them.

An answer that a model generated may contain control tokens: it can end its own turn's text with <|im_start|>assistant
and write another one. Which text is scored must not be the model's choice. So an answer is all tokens from where it
begins to its <|im_end|>, and control tokens in it are shown as the text that they spell.
"""

from collections.abc import Sequence
from typing import Any

from chatml import control, generation_prompt, read_back

Tokens = Sequence[int]


def conversation_and_answer(tokens: Tokens, start: int, tokenizer: Any) -> tuple[list[dict[str, str]], str]:
    """Return the messages up to an answer, and its text.

    Args:
        tokens: the prompt, the answer and its <|im_end|>, if it has one.
        start: where the answer begins.

    An answer that continues an unfinished turn of the assistant's (ReAct, after a tool's result) leaves that turn's
    beginning as the last message.
    """
    messages, answer = read_back(tokens[:start], tokenizer), list(tokens[start:])
    if messages and not messages[-1]["content"]:  # the header of the answer's turn
        messages.pop()
    if answer and answer[-1] == control(tokenizer).im_end:
        answer.pop()
    return messages, tokenizer.decode(answer, skip_special_tokens=False)


def last_turn(tokens: Tokens, tokenizer: Any) -> int:
    """Return where the text of a conversation's last turn, the assistant's, begins.

    For conversations that were encoded from messages: text cannot become a control token there.
    """
    header = generation_prompt(tokenizer)
    return len(tokens) - list(reversed(tokens)).index(header[0]) - 1 + len(header)
