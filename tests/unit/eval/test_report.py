"""The report: made of hand-written run folders, read back as HTML."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from chatml import encode
from config import load
from engine.errors import RunError
from engine.run.entry import run
from engine.run.folder import environment
from eval.conversation import pieces
from eval.drawing import PALETTE, binned_mean, running_mean
from eval.excerpts import excerpts
from eval.page import write_report
from eval.recipe import Eval
from eval.summary import summarise
from tests.support.stage_runs import write_jsonl
from tests.support.tokenizers import qwen

CONVERSATION = [
    {"role": "user", "content": "How are you today? 你好"},
    {"role": "assistant", "content": "The quick brown fox\njumps."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "<b>seven</b>"},
]
RECIPE = """\
model: {{path: {folder}/base/model}}
chatml: {{mask: assistant, train_on: every_answer, tools: hermes, system: null}}
data: {{train: {folder}/world/sft.jsonl, eval: null, fields: {{}}, too_long: cut_oldest_turns, on_bad_record: error,
       max_length: 256}}
ppo: {{value_warmup_steps: 2}}
run: {{dir: {folder}/{stage}, seed: 0}}
"""
EVAL = """\
eval: {{base: {folder}/base/model, sft: {folder}/sft/model, pmp: {folder}/pmp/model, reward: {folder}/rm/model,
       ppo: {folder}/ppo/model, gold: "tests.unit.eval.test_report:gold"}}
data: {{prompts: {folder}/world/prompts.jsonl}}
run: {{dir: {folder}}}
"""
PLOTS = {
    "gold_proxy", "gold_over_steps", "length_score", "ppo_score", "ppo_kl_score", "ppo_kl", "ppo_entropy", "ppo_length",
    "ppo_value", "ppo_update", "ppo_pretrain", "losses", "reward_model",
}  # fmt: skip


def gold(record, answer):
    """Knows the gold of PPO's logged samples."""
    assert "<|im_end|>" not in answer
    return {"gold": record["gold"]}


def metrics_of(stage, step):
    if stage in ("base", "sft"):
        return {"loss": 2 / step, "grad_norm": 1.0}
    if stage in ("pmp", "rm"):
        return {"loss": 0.7 - 0.01 * step, "accuracy": 0.5 + 0.02 * step, "margin": 0.1 * step}
    seen = {
        "score": 0.1 * step, "kl": 0.2 * max(0, step - 2), "entropy": 2.0, "response_tokens": 9.0, "without_end": 0.0,
        "value_loss": 1 / step, "explained_variance": None if step == 1 else 0.1 * step,
    }  # fmt: skip
    learnt = {"approx_kl": 0.01, "policy_clip_fraction": 0.1, "pretrain_loss": 1.0}
    return seen | (learnt if step > 2 else {})


def write_stage(folder, stage):
    """A finished run folder without its model."""
    path = folder / stage
    path.mkdir()
    (path / "recipe.yaml").write_text(RECIPE.format(folder=folder, stage=stage))
    write_jsonl(path / "metrics.jsonl", [{"step": step, **metrics_of(stage, step)} for step in range(1, 9)])
    (path / "finished.json").write_text(json.dumps({"steps": 8, "seconds": 12.5}))
    (path / "environment.json").write_text(json.dumps(environment()))
    (path / "data.json").write_text(
        json.dumps({"train": {"read": 1234, "kept": 1200, "cut": 3, "dropped": {"too long": 34}, "rows": 300,
                              "tokens": 56789, "trained_tokens": 4321}})
    )  # fmt: skip


def answer(text, value, score, **others):
    return {
        "text": text,
        "tokens": 5,
        "ended": True,
        "score": score,
        "gold": {"gold": value, "correct": value},
        **others,
    }


def sample(i):
    sft = [answer(f"SFT {i}, {k}", i % 3, 0.1 * k) for k in range(3)]
    ppo = answer(f"PPO {i} <script>", i % 5, 1.0, logprob_ppo=-1.0, logprob_sft=-2.0)
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 3}}}]}
    messages = [{"role": "user", "content": f"question {i} & more"}, called, {"role": "tool", "content": "7"}]
    return {
        "prompt": "?",
        "messages": messages,
        "answers": {"sft": sft, "ppo": [ppo]},
        "record": {"task": ["sum", "fact"][i % 2]},
    }


