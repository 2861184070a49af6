"""Split a conversation into the messages and the answer that rules and judges read.

A generated answer may contain control tokens: a model can generate <|im_start|>assistant inside its turn and start
another one. The model must not decide which text is scored. So an answer is all tokens from its start to its
<|im_end|>, and control tokens in it are shown as text.
"""

from collections.abc import Sequence
from typing import Any

from chatml import control, generation_prompt, read_back

Tokens = Sequence[int]


def conversation_and_answer(tokens: Tokens, start: int, tokenizer: Any) -> tuple[list[dict[str, str]], str]:
    """Return the messages before an answer, and the text of the answer.

    If the answer continues an unfinished assistant turn (ReAct, after a tool's result), the start of that turn is the
    last message.

    Args:
        tokens: ids of the prompt, the answer, and its <|im_end|> if it has one.
        start: index of the answer's first token.
    """
    messages, answer = read_back(tokens[:start], tokenizer), list(tokens[start:])
    if messages and not messages[-1]["content"]:  # it is only the header of the answer's turn
        messages.pop()
    if answer and answer[-1] == control(tokenizer).im_end:
        answer.pop()
    return messages, tokenizer.decode(answer, skip_special_tokens=False)


def last_turn_start(tokens: Tokens, tokenizer: Any) -> int:
    """Return the index of the first text token in a conversation's last turn, the assistant's.

    Only for conversations that were encoded from messages, where text cannot become a control token.
    """
    header = generation_prompt(tokenizer)
    return len(tokens) - list(reversed(tokens)).index(header[0]) - 1 + len(header)
