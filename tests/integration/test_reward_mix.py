"""reward.mix: PPO with several rewards; scores by hand, equivalent runs, kill and resume, error messages."""

import json
import shutil
import subprocess

import pytest
import torch
from torch.testing import assert_close

from config.sections import Model
from engine.errors import RunError
from engine.files.jsonl import read
from engine.models.loading import new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from engine.run.card import rewards_line
from ppo.train import train
from tests.support.judge_server import serving
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.processes import run_stage
from tests.support.stage_runs import assert_metrics_close, command, has_gradient, run_and_kill, same, untimed, weights
from tests.support.tokenizers import qwen

HERE = "tests.integration.test_reward_mix"
STEPS = ["ppo.steps=4", "ppo.value_warmup_steps=1", "ppo.log_samples=100", "ppo.policy_learning_rate=1e-3"]


def length(messages, answer, record):
    """A rule whose scale differs from that of a reward model."""
    return 1000.0 * len(answer)


def not_a_number(messages, answer, record):
    return 1e39  # finite, but not in float32


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mix")
    recipe = make_setting(folder)
    path = str(folder / "policy")
    save_model(new_scalar(path, Model(path=path), load_tokenizer(path), seed=6), qwen(), folder / "other")
    return recipe


def mixed(**parts):
    """Return the overrides of a mix."""
    return ["reward.path=null", f"reward.mix={json.dumps(parts)}"]


def models_and_rule(setting):
    """Return the overrides of a mix of a reward model, an ensemble of two and a rule."""
    one, other = f"{setting.parent}/reward", f"{setting.parent}/other"
    return mixed(
        one={"path": one, "weight": 2.0},
        both={"path": [one, other], "std_coef": 0.5},
        length={"rule": f"{HERE}:length", "weight": 0.5},
    )


@pytest.mark.parametrize("kind", ["mean", "mean_std"])
def test_a_mix_of_one_model_twice_at_half_weight_equals_that_model(setting, tmp_path, kind):
    single, twice = tmp_path / "single", tmp_path / "twice"
    common = [*STEPS, f"ppo.reward_normalisation={kind}"]
    half = {"path": f"{setting.parent}/reward", "weight": 0.5}
    train(recipe_of(setting, f"run.dir={single}", *common))
    train(recipe_of(setting, f"run.dir={twice}", *common, *mixed(a=half, b=half)))
    for ours, theirs in zip(untimed(twice), untimed(single), strict=True):
        for part in "ab":
            assert ours.pop(f"score_{part}") == pytest.approx(theirs["score"], abs=1e-4)
            assert ours.pop(f"running_mean_{part}") == pytest.approx(theirs["running_mean"], abs=1e-4)
        assert ours.pop("normalised_score_a") == pytest.approx(ours.pop("normalised_score_b"), abs=1e-5)
        del theirs["score"], theirs["running_mean"], ours["score"]
        assert ours == pytest.approx(theirs, abs=2e-4, rel=1e-3)
    for name in ("model", "value"):
        ours, theirs = weights(twice, name), weights(single, name)
        for key in filter(has_gradient, theirs):
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)


