"""Ordinary English sentences, so that the tokenizer learns more than the words of the world.

Without them real data would be tokenised into single bytes. The sentences fill patterns with common words and need not
make sense.
"""

from random import Random

_SLOTS = {
    "person": (
        "man woman child friend student teacher user customer company team family group people person author"
    ).split(),
    "thing": (
        "book house story letter question problem answer idea example list table number word sentence paragraph text "
        "program function machine computer product service system process project method article report picture game "
        "language information data state country world city water food energy money music health time day year way"
    ).split(),
    "adjective": (
        "good great small large long short new old important different same simple clear strong common possible public "
        "special natural social personal local general final major useful interesting beautiful difficult easy healthy"
    ).split(),
    "verb": (
        "make use find give take see know get need want help show write read create provide explain describe include "
        "keep change improve understand learn play work develop increase reduce support consider suggest share follow"
    ).split(),
    "past": (
        "made used found gave took saw knew got needed wanted helped showed wrote read created provided explained "
        "described included kept changed improved understood learned played worked developed said asked came went"
    ).split(),
    "doing": (
        "making using finding giving taking reading writing creating providing working learning playing thinking"
    ).split(),
    "adverb": (
        "often always usually really quickly also still then now here there together again however therefore"
    ).split(),
    "where": (
        "in the morning|at the end of the day|in this world|on the other side|for a long time|over the years|at home|"
        "with each other|during the first part|from the beginning|between the two of them|because of this|"
        "without any help|after a while|before the next step|under these conditions|as well as possible"
    ).split("|"),
    "noun": (
        "development education government relationship experience knowledge environment communication technology "
        "population production situation direction attention question solution condition position tradition action "
        "business happiness importance difference performance reference history society ability community activity"
    ).split(),
}
_PATTERNS = (
    "The {adjective} {thing} was {adverb} {past} by the {person}.",
    "If you {verb} the {thing}, you can {verb} more {noun} {where}.",
    "There are many ways to {verb} a {thing}, and some of them are {adjective}.",
    "She {past} that the {person} would {verb} the {thing} {where}.",
    "He has {adverb} been {doing} with his {person} {where}.",
    "We should {verb} this {thing} because it is {adjective} and {adjective}.",
    "What would happen if the {person} could not {verb} the {noun}?",
    "It is {adjective} to {verb} the {noun} of a {thing}.",
    "They {past} the {thing}, but the {person} {past} it {where}.",
    "Here is an example of how to {verb} a {adjective} {thing}.",
    "I think that {doing} is one of the most {adjective} things in {noun}.",
    "First, {verb} the {thing}; then {verb} your {person}'s {thing} {where}.",
    "This {thing} is about the {noun} and {noun} of the {person}.",
    "Could you please {verb} me how to {verb} it with your {adjective} {thing}?",
    "You don't need to {verb} all of these {thing}s, only those which are {adjective}.",
    "When the {person} {past}, everything else was {adverb} more {adjective} than it had been.",
    "Other {person}s who {past} their own {thing} {where} were able to {verb} {noun}.",
    "It's not just {noun}, it's what we {verb} through {doing}.",
)


def sentence(rng: Random) -> str:
    """Draw one sentence; each slot of its pattern is filled independently."""
    text = rng.choice(_PATTERNS)
    for slot, fillers in _SLOTS.items():
        while f"{{{slot}}}" in text:
            text = text.replace(f"{{{slot}}}", rng.choice(fillers), 1)
    return text


def document(rng: Random) -> str:
    """Draw a text of two to five sentences."""
    return " ".join(sentence(rng) for _ in range(rng.randint(2, 5)))
