"""The chat template saved with every tokenizer, for `apply_chat_template` and the engines that serve a model.

It renders to the tokens of `chatml.encode`, tools in hermes form, with three differences that a template cannot avoid.
Content that begins with white space may merge with the newline before it. Content that spells a control token becomes
it: tokenising a rendered template does not protect (transformers #29279), `chatml.encode` does. And where a tokenizer
has added tokens named `<tool_call>` and the like, the template's are these, ours are spelled out.

The `{% generation %}` marks stand around what mask `assistant` trains on: content and its <|im_end|>, unless the
message says `train: false`. No system prompt is put in that the conversation does not have.
"""

from typing import Any

from chatml.tokens import control
from chatml.tools import HERMES_HEAD, HERMES_TAIL

TEMPLATE = """\
{%- macro said(message) -%}
    {{- message.content if message.content is string else '' -}}
    {%- for call in message.tool_calls or [] -%}
        {%- set function = call.function if call.function is defined else call -%}
        {{- '\\n' if message.content or not loop.first else '' -}}
        {{- '<tool_call>\\n{"name": ' + function.name | tojson -}}
        {%- set arguments = function.arguments -%}
        {{- ', "arguments": ' + (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>' -}}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages and messages[0].role == 'system' and messages[0].content -%}
        {{- messages[0].content + '\\n\\n' -}}
    {%- endif -%}
    {{- HERMES_HEAD -}}
    {%- for tool in tools -%}
        {{- '\\n' + tool | tojson -}}
    {%- endfor -%}
    {{- HERMES_TAIL + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'system' and loop.first and tools -%}
    {%- elif message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if message.train is false -%}
            {{- said(message) -}}
        {%- else -%}
            {%- generation -%}
                {{- said(message) -}}
            {%- endgeneration -%}
        {%- endif -%}
        {{- '\\n' -}}
    {%- elif message.role == 'tool' -%}
        {{- '<|im_start|>user\\n' if loop.first or loop.previtem.role != 'tool' else '\\n' -}}
        {{- '<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' else '' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
""".replace("HERMES_HEAD", repr(HERMES_HEAD)).replace("HERMES_TAIL", repr(HERMES_TAIL))


def chat_template(tokenizer: Any) -> str:
    """The template to save with this tokenizer: TEMPLATE, after a BOS where the model's own format demands one."""
    return TEMPLATE if control(tokenizer).bos is None else "{{- bos_token -}}\n" + TEMPLATE