SAMPLES = [sample(i) for i in range(30)]


def write_run(folder, stages=("base", "sft", "pmp", "rm", "ppo"), evaluated=True):
    (folder / "world").mkdir()
    write_jsonl(folder / "world" / "sft.jsonl", [{"messages": CONVERSATION}])
    for stage in stages:
        write_stage(folder, stage)
    if "sft" in stages:
        qwen().save_pretrained(folder / "sft" / "model")
    if "ppo" in stages:
        rows = [
            {
                "step": step,
                "prompt": "?",
                "response": "Hi.<|im_end|>",
                "score": 0.0,
                "kl": 0.0,
                "record": {"gold": step},
            }
            for step in range(1, 9)
        ]
        write_jsonl(folder / "ppo" / "samples.jsonl", rows)
    if evaluated:
        pairs = [{"data": "pairs", "scores": {"pmp": [1.0, 0.0], "rm": [1.0, 0.0]}, "tokens": [6, 4]}] * 40
        losses = dict.fromkeys(("base", "sft", "ppo"), (20.0, 10))
        (folder / "summary.json").write_text(
            json.dumps(summarise(SAMPLES, pairs, losses, 0) | {"seconds": {"sft": 12.5, "eval": 3.0}})
        )
        write_jsonl(folder / "samples.jsonl", SAMPLES)
        (folder / "recipe.yaml").write_text("run: {dir: here}\n")
    (folder / "eval.yaml").write_text(EVAL.format(folder=folder))
    return load(Eval, folder / "eval.yaml")


