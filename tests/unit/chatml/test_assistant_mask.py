"""transformers' assistant mask differs from ours if the last character of an answer is several tokens."""

import pytest

from chatml import IGNORE, chat_template, encode
from tests.support.real_tokenizers import as_published
from tests.support.tokenizers import qwen


def smollm2():
    return as_published("smollm2")


def trained_on(tokenizer, answer):
    """Return an answer's tokens that our mask trains on, and those of transformers' mask with our saved template."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]
    ours = encode(talk, tokenizer)
    theirs = tokenizer.apply_chat_template(
        talk, chat_template=chat_template(tokenizer), return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == ours.input_ids
    names = tokenizer.convert_ids_to_tokens(ours.input_ids)
    return (
        [name for name, label in zip(names, ours.labels, strict=True) if label != IGNORE],
        [name for name, mask in zip(names, theirs["assistant_masks"], strict=True) if mask],
    )


@pytest.mark.parametrize("make", [qwen, smollm2])
@pytest.mark.parametrize("answer", ["Hello!", "naïve", "A parrot 🦜."])
def test_the_masks_agree_if_the_last_character_is_one_token(make, answer):
    ours, theirs = trained_on(make(), answer)
    assert ours == theirs
    assert ours[-1] == "<|im_end|>"


@pytest.mark.parametrize(
    ("make", "answer", "missed"),
    [(qwen, "A parrot 🦜", ["Ł", "¦", "ľ"]), (smollm2, "A parrot 🦜", ["¦", "ľ"]), (smollm2, "∀", ["Ģ"])],
)
def test_transformers_mask_has_only_the_first_token_of_the_last_character(make, answer, missed):
    ours, theirs = trained_on(make(), answer)
    *text, end = ours
    assert end == theirs[-1] == "<|im_end|>"
    assert text[-len(missed) :] == missed
    assert theirs == [*text[: -len(missed)], end]
