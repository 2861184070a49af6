"""The input of a report: an evaluation's files, its models' run folders, and a colour for each name."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from config.scoring import Scoring
from engine.files import jsonl
from eval.answers import best_of_candidates
from eval.figures import Summary, compared_subjects, main_figure
from eval.recipe import Eval
from eval.report.drawing import LIGHT, colours
from eval.run_folders import Stage, run_folders
from eval.subjects import BestOf

Answer = dict[str, Any]
Pair = dict[str, Any]


@dataclass(frozen=True)
class EvaluationFiles:
    """The contents of an evaluation's run folder. Files that do not exist yet read as empty."""

    recipe: Eval

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.dir)

    @cached_property
    def summary(self) -> Summary:
        return read_json(self.folder / "summary.json")

    @cached_property
    def answers(self) -> list[Answer]:
        """The lines of answers.jsonl, with a key `score`: the score by the main reward."""
        lines = jsonl.read(self.folder / "answers.jsonl") if self.summary else []
        return [line | {"score": line["scores"].get(self.summary["reward"])} for line in lines]

    @cached_property
    def pairs(self) -> list[Pair]:
        """The lines of pairs.jsonl."""
        return jsonl.read(self.folder / "pairs.jsonl") if self.summary else []

    @cached_property
    def candidates(self) -> dict[str, list[list[Answer]]]:
        """Best-of-n subject -> its n answers per item, with a key `score`: the score by the reward that picked."""
        found = {}
        for name, kind in self.recipe.eval.subject_kinds().items():
            if isinstance(kind, BestOf) and name in self.summary.get("subjects", {}):
                reward = kind.reward or self.recipe.eval.main_reward
                groups = best_of_candidates(self.folder, name)
                found[name] = [[answer | {"score": answer["scores"][reward]} for answer in group] for group in groups]
        return found

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The run folders of subjects and rewards, by name, see eval/run_folders.py."""
        return run_folders(self.recipe)

    def stages_of_kind(self, kind: str) -> dict[str, Stage]:
        return {name: stage for name, stage in self.stages.items() if stage.kind == kind}

    @cached_property
    def subjects(self) -> list[str]:
        """Names of the summary's subjects, in the table's order; of the recipe's subjects without a summary."""
        return list(self.summary.get("subjects", {})) if self.summary else list(self.recipe.eval.subjects)

    @cached_property
    def reference(self) -> str | None:
        return self.summary["reference"] if self.summary.get("subjects") else self.recipe.eval.main_reference

    @cached_property
    def colours(self) -> dict[str, str]:
        """Subject -> name of its colour, the same in the whole report."""
        return colours(self.subjects, self.reference)

    @cached_property
    def reward_colours(self) -> dict[str, str]:
        """Reward -> name of its colour, from the end of the palette, so that it is rarely also a subject's."""
        names = list(dict.fromkeys([*self.summary.get("rewards", {}), *self.recipe.eval.rewards]))
        return {name: list(colours(map(str, range(6))).values())[5 - at % 6] for at, name in enumerate(names)}

    def colour(self, name: str) -> str:
        """Return the name of the colour of a subject or a reward; the text colour for other names."""
        return self.colours.get(name) or self.reward_colours.get(name, "ink")

    def plot_colour(self, name: str) -> str:
        """Return the light colour (hex) for a name in plots. The stages of a reward ("rm", "rm 2") share its colour."""
        return LIGHT[self.colours.get(name) or self.reward_colours.get(name.split(" ")[0], "muted")]

    @property
    def compared_by(self) -> str | None:
        """The figure that answers are compared by: gold, else score; None if they have neither."""
        figure = main_figure(self.summary)
        return figure.metric if figure else None

    @property
    def compared_subjects(self) -> list[str]:
        return compared_subjects(self.summary)

    def trained_with(self, subject: str) -> list[str]:
        """Return the names of the rewards that a subject was trained with, or picked by."""
        kind = self.recipe.eval.subject_kinds().get(subject)
        if isinstance(kind, BestOf):
            return [kind.reward or self.summary.get("reward", "")]
        stage = self.stages.get(subject)
        if stage is None or stage.kind != "ppo":
            return []
        sources = _sources(stage.recipe.get("reward") or {})
        return [name for name, scoring in self.recipe.eval.reward_models().items() if sources & _sources(scoring)]


def _sources(reward: Any) -> set[str]:
    """Return all models (as absolute paths), rules and judge URLs in a section `reward`, including those of a mix."""
    if isinstance(reward, Scoring):
        reward = {"path": reward.path, "rule": reward.rule, "judge": {"url": reward.judge.url}}
    if not isinstance(reward, dict):  # part of a mix: a path or a list of paths
        reward = {"path": reward}
    if mix := reward.get("mix"):
        return set().union(*map(_sources, mix.values()))
    paths = reward.get("path") or []
    models = [paths] if isinstance(paths, str) else list(paths)
    others_named = (reward.get("rule"), (reward.get("judge") or {}).get("url"))
    return {str(Path(path).resolve()) for path in models} | {name for name in others_named if name}


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file; {} if it does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
