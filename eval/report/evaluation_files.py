"""What a report is made of: an evaluation's files, the run folders its models came from, and a colour for each name."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.files import jsonl
from eval.answers import best_of_candidates
from eval.figures import Summary, main_figure, others
from eval.recipe import Eval
from eval.report.drawing import LIGHT, colours
from eval.run_folders import Stage, run_folders
from eval.subjects import BestOf

Answer = dict[str, Any]
Pair = dict[str, Any]


@dataclass(frozen=True)
class EvaluationFiles:
    """An evaluation's run folder; whatever has not been made yet is empty."""

    recipe: Eval

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.dir)

    @cached_property
    def summary(self) -> Summary:
        return read_json(self.folder / "summary.json")

    @cached_property
    def answers(self) -> list[Answer]:
        """The lines of answers.jsonl, with `score`: the one by the main reward."""
        lines = jsonl.read(self.folder / "answers.jsonl") if self.summary else []
        return [line | {"score": line["scores"].get(self.summary["reward"])} for line in lines]

    @cached_property
    def pairs(self) -> list[Pair]:
        """The lines of pairs.jsonl."""
        return jsonl.read(self.folder / "pairs.jsonl") if self.summary else []

    @cached_property
    def candidates(self) -> dict[str, list[list[Answer]]]:
        """Best-of-n subject -> for each item its n answers, with `score`: the one by the reward that chose."""
        found = {}
        for name, kind in self.recipe.eval.subject_kinds().items():
            if isinstance(kind, BestOf) and name in self.summary.get("subjects", {}):
                reward = kind.reward or self.recipe.eval.main_reward
                groups = best_of_candidates(self.folder, name)
                found[name] = [[answer | {"score": answer["scores"][reward]} for answer in group] for group in groups]
        return found

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """The run folders of subjects and rewards, by name."""
        return run_folders(self.recipe)

    def stages_of_kind(self, kind: str) -> dict[str, Stage]:
        return {name: stage for name, stage in self.stages.items() if stage.kind == kind}

    @cached_property
    def subjects(self) -> list[str]:
        """Those of the summary, in the table's order; before there is one, those of the recipe."""
        return list(self.summary.get("subjects", {})) if self.summary else list(self.recipe.eval.subjects)

    @cached_property
    def reference(self) -> str | None:
        return self.summary["reference"] if self.summary.get("subjects") else self.recipe.eval.main_reference

    @cached_property
    def colours(self) -> dict[str, str]:
        """Subject -> name of its colour, one throughout the page."""
        return colours(self.subjects, self.reference)

    @cached_property
    def reward_colours(self) -> dict[str, str]:
        """Reward -> name of its colour, from the palette's other end, so that it is seldom a subject's."""
        names = list(dict.fromkeys([*self.summary.get("rewards", {}), *self.recipe.eval.rewards]))
        return {name: list(colours(range(6)).values())[5 - at % 6] for at, name in enumerate(names)}

    def colour(self, name: str) -> str:
        """The name of the colour of a subject or a reward; that of text for other names."""
        return self.colours.get(name) or self.reward_colours.get(name, "ink")

    def light(self, name: str) -> str:
        """The colour in which plots are drawn. A run of a reward's second model is called "rm 2" (or "rm (reward)")."""
        return LIGHT[self.colours.get(name) or self.reward_colours.get(name.split(" ")[0], "muted")]

    @property
    def compared_by(self) -> str | None:
        """gold, else score; None where answers have neither."""
        figure = main_figure(self.summary)
        return figure.metric if figure else None

    @property
    def others(self) -> list[str]:
        return others(self.summary)

    def optimised(self, subject: str) -> bool:
        """Whether what a subject was trained or chosen by is the reward that gives the figure `score`."""
        main = self.summary.get("reward")
        kind = self.recipe.eval.subject_kinds().get(subject)
        if isinstance(kind, BestOf):
            return (kind.reward or main) == main
        stage = self.stages.get(subject)
        if main is None or stage is None or stage.kind != "ppo":
            return False
        scored_by = self.recipe.eval.reward_models().get(main)
        if scored_by is None:
            return False
        named = {"path": scored_by.path, "rule": scored_by.rule, "judge": {"url": scored_by.judge.url}}
        return bool(_sources(stage.recipe.get("reward") or {}) & _sources(named))


def _sources(reward: Any) -> set[str]:
    """Models (as absolute paths), functions and endpoints that a section `reward` names, those of a mix together."""
    if not isinstance(reward, dict):  # a part of a mix that is a path, or a list of them
        reward = {"path": reward}
    if mix := reward.get("mix"):
        return set().union(*map(_sources, mix.values()))
    paths = reward.get("path") or []
    models = [paths] if isinstance(paths, str) else list(paths)
    others_named = (reward.get("rule"), (reward.get("judge") or {}).get("url"))
    return {str(Path(path).resolve()) for path in models} | {name for name in others_named if name}


def read_json(path: Path) -> dict[str, Any]:
    """The contents of a file; {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