class Page(HTMLParser):
    """What a reader sees: text, headings; and what a browser would fetch."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, html):
        super().__init__()
        self.open, self.headings, self.fetched, self.text = [], [], [], ""
        self.learnt, self.figures = [], 0
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.fetched += [v for k, v in given.items() if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        self.figures += tag == "figure"
        if tag not in self.VOID:
            self.open.append((tag, given.get("class") or ""))

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, classes = self.open[-1] if self.open else ("", "")
        if tag in ("style", "script"):
            return
        if tag in ("h1", "h2", "h3"):
            self.headings.append(data)
        if tag == "span" and "learnt" in classes.split() and any("tokens" in c.split() for _, c in self.open[:-1]):
            self.learnt.append(data)
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(write_run(folder))
    return folder


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_everything_has_its_section(page):
    assert [h for h in page.headings if not h.startswith("/")] == [
        "Figures", "Do the reward models rank two answers right?", "By task", "Does the reward mean quality?",
        "PPO, step by step", "Before PPO", "Answers", "What supervised finetuning learns from", "How it was made",
        "Seconds by stage", "What became of the data", "Recipes", "Environment",
    ]  # fmt: skip


def test_the_page_is_whole_without_a_network(html, page):
    assert page.fetched == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_every_plot_is_in_the_page_and_beside_it(folder, page):
    assert {path.stem for path in (folder / "plots").glob("*.png")} == PLOTS
    assert page.figures == len(PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())
    for label in ("Gold beside proxy", "KL from SFT, nats an answer", "reward model's score", "explained variance"):
        assert label in page.text


def test_plots_take_the_pages_colours(html):
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--orange)" in drawn
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    for name in PALETTE:
        assert html.count(f"--{name}: #") == 2  # light and dark


def test_what_models_say_stays_text(html, page):
    assert "<script>" not in html
    assert re.search(r"PPO \d+ <script>", page.text)
    assert re.search(r"question \d+ & more", page.text)
    assert '{"arguments": {"a": 3}, "name": "add"}' in page.text


def test_the_mask_is_shown_token_by_token(page):
    assert "".join(page.learnt).replace("⏎", "") == "The quick brown fox\njumps.<|im_end|><b>seven</b><|im_end|>"
    assert len(page.learnt) > 10


def test_figures_and_their_words(page):
    assert (
        "PPO raised the gold score from 1.00 to 2.00 on 30 held-out prompts: by +1.00, with 95% confidence" in page.text
    )
    for shown in ("1,234", "56,789", "40", "100.0%", "12", "value_warmup_steps"):
        assert shown in page.text


def test_a_characters_bytes_are_shown_together():
    tokenizer = qwen()
    encoded = encode([{"role": "user", "content": "naïve 😀"}], tokenizer)
    row = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    shown = pieces(row, tokenizer)
    assert "".join(piece.text for piece in shown) == "<|im_start|>user\nnaïve 😀<|im_end|>\n"
    assert "😀" in [piece.text for piece in shown]
    assert [piece.text for piece in shown if piece.control] == ["<|im_start|>", "<|im_end|>"]
    assert not any(piece.learnt for piece in shown)


def test_answers_are_chosen_by_rule():
    chosen = excerpts(SAMPLES, 4)
    gains = [s["answers"]["ppo"][0]["gold"]["gold"] - s["answers"]["sft"][0]["gold"]["gold"] for s in chosen.samples]
    assert gains == [-2, 0, 2, 4]
    assert chosen.rule == "4 of 30 prompts, evenly spaced from where PPO lost most gold to where it gained most"
    assert excerpts([], 4).samples == []
    assert excerpts(SAMPLES[:2], 4).samples == sorted(SAMPLES[:2], key=lambda s: s["answers"]["ppo"][0]["text"])


def test_answers_without_gold_are_ordered_by_score():
    def scored(score):
        return {"answers": {"sft": [{"text": "", "score": score}]}}

    chosen = excerpts([scored(2.0), scored(None), scored(1.0)], 2)
    assert [s["answers"]["sft"][0]["score"] for s in chosen.samples] == [None, 2.0]
    assert chosen.rule == "2 of 3 prompts, evenly spaced from least to most score"


def test_figures_by_task(html):
    (table,) = re.findall(r"<h3>By task</h3>.*?</table>", html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    assert cells[0][:5] == ["task", "prompts", "gold score, SFT", "gold score, best of n", "gold score, PPO"]
    assert [row[:2] + row[4:5] + row[7:] for row in cells[1:]] == [
        ["fact", "15", "2.00", "200%"],
        ["sum", "15", "2.00", "200%"],
    ]


def test_a_running_mean_is_shorter_at_the_ends():
    assert running_mean([1.0, 2.0, 6.0, 3.0], 1).tolist() == [1.5, 3.0, 11 / 3, 4.5]


def test_means_of_like_lengths():
    assert binned_mean([1, 2, 9, 10], [0.0, 2.0, 5.0, 7.0], 3) == ([1.5, 9.5], [1.0, 6.0])
    assert binned_mean([4, 4], [1.0, 2.0], 3) == ([4.0], [1.5])


def test_a_report_before_ppo_and_evaluation(tmp_path):
    write_report(write_run(tmp_path, ("base", "sft"), evaluated=False))
    page = Page((tmp_path / "report.html").read_text())
    assert "Nothing has been evaluated yet; make eval does that. Here is what was trained." in page.text
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"losses"}
    assert "Figures" not in page.headings


def test_training_data_that_is_gone_is_named(tmp_path):
    recipe = write_run(tmp_path, ("sft",), evaluated=False)
    (tmp_path / "world" / "sft.jsonl").unlink()
    write_report(recipe)
    assert (
        f"The training data cannot be shown: {tmp_path}/world/sft.jsonl does not exist"
        in Page((tmp_path / "report.html").read_text()).text
    )


def test_nothing_to_report_on(tmp_path, capsys):
    recipe = write_run(tmp_path, (), evaluated=False)
    with pytest.raises(RunError):
        write_report(recipe)
    with pytest.raises(SystemExit) as stopped:
        run(write_report, recipe)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: run.dir={tmp_path}: no summary.json, and no model of the recipe has a run folder; run make eval\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no recipe given; usage: python -m eval.report RECIPE.yaml [key=value ...]\n"),
        (["eval.gold=x:y"], "error: no recipe given; usage: python -m eval.report RECIPE.yaml [key=value ...]\n"),
        (["recipes/tiny/eval.yaml", "eval.glod=x:y"], "error: unknown key eval.glod; did you mean eval.gold?\n"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message):
    command = [sys.executable, "-m", "eval.report", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (2, message)


def test_a_real_run_has_its_report(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    write_report(load(Eval, "recipes/tiny-mini/eval.yaml", [f"run.dir={tmp_path}"]))
    page = Page((tmp_path / "report.html").read_text())
    assert page.figures >= 10
    assert "".join(page.learnt).endswith("<|im_end|>")
