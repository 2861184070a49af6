"""The tokenizer files of a finished model, written for whoever reads them: servers, other trainers, ourselves."""

import copy
import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from chatml import IM_END
from engine.files import durable

TRAINING_TEMPLATE = "training_chat_template.jinja"
"""the template with `{% generation %}`, which transformers and TRL alone know"""


# What the template puts behind an assistant's turn.
AFTER_ANSWER = "        {{- '\\n' -}}\n    {%- elif message.role == 'tool' -%}"


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, scores: bool = False) -> None:
    """Write a prepared tokenizer as one that ends a turn with <|im_end|>, and its template for serving and training.

    Programs that read `tokenizer.eos_token` stop where the model does. `chat_template.jinja` renders in every Jinja; of
    a reward model (`scores`) it ends with the last answer's <|im_end|>, since transformers reads the last token.
    """
    saved = copy.deepcopy(tokenizer)
    saved.eos_token = IM_END
    if tokenizer.chat_template is not None:
        saved.chat_template = served_template(tokenizer.chat_template)
        if scores:
            at_the_end = AFTER_ANSWER.replace("'\\n'", "'' if loop.last else '\\n'")
            saved.chat_template = saved.chat_template.replace(AFTER_ANSWER, at_the_end)
    saved.save_pretrained(folder)
    if tokenizer.chat_template is not None:
        durable.write_text(folder / TRAINING_TEMPLATE, tokenizer.chat_template)


def served_template(template: str) -> str:
    """Return a chat template without its `{% generation %}` marks: the same text, for a plain Jinja."""
    return re.sub(r"[ ]*\{%-? *(end)?generation *-?%\}\n?", "", template)
