"""Run all measures of all subjects and rewards. One model is in memory at a time, loaded once and only if needed."""

from functools import cache
from typing import Any

from engine.generation.request import GenerationRequest
from engine.generation.streams import RandomStream
from engine.run.folder import RunFolder
from eval.answers import answer_settings, ask_endpoint, generate, logprobs
from eval.item_store import ItemStore
from eval.items import check_context, read_items
from eval.models import Models
from eval.perplexity import read_texts, text_losses
from eval.recipe import Eval
from eval.records import Findings
from eval.scores import answer_batch, pair_batch, read_pairs, reward_context, reward_tokenizer, score
from eval.subjects import BestOf, Endpoint, LocalModel, Subject
from eval.summary import EvaluatedSubjects
from eval.system_prompt import converse_with_endpoint, converse_with_model, read_scripts


class Evaluation:
    """A running evaluation: its recipe, its data, and its results so far."""

    def __init__(self, recipe: Eval, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.subjects: dict[str, Subject] = recipe.eval.subject_kinds()
        self.models = Models(recipe.model, recipe.main_tokenizer)
        self.found = Findings()
        measures = recipe.measures
        self.items = read_items(recipe, self.models, folder) if "answers" in measures else None
        self.texts = read_texts(recipe, self.models, folder) if "perplexity" in measures else {}
        self.pairs = (
            read_pairs(recipe, self.models.main_tokenizer, self.models, folder) if "comparisons" in measures else {}
        )
        self.scripts = read_scripts(recipe, self.models, folder) if "system_prompt" in measures else []
        if self.items:
            check_context(self.items, self.subjects, self.models, recipe.sampling)

    def measure(self) -> None:
        """Run all measures of all subjects and rewards.

        The reference comes last, because it also computes log-probabilities of the others' answers.
        """
        reference = self.recipe.eval.main_reference
        for name in sorted(self.subjects, key=lambda name: name == reference):
            subject = self.subjects[name]
            if isinstance(subject, LocalModel):
                self.measure_model(name, subject)
            elif isinstance(subject, Endpoint):
                self.measure_endpoint(name, subject)
        for name in self.recipe.eval.rewards:
            self.measure_reward(name)

    def measure_endpoint(self, name: str, subject: Endpoint) -> None:
        """Collect an endpoint's answers and conversations."""
        identity, sampling, seed = (
            (subject.url, subject.model, self.sampling),
            self.recipe.sampling,
            self.recipe.run.seed,
        )
        if self.items:
            chats = self.items.chats()
            store, keys = self.store(f"{name} answers", *identity), self.items.keys(chats)
            self.found.answers[name] = ask_endpoint(store, keys, chats, name, subject, sampling, seed)
        if self.scripts:
            store, tokenizer = self.store(f"{name} system_prompt", *identity), self.models.main_tokenizer
            room = self.recipe.data.max_prompt_tokens
            self.found.conversations[name] = converse_with_endpoint(
                store, self.scripts, name, subject, tokenizer, sampling, seed, room
            )

    def measure_model(self, name: str, subject: LocalModel) -> None:
        """Collect a model's answers, its best-of-n candidates, log-probabilities of answers, conversations and loss on
        text."""
        recipe, models, found, items = self.recipe, self.models, self.found, self.items
        tokenizer, identity = models.tokenizer_of(subject), models.identity(subject.path, subject.revision)
        load = cache(lambda: models.causal(subject))

        if items:
            own = {name: 1} | {
                other: kind.n
                for other, kind in self.subjects.items()
                if isinstance(kind, BestOf) and kind.best_of == name
            }
            for answering, n in own.items():
                store = self.store(f"{answering} answers", identity, self.sampling, n)
                prompts = items.prompts(tokenizer)
                request = GenerationRequest(
                    prompts, range(len(prompts)), n, RandomStream.named(recipe.run.seed, "eval")
                )
                answers = generate(store, items.keys(prompts), request, load, tokenizer, recipe.sampling)
                found.answers[answering] = answers

            def under_this_model(other: str) -> list[float]:
                store = self.store(f"{other} logprobs under {name}", identity, recipe.sampling.temperature)
                return logprobs(store, items, found.answers[other], load, tokenizer, recipe.sampling.temperature)

            found.logprobs[name] = under_this_model(name)
            if name == recipe.eval.main_reference:
                found.reference_logprobs[name] = found.logprobs[name]
                for other, kind in self.subjects.items():
                    if other != name and isinstance(kind, LocalModel) and models.tokenizer_of(kind) is tokenizer:
                        found.reference_logprobs[other] = under_this_model(other)
        context = models.context(subject.path, subject.revision)
        if self.scripts:
            store, room = self.store(f"{name} system_prompt", identity, self.sampling), recipe.data.max_prompt_tokens
            if context is not None:
                room = min(room, context - recipe.sampling.max_new_tokens)
            found.conversations[name] = converse_with_model(
                store, self.scripts, load, tokenizer, recipe.sampling, recipe.run.seed, room
            )
        length = min(recipe.data.max_length, context or recipe.data.max_length)
        for name_of_set, documents in self.texts.items():
            store = self.store(f"{name} {name_of_set}", identity, length)
            by_subject = found.texts.setdefault(name_of_set, {})
            by_subject[name] = text_losses(store, documents, load, tokenizer, length)

    def measure_reward(self, name: str) -> None:
        """Score all answers and both sides of all comparisons with one reward."""
        scoring, models = self.recipe.eval.reward_models()[name], self.models
        tokenizer, context = reward_tokenizer(scoring, models), reward_context(scoring, models)
        answers = {}
        if self.items:
            for subject, rows in self.found.answers.items():
                kind = self.subjects[subject]
                base = self.subjects[kind.best_of] if isinstance(kind, BestOf) else kind
                own = models.tokenizer_of(base) if isinstance(base, LocalModel) else None
                answers[subject] = answer_batch(subject, self.items, rows, own, tokenizer, context)
        shared = tokenizer is models.main_tokenizer
        pairs = self.pairs if shared or not self.pairs else read_pairs(self.recipe, tokenizer, models, self.folder)
        batches = [batch for batch, _ in answers.values()]
        batches += [pair_batch(each, rows, tokenizer) for each, rows in pairs.items()]
        scores = iter(score(name, scoring, batches, models, self.folder.path))
        for subject, (_, places) in answers.items():
            by_item: list[list[float | None]] = [[None] * len(row["answers"]) for row in self.found.answers[subject]]
            for (item, at), value in zip(places, next(scores), strict=True):
                by_item[item][at] = value
            self.found.scores.setdefault(subject, {})[name] = by_item
        for each in pairs:
            sides = iter(next(scores))
            self.found.pairs.setdefault(each, {})[name] = list(zip(sides, sides, strict=True))

    def evaluated_subjects(self) -> EvaluatedSubjects:
        """Return what the summary needs to know of the subjects, with reasons for figures that are null."""
        reference = self.recipe.eval.main_reference
        why = {name: self.reasons(name, subject, reference) for name, subject in self.subjects.items()}
        return EvaluatedSubjects(list(self.subjects), reference, self.recipe.eval.main_reward, why)

    def reasons(self, name: str, subject: Subject, reference: str | None) -> dict[str, str]:
        """Return {figure: reason} of the figures that this subject cannot have."""
        assert reference is not None  # there are subjects, so one of them is the reference
        kind = self.subjects[reference]
        if isinstance(subject, Endpoint):
            silent = "an endpoint returns no log-probabilities of given tokens"
            return {
                "tokens": "an endpoint counts tokens with another tokenizer",
                "kl_to_reference": silent,
                "perplexity": silent,
            }
        if isinstance(subject, BestOf):
            none = f"best of n has no log-probabilities; see {subject.best_of}"
            return {
                "kl_to_reference": "best of n has no log-probabilities",
                "perplexity": none,
                "system_prompt": f"best of n picks answers to single prompts only; see {subject.best_of}",
            }
        if not isinstance(kind, LocalModel):
            what = "an endpoint" if isinstance(kind, Endpoint) else "best of n"
            return {"kl_to_reference": f"the reference {reference} is {what}, which has no log-probabilities"}
        if self.models.tokenizer_of(subject) is not self.models.tokenizer_of(kind):
            return {"kl_to_reference": f"{name} and the reference {reference} have different tokenizers"}
        return {}

    def store(self, name: str, *decisive: Any) -> ItemStore:
        return ItemStore(self.folder.path, name, *decisive)

    @property
    def sampling(self) -> Any:
        """The settings that determine answers, besides model and prompt."""
        return [answer_settings(self.recipe.sampling), self.recipe.run.seed]
