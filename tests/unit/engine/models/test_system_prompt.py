"""The default system prompt of a base's chat template: detected, reported with the keys to keep it, and kept."""

import shlex
import subprocess

import pytest
from transformers import AutoTokenizer
from trl.chat_template_utils import qwen2_5_chat_template, qwen3_chat_template

from config import RecipeError, load
from engine.data.chatml_section import ChatML
from engine.models.saved_tokenizer import TRAINING_TEMPLATE, save_tokenizer
from engine.models.system_prompt import default_system_prompt, dropped_prompt_warning, stage_tokenizer
from engine.models.tokenizer import load_tokenizer
from sft.recipe import SFT
from tests.support.real_tokenizers import as_published
from tests.support.tokenizers import qwen

QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
HELLO = [{"role": "user", "content": "Hello!"}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *HELLO]
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0].content }}"
)
RECIPE = "stage: sft\nmodel: {{path: {folder}}}\ndata: {{train: train.jsonl}}\nrun: {{dir: runs/x}}\n"


@pytest.fixture
def source(tmp_path):
    """Return a function that saves a tokenizer with a template and returns a loader of a recipe for it."""

    def make(template):
        tokenizer = qwen()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / "source")
        tokenizer.chat_template = None
        (tmp_path / "sft.yaml").write_text(RECIPE.format(folder=tmp_path / "source"))
        return lambda *overrides: load(SFT, str(tmp_path / "sft.yaml"), list(overrides))

    return make


@pytest.mark.parametrize(
    ("template", "prompt"),
    [(qwen2_5_chat_template, QWEN), (qwen3_chat_template, None), (NO_SYSTEM, None), (None, None),
     ("{{ messages[0].content + none }}", None)],
)  # fmt: skip
def test_the_default_system_prompt_of_a_template_is_detected(template, prompt):
    tokenizer = qwen()
    tokenizer.chat_template = template
    assert default_system_prompt(tokenizer) == prompt
    tokenizer.chat_template = None


def test_the_default_system_prompts_of_published_templates():
    assert default_system_prompt(as_published("smollm2")) == (
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    assert default_system_prompt(as_published("qwen3")) is None


def test_a_run_warns_of_a_dropped_system_prompt_and_the_advice_keeps_it(source, capsys, tmp_path):
    read = source(qwen2_5_chat_template)
    recipe = read()
    stage_tokenizer(recipe.model, recipe.chatml)
    printed = capsys.readouterr().out
    assert printed == (
        f"warning: {recipe.model.path}: its chat template adds a system prompt to conversations without one, "
        f'"{QWEN}"; this run and the template that it saves do not. To train with it: '
        f"'chatml.system={QWEN}'; to save it in the template as well: chatml.keep_system=true\n"
    )
    advice = printed.partition("To train with it: ")[2].partition("; to save it")[0]
    recipe = read(*shlex.split(advice), "chatml.keep_system=true")
    assert recipe.chatml.system == QWEN
    tokenizer = stage_tokenizer(recipe.model, recipe.chatml)
    assert capsys.readouterr().out == ""
    save_tokenizer(tokenizer, tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for template in (saved.chat_template, (tmp_path / "saved" / TRAINING_TEMPLATE).read_text()):
        rendered = saved.apply_chat_template(HELLO, tokenize=False, chat_template=template)
        assert rendered == f"<|im_start|>system\n{QWEN}<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
        rendered = saved.apply_chat_template(WITH_SYSTEM, tokenize=False, chat_template=template)
        assert rendered == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n"
    assert default_system_prompt(saved) == QWEN


@pytest.mark.parametrize(
    "prompt", ["Be kind.", 'It\'s: fine, "so" #1', "$HOME costs 5 $", "One.\nTwo.", "Répondez {en} français!"]
)
def test_the_advice_is_a_single_shell_word_for_any_prompt(source, prompt):
    advice = dropped_prompt_warning(prompt, ChatML()).partition("To train with it: ")[2].partition("; to save it")[0]
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {advice}"], capture_output=True, text=True, check=True)
    (word,) = words.stdout.split("\0")[:-1]
    assert source(None)(word).chatml.system == prompt


def test_the_advice_for_a_plain_prompt_works_in_the_args_of_make(source, tmp_path):
    (tmp_path / "Makefile").write_text("all:\n\t@printf '%s' $(ARGS)\n")
    advice = dropped_prompt_warning(QWEN, ChatML()).partition("To train with it: ")[2].partition("; to save it")[0]
    command = ["bash", "-c", f'make -C {tmp_path} -s --no-print-directory ARGS="{advice}"']
    word = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert source(None)(word).chatml.system == QWEN


def test_a_chatml_system_that_is_not_saved_in_the_template_is_warned_of(source, capsys):
    recipe = source(qwen2_5_chat_template)("chatml.system=Be kind.")
    stage_tokenizer(recipe.model, recipe.chatml)
    assert capsys.readouterr().out.endswith(
        '"; the template that this run saves does not. To save chatml.system in it: chatml.keep_system=true\n'
    )
    recipe = source(qwen2_5_chat_template)("chatml.system=Be kind.", "chatml.keep_system=true")
    assert default_system_prompt(stage_tokenizer(recipe.model, recipe.chatml)) == "Be kind."
    assert capsys.readouterr().out == ""


def test_a_template_without_a_system_prompt_prints_nothing(source, capsys):
    recipe = source(qwen3_chat_template)()
    tokenizer = stage_tokenizer(recipe.model, recipe.chatml)
    assert capsys.readouterr().out == ""
    assert tokenizer.chat_template == load_tokenizer(recipe.model.path).chat_template


def test_keep_system_without_a_system_prompt_is_an_error(source):
    with pytest.raises(RecipeError) as error:
        source(None)("chatml.keep_system=true")
    assert str(error.value).startswith(
        "chatml.keep_system=true needs chatml.system, which is empty; set chatml.system, or chatml.keep_system=false"
    )
