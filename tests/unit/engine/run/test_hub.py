"""The model card of a push: it names the repository and keeps the user's edits."""

import json

import pytest
import yaml

from engine.run.card import model_card
from engine.run.hub import CARD, card_for


@pytest.fixture
def run(tmp_path):
    """Write the folder of a finished run."""
    (tmp_path / "model").mkdir()
    recipe = {"stage": "sft", "model": {"path": "me/base"}, "data": {"train": "a.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    report = {"read": 2, "kept": 2, "cut": 0, "dropped": {}, "tokens": 9}
    for name, value in {
        "finished": {"steps": 4, "seconds": 3.0, "at": "2026-01-02T03:04:05"},
        "environment": {"processes": 1, "device": "cpu", "packages": {"torch": "2.13.0"}},
        "data": {"train": report},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.5}\n')
    return tmp_path


def test_the_card_of_a_later_push_to_another_repository_has_its_name(run, capsys):
    (run / CARD).write_text(card_for(run, "me/base"))
    assert (run / CARD).read_text() == model_card(run, "me/base")
    assert card_for(run, "you/other-1") == model_card(run, "you/other-1")
    assert capsys.readouterr().out == ""


def test_the_users_edits_of_a_card_are_kept(run, capsys):
    licensed = model_card(run, "me/base").replace("# license: yours", "license: mit  # yours") + "\nMy words.\n"
    (run / CARD).write_text(licensed)
    card = card_for(run, "you/other")
    assert card == model_card(run, "you/other").replace("# license: yours", "license: mit  # yours") + "\nMy words.\n"
    assert "base_model: me/base" in card  # the base model, not the repository
    assert capsys.readouterr().out == (
        f"{run / CARD}: your edits are kept, for you/other; delete it to get a new one\n"
    )
    (run / CARD).unlink()
    assert card_for(run, "you/other") == model_card(run, "you/other")


def test_a_card_without_the_generated_title_is_kept_unchanged(run):
    (run / CARD).write_text("My own card.\n")
    assert card_for(run, "you/other") == "My own card.\n"
