"""Find, report and keep the system prompt that a chat template adds to conversations without one."""

import json
import re
import shlex
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from config.sections import Model
from engine.data.chatml_section import ChatML
from engine.dist.ranks import is_main_process
from engine.models.tokenizer import prepare_tokenizer, published_tokenizer

USER_TURN, SYSTEM_TURN = ({"role": "user", "content": "question"}, {"role": "system", "content": "prompt"})
# Text that reads the same in YAML, in a shell's quotes and in make.
PLAIN_TEXT = re.compile(r"[A-Za-z][\w ,.-]*")
ADD_SYSTEM_TURN = (
    "{%- set messages = messages if messages and messages[0].role == 'system' "
    "else [{'role': 'system', 'content': PROMPT}] + messages -%}\n"
)


def stage_tokenizer(model: Model, chatml: ChatML) -> PreTrainedTokenizerBase:
    """Load a training stage's tokenizer, with ChatML's tokens and template.

    With `chatml.keep_system` the template, which is saved with the model, adds `chatml.system` to conversations without
    a system prompt. Otherwise print a warning if the base's own template adds a system prompt, which the run drops.
    Raises RunError if there is no tokenizer.
    """
    tokenizer = published_tokenizer(model.path, model.revision)
    theirs = default_system_prompt(tokenizer)
    prepare_tokenizer(tokenizer)
    if chatml.keep_system:
        assert chatml.system is not None  # `ChatML.check`
        keep_system_prompt(tokenizer, chatml.system)
    elif theirs and is_main_process():
        print(f"warning: {model.path}: {dropped_prompt_warning(theirs, chatml)}", flush=True)
    return tokenizer


def dropped_prompt_warning(theirs: str, chatml: ChatML) -> str:
    """Return the warning that the run drops the base's system prompt `theirs`, and how to keep it."""
    quoted = json.dumps(theirs, ensure_ascii=False)
    source = f"its chat template adds a system prompt to conversations without one, {quoted}"
    if chatml.system is not None:
        return (
            f"{source}; the template that this run saves does not. To save chatml.system in it: chatml.keep_system=true"
        )
    # Quoted for YAML, then for the shell; without inner quotes it also works in make's ARGS="…".
    key = shlex.quote(f"chatml.system={theirs if PLAIN_TEXT.fullmatch(theirs) else quoted}")
    return (
        f"{source}; this run and the template that it saves do not. To train with it: {key}; to save it in the "
        "template as well: chatml.keep_system=true"
    )


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt that a tokenizer's template adds to conversations without one; None if it adds none."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return None
    try:
        tokens: dict[str, Any] = tokenizer.special_tokens_map
        rendered: Any = render_jinja_template([[USER_TURN], [SYSTEM_TURN, USER_TURN]], chat_template=template, **tokens)
        (without_prompt, with_prompt), _ = rendered
    except (TemplateError, TypeError):
        return None  # the template accepts no system prompt
    before, prompt, after = with_prompt.partition(SYSTEM_TURN["content"])
    found = without_prompt.removeprefix(before).removesuffix(after)
    fits = prompt and len(without_prompt) == len(before) + len(found) + len(after)
    return found.strip() or None if fits else None


def keep_system_prompt(tokenizer: PreTrainedTokenizerBase, system: str) -> None:
    """Make a prepared tokenizer's template add the system prompt `system` to conversations without one."""
    tokenizer.chat_template = (
        ADD_SYSTEM_TURN.replace("PROMPT", json.dumps(system, ensure_ascii=False)) + tokenizer.chat_template
    )