def test_the_scores_of_a_mix_by_hand(setting, tmp_path):
    """Computed from each part's raw scores in the logged rollouts."""
    train(recipe_of(
        setting, f"run.dir={tmp_path}", *STEPS, "ppo.reward_normalisation=mean_std", *models_and_rule(setting),
        f"data.heldout={setting.parent}/prompts.jsonl", "watch.every=1", "ppo.policy_learning_rate=1e-5",
        "ppo.queries_per_step=10",
    ))  # fmt: skip
    rows, rollouts = read(tmp_path / "metrics.jsonl"), read(tmp_path / "rollouts.jsonl")
    by_step = [[row for row in rollouts if row["step"] == step] for step in range(1, 5)]
    weight = {"one": 2.0, "both": 1.0, "length": 0.5}
    seen = {name: [] for name in weight}
    for row, samples in zip(rows, by_step, strict=True):
        ended = [sample for sample in samples if sample["response"].endswith("<|im_end|>")]
        assert 0 < len(ended) < len(samples)
        assert all("scores" not in sample for sample in samples if sample not in ended)
        expected, comparable = torch.zeros(len(ended)).double(), torch.zeros(len(ended)).double()
        for name in weight:
            raw = torch.tensor([sample["scores"][name] for sample in ended]).double()
            seen[name].append(raw)
            everything, first = torch.cat(seen[name]), seen[name][0]
            normalised = (raw - everything.mean()) / everything.std(correction=0)
            expected += weight[name] * normalised
            comparable += weight[name] * (raw - first.mean()) / first.std(correction=0)
            assert row[f"score_{name}"] == pytest.approx(raw.mean().item(), rel=1e-5)
            assert row[f"normalised_score_{name}"] == pytest.approx(normalised.mean().item(), abs=1e-4)
            assert row[f"running_mean_{name}"] == pytest.approx(everything.mean().item(), rel=1e-5)
        assert_close(torch.tensor([sample["score"] for sample in ended]).double(), expected, atol=1e-4, rtol=1e-4)
        assert row["score"] == pytest.approx(comparable.mean().item(), abs=1e-4)
        assert "running_mean" not in row
        for sample in ended:
            assert sample["scores"]["length"] == 1000 * len(sample["response"].removesuffix("<|im_end|>"))
    measured = [row for row in rows if row["heldout_score"] is not None]  # steps at which a held-out response has ended
    assert measured
    first = {name: seen[name][0] for name in weight}
    for row in measured:
        units = [
            weight[name] * (row[f"heldout_score_{name}"] - first[name].mean()) / first[name].std(correction=0)
            for name in weight
        ]
        assert row["heldout_score"] == pytest.approx(sum(units).item(), abs=1e-4)


