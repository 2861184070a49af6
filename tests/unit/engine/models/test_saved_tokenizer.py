"""The tokenizer files of a finished model, as other programs read them."""

import json

import jinja2
import minijinja
import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from chatml import IGNORE, TEMPLATE, chat_template, control, encode
from engine.models.saved_tokenizer import TRAINING_TEMPLATE, save_tokenizer, served_template
from engine.models.system_prompt import keep_system_prompt
from engine.models.tokenizer import load_tokenizer
from tests.support.real_tokenizers import real_tokenizer
from tests.support.tokenizers import llama, qwen
from tests.unit.chatml.test_template import CASES

PROMPT = 'Say "it\'s" 好 👋, {% if %}\n\\ and {{ no }} more.'


def in_json(value):
    """The tojson filter of transformers and of model servers; Jinja's own escapes < as \\u003c."""
    return json.dumps(value, ensure_ascii=False)


def in_jinja2(template, **given):
    environment = jinja2.Environment()
    environment.filters["tojson"] = in_json
    return environment.from_string(template).render(**given)


def in_minijinja(template, **given):
    environment = minijinja.Environment()
    environment.add_filter("tojson", in_json)
    return environment.render_str(template, **given)


@pytest.fixture(params=[qwen, llama])
def saved(request, tmp_path):
    """Save a prepared tokenizer whose end token is not <|im_end|>; yield it and its folder."""
    tokenizer = request.param()
    tokenizer.chat_template = chat_template(tokenizer)
    save_tokenizer(tokenizer, tmp_path)
    assert tokenizer.eos_token != "<|im_end|>"  # saving does not change the run's tokenizer
    yield tokenizer, tmp_path
    tokenizer.chat_template = None


@pytest.mark.parametrize("render", [in_jinja2, in_minijinja])
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_the_saved_template_renders_in_plain_jinja_like_the_training_template(render, prompt):
    tokenizer = qwen()
    tokenizer.chat_template = TEMPLATE
    if prompt is not None:
        keep_system_prompt(tokenizer, prompt)
    training, tokenizer.chat_template = tokenizer.chat_template, None
    for case, (messages, tools) in CASES.items():
        for add in (False, True):
            given = {"messages": messages, "tools": tools, "add_generation_prompt": add}
            (expected,), _ = render_jinja_template(
                [messages], tools=tools, chat_template=training, add_generation_prompt=add
            )
            assert render(served_template(training), **given) == expected, case
            if prompt is not None and messages[0]["role"] != "system":
                assert expected.startswith(f"<|im_start|>system\n{prompt}"), case


def test_the_training_template_does_not_render_in_plain_jinja():
    with pytest.raises(jinja2.TemplateSyntaxError, match="unknown tag 'generation'"):
        in_jinja2(TEMPLATE, messages=[])


def test_the_folder_has_both_templates_and_the_end_token(saved):
    tokenizer, folder = saved
    assert "generation -%}" not in (folder / "chat_template.jinja").read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
    plain = AutoTokenizer.from_pretrained(folder)
    assert (plain.eos_token, plain.eos_token_id) == ("<|im_end|>", control(tokenizer).im_end)
    messages, tools = CASES["tools and system"]
    ours = encode(messages, tokenizer, tools=tools)
    assert plain.apply_chat_template(messages, tools=tools)["input_ids"] == ours.input_ids
    marked = plain.apply_chat_template(
        messages,
        tools=tools,
        chat_template=(folder / TRAINING_TEMPLATE).read_text(encoding="utf-8"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert marked["assistant_masks"] == [int(label != IGNORE) for label in ours.labels]


def test_the_tokens_of_the_saved_tokenizer_are_the_same(saved):
    """The other end token must not change the key of prepared data or the comparison of vocabularies."""
    tokenizer, folder = saved
    again = load_tokenizer(str(folder))
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert (again.bos_token_id, control(again)) == (tokenizer.bos_token_id, control(tokenizer))


@pytest.mark.parametrize("name", ["qwen3", "smollm2"])
def test_published_tokenizers_keep_their_tokens_when_saved(name, tmp_path):
    tokenizer = real_tokenizer(name)
    save_tokenizer(tokenizer, tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.eos_token == "<|im_end|>"
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
