"""The chat template saved with every tokenizer, for `apply_chat_template` and inference servers.

It gives the tokens of `chatml.encode` with tools in the hermes format, except in two cases that a template cannot
avoid. White space may merge with its neighbours at the start of content and around an observation in ReAct text. And
content that spells an added token becomes that token: tokenising rendered text does not prevent it (transformers
#29279), while `chatml.encode` does.

The `{% generation %}` blocks enclose what the mask `assistant` trains on: content and its <|im_end|>. Not enclosed are
messages with `train: false`, empty messages, and observations in ReAct text (`chatml.turns.assistant_parts`). The
template adds no default system prompt.
"""

from typing import Any

from chatml.hermes import HERMES_HEAD, HERMES_TAIL
from chatml.tokens import control

TEMPLATE = """\
{%- macro calls(message, text) -%}
    {%- for call in message.tool_calls or [] -%}
        {%- set function = call.function if call.function is defined else call -%}
        {{- '\\n' if text or not loop.first else '' -}}
        {{- '<tool_call>\\n{"name": ' + function.name | tojson -}}
        {%- set arguments = function.arguments -%}
        {{- ', "arguments": ' + (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' -}}
    {%- endfor -%}
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
        {%- set reasoning = (message.reasoning_content or '').strip('\\n') -%}
        {%- set before = '<think>\\n' + reasoning + '\\n</think>\\n\\n' if message.reasoning_content else '' -%}
        {%- set text = (message.content or '').lstrip('\\n') if before else message.content or '' -%}
        {%- set end = calls(message, text) + '<|im_end|>' -%}
        {%- if message.train is false or not (text | trim or message.tool_calls or reasoning) -%}
            {{- before + text + end -}}
        {%- else -%}
            {%- set turn = namespace(result=none) -%}
            {%- if before -%}
                {%- generation -%}
                    {{- before -}}
                {%- endgeneration -%}
            {%- endif -%}
            {%- for thought in text.split('\\nThought:') if text -%}
                {%- set act = (('\\n' if loop.first else '') + thought).split('\\nAction:', 1) -%}
                {%- set result = act[1].split('\\nObservation:', 1) if act | length == 2 else [] -%}
                {{- '' if turn.result is none else '\\n' -}}
                {%- generation -%}
                    {{- '' if loop.first else '\\nThought:' if turn.result is none else 'Thought:' -}}
                    {{- thought[:-(result[1] | length)] if result[1] else thought -}}
                {%- endgeneration -%}
                {%- set turn.result = result[1] if result | length == 2 else none -%}
                {{- turn.result or '' -}}
            {%- endfor -%}
            {%- if turn.result and not message.tool_calls -%}
                {{- end -}}
            {%- else -%}
                {%- generation -%}
                    {{- end -}}
                {%- endgeneration -%}
            {%- endif -%}
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
    """Return the template to save with this tokenizer: TEMPLATE, after a BOS if the model's format requires one."""
    return TEMPLATE if control(tokenizer).bos is None else "{{- bos_token -}}\n" + TEMPLATE
