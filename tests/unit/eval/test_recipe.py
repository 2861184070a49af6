"""Recipes of evaluations: kinds of subjects, defaults, and messages for invalid combinations."""

import re

import pytest

from config import RecipeError, load
from config.cli import rejoin_overrides
from eval.recipe import Eval
from eval.subjects import BestOf, Endpoint, LocalModel

RECIPE = """
stage: eval
eval:
  subjects: {base: runs/b/model, best: {best_of: base, n: 4}, far: {url: "http://h/v1", model: m}, hub: owner/name}
  reference: base
  rewards: {pmp: runs/p/model, rm: [runs/r/model, runs/s/model]}
data: {prompts: p.jsonl, comparisons: {pairs: c.jsonl}, texts: {web: t.jsonl}}
run: {dir: runs/eval}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "eval.yaml").write_text(RECIPE)
    return lambda *overrides: load(Eval, tmp_path / "eval.yaml", overrides)


def message(recipe, *overrides):
    with pytest.raises(RecipeError) as error:
        recipe(*overrides)
    return re.sub(r"^\S+eval\.yaml:\d+: ", "", str(error.value))


def test_subjects_may_be_models_best_of_n_endpoints_and_revisions(recipe):
    assert recipe().eval.subject_kinds() == {
        "base": LocalModel("runs/b/model"),
        "best": BestOf("base", 4),
        "far": Endpoint("http://h/v1", "m"),
        "hub": LocalModel("owner/name"),
    }
    given = recipe("eval.subjects.hub={path: owner/name, revision: v2}").eval.subject_kinds()
    assert given["hub"] == LocalModel("owner/name", "v2")


def test_inputs_are_the_files_that_must_exist(recipe):
    assert [key for key, _ in recipe().inputs()] == [
        "eval.subjects.base", "eval.rewards.pmp", "eval.rewards.rm", "eval.rewards.rm", "data.prompts",
        "data.comparisons.pairs", "data.texts.web",
    ]  # fmt: skip


def test_default_reference_reward_measures_and_tokenizer(recipe):
    section = recipe("eval.reference=null").eval
    assert (section.main_reference, section.main_reward) == ("base", "rm")
    assert recipe("eval.reward=pmp").eval.main_reward == "pmp"
    assert recipe().measures == ("answers", "perplexity", "comparisons")
    assert recipe("data.texts={}", "data.prompts=null").measures == ("comparisons",)
    assert recipe("eval.measures=[comparisons, answers]").measures == ("answers", "comparisons")
    assert recipe().tokenizer_path == "runs/b/model"
    assert recipe("eval.tokenizer=x/y").tokenizer_path == "x/y"


def test_subjects_on_the_command_line_replace_those_of_the_file(recipe):
    """A single subject is added. If the reference is not among the subjects, the first one is the reference."""
    section = recipe("eval.subjects={a: A/model, b: B/model}").eval
    assert (list(section.subjects), section.main_reference) == (["a", "b"], "a")
    section = recipe("eval.reference=b", "eval.subjects={a: A/model, b: B/model}").eval
    assert section.main_reference == "b"
    section = recipe("eval.subjects.more=C/model").eval
    assert list(section.subjects) == ["base", "best", "far", "hub", "more"]
    assert section.main_reference == "base"
    assert list(recipe("eval.rewards={one: R/model}").eval.rewards) == ["one"]


def test_an_evaluation_of_rewards_only(recipe):
    assert recipe("eval.subjects={}", "data.prompts=null", "data.texts={}").measures == ("comparisons",)


ONE_SUBJECT = "eval.subjects={a: x/model"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["eval.subjects.a={best_of: nobody, n: 2}"],
            "eval.subjects.a.best_of is nobody, which is not a model in eval.subjects; use one of base, hub",
        ),
        (
            ["eval.subjects.a={best_of: far}"],
            "eval.subjects.a.best_of is far, which is not a model in eval.subjects; use one of base, hub",
        ),
        (
            ["eval.subjects.a={best_of: base, reward: none}"],
            "eval.subjects.a.reward is none; it must be one of eval.rewards: pmp, rm",
        ),
        (["eval.rewards={}"], "eval.subjects.best needs a reward to pick answers, and eval.rewards is empty; add one"),
        (["eval.subjects.a={best_of: base, n: 0}"], "eval.subjects.a.n is 0; it must be at least 1"),
        (["eval.subjects.a={url: 'http://h/v1'}"], "eval.subjects.a is {url: http://h/v1}, without model; add it"),
        (["eval.subjects.a={model: m}"], "eval.subjects.a is {model: m}, without url; add it"),
        (
            ["eval.subjects.a={url: 'h:80', model: m}"],
            "eval.subjects.a.url is h:80; it must begin with http:// or https://",
        ),
        (
            ["eval.subjects.a={url: 'http://h', model: ''}"],
            "eval.subjects.a.model is empty; name the model to request from http://h",
        ),
        (
            ["eval.subjects.a={url: 'http://h', model: m, temperature: 1}"],
            "unknown key eval.subjects.a.temperature; eval.subjects.a has url, model, key_from, timeout, retries, "
            "parallel",
        ),
        (
            ["eval.subjects.a={n: 4}"],
            "eval.subjects.a is {n: 4}; it must be a path, a hub id, {url: http://HOST/v1, model: NAME} or "
            "{best_of: NAME, n: 8}",
        ),
        (
            ["eval.subjects.a=[x, y]"],
            "eval.subjects.a is [x, y]; a subject is one model: give a path or a hub id",
        ),
        (
            ["eval.subjects={a.b: x/model}"],
            "eval.subjects has the name a.b; use only letters, digits, _ and -, because names are parts of keys",
        ),
        (
            ["eval.subjects={'a|b': x/model}"],
            "eval.subjects has the name a|b; use only letters, digits, _ and -, because names are parts of keys",
        ),
        (
            ["eval.rewards={a/b: x/model}"],
            "eval.rewards has the name a/b; use only letters, digits, _ and -, because names are parts of keys",
        ),
        (
            ["data.comparisons={a b: x.jsonl}"],
            "data.comparisons has the name a b; use only letters, digits, _ and -, because names are parts of keys",
        ),
        (
            ["eval.reference=nobody"],
            "eval.reference is nobody, which is not among eval.subjects; use one of base, best, far, hub",
        ),
        (["eval.reward=nobody"], "eval.reward is nobody, which is not among eval.rewards; use one of pmp, rm"),
        (["eval.measures=[tools]"], "eval.measures has tools; use answers, perplexity, comparisons, system_prompt"),
        (
            ["eval.measures=[perplexity]", "data.texts={}"],
            "eval.measures has perplexity, which needs eval.subjects and data.texts",
        ),
        (
            ["eval.subjects={}", "data.texts={}"],
            "data.prompts needs eval.subjects; give both or neither",
        ),
        (
            ["eval.subjects={}", "data.texts={}", "data.prompts=null", "data.comparisons={}"],
            "nothing to evaluate; give eval.subjects and data.prompts, or eval.rewards and data.comparisons",
        ),
        (
            ["eval.gold=a:b", "data.prompts=null"],
            "eval.gold needs answers: give eval.subjects and data.prompts, or leave it out",
        ),
        (["eval.gold=a.b"], "eval.gold is a.b; it must be written module:function"),
        (
            ["eval.subjects={far: {url: 'http://h/v1', model: m}}", "eval.rewards={}", "data.texts={}"],
            "no subject or reward is a model whose tokenizer could measure prompts; set eval.tokenizer "
            "to a model folder or a hub id",
        ),
        (
            ['eval.require={"subjects.nobody.answers.gold": "> 0"}'],
            "eval.require: subjects.nobody.answers.gold names nobody, which is not among eval.subjects (base, best, "
            "far, hub)",
        ),
        (
            ["data.texts={tokens: t.jsonl}"],
            "data.texts has a set called bits_per_byte, tokens or why, which are names of figures; rename it",
        ),
    ],
)
def test_invalid_combinations_are_refused(recipe, overrides, expected):
    assert message(recipe, *overrides) == expected


OBEDIENCE = ("eval.obeys=a:b", "data.system_prompts=s.jsonl")


def test_system_prompts_add_a_measure_and_an_input(recipe):
    assert recipe(*OBEDIENCE).measures == ("answers", "perplexity", "comparisons", "system_prompt")
    alone = recipe(*OBEDIENCE, "data.prompts=null", "eval.measures=[system_prompt]")
    assert alone.measures == ("system_prompt",)
    assert [key for key, _ in alone.inputs()][-3:] == [
        "data.system_prompts",
        "data.comparisons.pairs",
        "data.texts.web",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [OBEDIENCE[1]],
            "data.system_prompts needs eval.obeys, the function that checks whether an answer obeys; give both or "
            "neither",
        ),
        ([OBEDIENCE[0]], "eval.obeys needs conversations: give data.system_prompts, or leave it out"),
        (["eval.obeys=a.b", OBEDIENCE[1]], "eval.obeys is a.b; it must be written module:function"),
        (["data.system_prompts=[]", OBEDIENCE[0]], "data.system_prompts is an empty list; name at least one source"),
        *(
            (
                ["eval.measures=[system_prompt]", *some],
                "eval.measures has system_prompt, which needs eval.subjects, eval.obeys and data.system_prompts",
            )
            for some in ([], OBEDIENCE[:1], OBEDIENCE[1:])
        ),
        (
            [*OBEDIENCE, "eval.subjects={}", "data.texts={}", "data.prompts=null"],
            "data.system_prompts needs eval.subjects; give both or neither",
        ),
    ],
)
def test_incomplete_system_prompt_settings_are_refused(recipe, overrides, expected):
    assert message(recipe, *overrides) == expected


def test_overrides_split_by_the_shell_are_joined_again():
    """make splits ARGS="eval.subjects={a: A, b: B}" at spaces and removes quotes."""
    words = "eval.subjects={a: A/m, b: [x]} run.seed=3 eval.require={subjects.a.answers.gold: >= -1, b: x} run.dir=r"
    assert rejoin_overrides(words.split()) == [
        "eval.subjects={a: A/m, b: [x]}",
        "run.seed=3",
        "eval.require={subjects.a.answers.gold: >= -1, b: x}",
        "run.dir=r",
    ]
