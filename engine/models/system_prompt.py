"""The system prompt that a chat template puts before conversations that have none: found, reported, and kept."""

import json
import re
import shlex

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from config.sections import Model
from engine.data.chatml_section import ChatML
from engine.dist.ranks import is_main_process
from engine.models.tokenizer import prepare_tokenizer, published_tokenizer

QUESTION, SYSTEM = ({"role": "user", "content": "question"}, {"role": "system", "content": "prompt"})
# Text that is the same in YAML, in a shell's quotes and to make.
PLAIN = re.compile(r"[A-Za-z][\w ,.-]*")
KEPT = (
    "{%- set messages = messages if messages and messages[0].role == 'system' "
    "else [{'role': 'system', 'content': PROMPT}] + messages -%}\n"
)


def stage_tokenizer(model: Model, chatml: ChatML) -> PreTrainedTokenizerBase:
    """Load a training stage's tokenizer; RunError if there is none.

    With `chatml.keep_system` its template, which is saved with the model, puts `chatml.system` in front. Print it where
    the source's template puts a system prompt in front that is lost otherwise.
    """
    tokenizer = published_tokenizer(model.path, model.revision)
    theirs = default_system_prompt(tokenizer)
    prepare_tokenizer(tokenizer)
    if chatml.keep_system:
        keep_system_prompt(tokenizer, chatml.system)
    elif theirs and is_main_process():
        print(f"warning: {model.path}: {lost(theirs, chatml)}", flush=True)
    return tokenizer


def lost(theirs: str, chatml: ChatML) -> str:
    """Return what a run does without the source's system prompt, and how to keep one."""
    quoted = json.dumps(theirs, ensure_ascii=False)
    source = f"its chat template puts a system prompt before conversations that have none, {quoted}"
    if chatml.system is not None:
        return (
            f"{source}; the template that this run saves puts none there. To save chatml.system in it: "
            "chatml.keep_system=true"
        )
    # As YAML, then for a shell; without the inner quotes it can stand in make's ARGS="…" as well.
    key = shlex.quote(f"chatml.system={theirs if PLAIN.fullmatch(theirs) else quoted}")
    return (
        f"{source}; this run and the template that it saves put none there. To train with it: {key}; to save it in the "
        "template, too: chatml.keep_system=true"
    )


def default_system_prompt(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the system prompt that a tokenizer's own template puts before conversations that have none, if any."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return None
    try:
        (alone, told), _ = render_jinja_template(
            [[QUESTION], [SYSTEM, QUESTION]], chat_template=template, **tokenizer.special_tokens_map
        )
    except (TemplateError, TypeError):
        return None  # a template that takes no system prompt
    before, prompt, after = told.partition(SYSTEM["content"])
    found = alone.removeprefix(before).removesuffix(after)
    fits = prompt and len(alone) == len(before) + len(found) + len(after)
    return found.strip() or None if fits else None


def keep_system_prompt(tokenizer: PreTrainedTokenizerBase, system: str) -> None:
    """Make a prepared tokenizer's template put `system` before conversations that have none."""
    tokenizer.chat_template = KEPT.replace("PROMPT", json.dumps(system, ensure_ascii=False)) + tokenizer.chat_template