def test_a_killed_run_resumes_and_ends_bit_for_bit(setting, tmp_path):
    """The checkpoint has the running and the first step's statistics of each part."""
    long = [*STEPS, "run.save_steps=2", "ppo.reward_normalisation=mean_std", *models_and_rule(setting),
            f"data.heldout={setting.parent}/prompts.jsonl", "watch.every=2",
            "watch.keep_best=heldout_score"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(recipe_of(setting, f"run.dir={whole}", *long))
    run_and_kill(3, "ppo", setting, f"run.dir={killed}", *long)
    assert torch.load(killed / "checkpoint-2" / "state.pt").keys() == {
        *(f"{kind}_{name}" for kind in ("score_normaliser", "first_step") for name in ("one", "both", "length")),
        "kl_coef", "pretrain", "best",
    }  # fmt: skip
    again = subprocess.run(
        command("ppo", setting, f"run.dir={killed}", *long), capture_output=True, text=True, check=True
    )
    assert "continuing from checkpoint-2" in again.stdout
    assert "score length" in again.stdout  # a column of the console's table
    assert untimed(killed) == untimed(whole)
    assert (killed / "rollouts.jsonl").read_text() == (whole / "rollouts.jsonl").read_text()
    for name in ("model", "value"):
        assert same(weights(killed, name), weights(whole, name))


@pytest.mark.parametrize("hardware", ["ddp", "fsdp2"])
def test_a_run_on_two_ranks_equals_one_on_a_single_process(setting, tmp_path, hardware):
    changes = [*STEPS, "ppo.steps=2", "ppo.micro_batch_tokens=40", *models_and_rule(setting),
               f"data.heldout={{path: {setting.parent}/prompts.jsonl, take: 5}}"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, processes=2, hardware=hardware)
    assert_metrics_close(tmp_path / "one", tmp_path / "two")


def test_a_mix_of_adapters_on_a_shared_base_and_a_rule(setting, tmp_path):
    """With models=shared each model of the mix is a role; scores equal those of full models before the first update."""
    adapters = (
        make_adapters(setting.parent)[0],
        mixed(a={"path": [f"{setting.parent}/rm"] * 2}, b={"rule": f"{HERE}:length"}, c=f"{setting.parent}/rm"),
    )
    for models in ("shared", "full"):
        run = tmp_path / models
        train(recipe_of(setting, adapters[0], *adapters[1], f"models={models}", f"run.dir={run}", "ppo.steps=1"))
    one, other = untimed(tmp_path / "shared")[0], untimed(tmp_path / "full")[0]
    for name in ("score", "score_a", "score_b", "score_c", "normalised_score_c", "values", "returns"):
        assert one[name] == pytest.approx(other[name], abs=1e-3), name
    with pytest.raises(RunError) as error:
        train(recipe_of(
            setting, f"model.path={setting.parent}/rm", *adapters[1], "models=shared", f"run.dir={tmp_path}/refused"
        ))  # fmt: skip
    rm = f"{setting.parent}/rm"
    assert str(error.value) == (
        f"models=shared: model.path={rm} must be an SFT adapter and reward.mix.a.path={[rm, rm]} and "
        f"reward.mix.c.path={rm} a reward model's"
    )


def test_each_judge_has_a_cache_and_the_value_model_starts_from_the_first_model(setting, tmp_path):
    with serving(lambda number, body: f"{len(body['messages'][0]['content']) % 7}") as (url, _):
        parts = {name: {"judge": {"url": url, "model": name}} for name in ("polite", "right")}
        train(recipe_of(
            setting, f"run.dir={tmp_path}", "ppo.steps=1", *mixed(**parts, model=f"{setting.parent}/reward")
        ))  # fmt: skip
    polite, right = (read(tmp_path / f"judge_{name}.jsonl") for name in ("polite", "right"))
    assert len(polite) == len(right) > 0
    assert not (tmp_path / "judge.jsonl").exists()
    assert weights(tmp_path, "value").keys() == weights(setting.parent, "reward").keys()


def test_offloading_the_frozen_models_of_a_mix_changes_no_metric(setting, tmp_path):
    for name, offload in (("here", "false"), ("away", "true")):
        train(recipe_of(
            setting, f"run.dir={tmp_path / name}", "ppo.steps=2", f"ppo.offload_frozen={offload}",
            *models_and_rule(setting),
        ))  # fmt: skip
    assert untimed(tmp_path / "here") == untimed(tmp_path / "away")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rule": f"{HERE}:not_a_number"},
         f"reward.mix.bad of a response is not finite; look at {HERE}:not_a_number (the last checkpoint is intact)"),
        ({"rule": f"{HERE}:nothing"},
         f"reward.mix.bad.rule={HERE}:nothing: {HERE} has no function nothing; write module:function"),
        ({"path": "FOLDER/foreign"},
         "reward.mix.bad.path=FOLDER/foreign has another vocabulary than FOLDER/policy: of "),
    ],
)  # fmt: skip
def test_errors_name_the_failing_part(setting, tmp_path, bad, message):
    folder = str(setting.parent)
    foreign = shutil.copytree(setting.parent / "reward", setting.parent / "foreign", dirs_exist_ok=True)
    tokenizer = json.loads((foreign / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (foreign / "tokenizer.json").write_text(json.dumps(tokenizer))
    parts = {"good": f"{folder}/reward", "bad": {key: path.replace("FOLDER", folder) for key, path in bad.items()}}
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}", "ppo.steps=1", *mixed(**parts)))
    assert str(error.value).startswith(message.replace("FOLDER", folder))


def test_the_model_card_lists_the_parts_of_a_mix():
    mix = {"good": "me/rm", "brief": {"rule": "rules:brief", "weight": 0.5}, "kind": {"judge": {"url": "http://a"}}}
    assert rewards_line({"reward": {"path": None, "mix": mix}}) == (
        "\n\nRewards: good `me/rm` × 1, brief `rules:brief` × 0.5, kind `http://a` × 1"
    )
    assert rewards_line({"reward": {"path": "me/rm", "mix": {}}}) == "\n\nRewards: `me/rm`"
