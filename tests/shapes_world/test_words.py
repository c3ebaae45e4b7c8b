"""Known words are exactly those of the captions."""

import re
from itertools import product

from uni_instruct_3d.shapes_world import CLASSES, COLORS, PATTERNS, VIEWS, caption, sample_batch
from uni_instruct_3d.shapes_world.vocabulary import PREFIXES
from uni_instruct_3d.shapes_world.words import known_words, unknown_words


def test_every_word_of_every_caption_is_known_and_every_known_word_is_in_one():
    made = {
        caption(name, color, pattern, view, kind, prefix)
        for name, color, pattern in product(CLASSES, COLORS, PATTERNS)
        for view, kind, prefix in [(view, i % 3, PREFIXES[i % 4]) for i, view in enumerate(VIEWS)]
    }
    made |= set(sample_batch(seed=0, start=0, n=300, size=8, split="train", group=1)["caption"])
    words = {word for text in made for word in re.findall(r"\w+", text.lower())}
    assert words <= known_words()
    assert known_words() - words <= {"the"}  # an article that a person may write


def test_unknown_words_are_named_with_what_is_near():
    assert unknown_words("A striped blue mug, DSLR photo.") == {}
    assert unknown_words("a red mugg on a dragon") == {"mugg": ["mug"], "dragon": []}
    assert unknown_words("花瓶 花瓶 plain") == {"花瓶": [], "plain": []}
