"""A CLIP tokenizer whose vocabulary is the world's words, one token each, and every byte for all other words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
# words a user of text-to-3D may write around the world's own: threestudio's view words, prompt idioms
EXTRA_WORDS = (
    "a", "an", "the", "of", "on", "with", "and", "in", "photo", "picture", "image", "high", "quality", "dslr",
    "3d", "render", "view", "front", "side", "back", "overhead", "top", "normal", "map", "grey", "gray",
    "shading", "textureless", "refined", "artistic", "patterns", "sitting", "stack", "small", "big", "old", "new",
    "beautiful", "highly", "detailed", "background", "white", "object", "toy", "model",
)  # fmt: skip


def words_of(captions: Iterable[str]) -> list[str]:
    """All different words and punctuation marks of ``captions`` plus :data:`EXTRA_WORDS`, sorted."""
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = {word for text in captions for word, _ in split.pre_tokenize_str(text.lower())}
    return sorted(words.union(EXTRA_WORDS))


def _knows(tokenizer: CLIPTokenizer, words: list[str], context: int) -> bool:
    """Whether every word has a token."""
    return tokenizer.model_max_length == context and {f"{word}</w>" for word in words} <= tokenizer.get_vocab().keys()


def write_tokenizer(folder: Path, captions: Iterable[str], context: int) -> CLIPTokenizer:
    """Learn byte-pair merges until every word is one token; write vocab.json and merges.txt; return the tokenizer.

    A tokenizer in ``folder`` that already knows all the words is kept: the library breaks ties between equally frequent
    pairs by chance, and a resumed training must not have its token ids changed under it.

    Merges learned on the words themselves reproduce them (a hand-made chain of prefixes would not: a merge of another
    word can come first). Unknown words fall apart into known pieces, at worst into bytes. The two special tokens have
    the highest ids, as in OpenAI's vocabulary: CLIP pools at the arg-max.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = words_of(captions)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        kept = CLIPTokenizer.from_pretrained(folder)
        if _knows(kept, words, context):
            return kept
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, show_progress=False, end_of_word_suffix="</w>", initial_alphabet=[]
    )
    tokenizer.train_from_iterator(words, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in learned["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(dict.fromkeys([*letters, *(letter + "</w>" for letter in letters), *sorted(learned["vocab"])]))
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    for name, text in (
        ("vocab.json", json.dumps(vocabulary, ensure_ascii=False, indent=0)),
        ("merges.txt", "\n".join(["#version: 0.2", *merges, ""])),
        ("tokenizer_config.json", json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": context, "do_lower_case": True,
            "add_prefix_space": False, "errors": "replace", "bos_token": START, "eos_token": END, "unk_token": END,
            "pad_token": END,
        }, indent=2)),
        ("special_tokens_map.json", json.dumps(
            {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}, indent=2)),
    ):  # fmt: skip
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, folder / name)
    return CLIPTokenizer.from_pretrained(folder)
