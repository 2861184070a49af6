"""Save the tokenizer of a finished model so that servers, other trainers and plumbline can read it."""

import copy
import re
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from chatml import IM_END
from engine.files import durable

TRAINING_TEMPLATE = "training_chat_template.jinja"
"""the template with `{% generation %}` tags, which only transformers and TRL can render"""


# The template's text after an assistant turn.
AFTER_ASSISTANT_TURN = "        {{- '\\n' -}}\n    {%- elif message.role == 'tool' -%}"


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, *, scores: bool = False) -> None:
    """Save a prepared tokenizer with <|im_end|> as its `eos_token`, and its template for serving and for training.

    Programs that read `eos_token` then stop where the model does. `chat_template.jinja` renders in any Jinja. For a
    reward model (`scores`) it ends with the last answer's <|im_end|>, because transformers reads the score there.
    """
    saved = copy.deepcopy(tokenizer)
    saved.eos_token = IM_END
    if tokenizer.chat_template is not None:
        saved.chat_template = served_template(tokenizer.chat_template)
        if scores:
            at_the_end = AFTER_ASSISTANT_TURN.replace("'\\n'", "'' if loop.last else '\\n'")
            saved.chat_template = saved.chat_template.replace(AFTER_ASSISTANT_TURN, at_the_end)
    saved.save_pretrained(folder)
    if tokenizer.chat_template is not None:
        durable.write_text(folder / TRAINING_TEMPLATE, tokenizer.chat_template)


def served_template(template: str) -> str:
    """Return a chat template without its `{% generation %}` tags; it renders the same text in plain Jinja."""
    return re.sub(r"[ ]*\{%-? *(end)?generation *-?%\}\n?", "", template)
