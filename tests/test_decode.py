"""Text that comes in pieces is the text of the whole, under every kind of decoder."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tunesmith.prompt.base import resolve
from tunesmith.prompt.decode import Decoder, decode_whole
from tunesmith.prompt.load import load_contract

PIECES = ["▁", "▁Hello", "▁world", "a", ".", "!", "▁▁", "ö", "好", "\n", "\ufffd"]


@cache
def byte_level():
    """Made at first use: a home of the tests' own is there by then."""
    return load_contract(resolve("ember").folder).tokenizer


def byte_fallback():
    """As Llama 2's: sentencepiece's pieces, and bytes where there is none."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def unigram():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in PIECES)], unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def word_piece():
    words = ["[UNK]", "hello", "##lo", ".", "do", "n't", "'s", ",", "a"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=True)


def decode_each(tokenizer, ids):
    decoder = Decoder(tokenizer)
    return [piece for piece in [*map(decoder.add, ids), decoder.end()] if piece]


TOKENIZERS = {make.__name__: make() for make in (byte_fallback, unigram, word_piece)}


@pytest.mark.parametrize("name", [*TOKENIZERS, "byte_level"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_are_the_whole(name, data):
    tokenizer = TOKENIZERS[name] if name in TOKENIZERS else byte_level()
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 2), max_size=30))  # two that it does not know as well
    pieces = decode_each(tokenizer, ids)
    assert "".join(pieces) == decode_whole(tokenizer, ids)
    assert all(pieces)


@pytest.mark.parametrize("text", ["Zürich 🙂! 好的", " leading", "two\n\nlines ", "don't . stop ,", "🏳️‍🌈"])
def test_what_is_encoded_comes_back_character_by_character(text):
    for tokenizer in (byte_level(), TOKENIZERS["byte_fallback"]):
        ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        pieces = decode_each(tokenizer, ids)
        assert "".join(pieces) == decode_whole(tokenizer, ids)
        if tokenizer is byte_level():
            assert "".join(pieces) == text
            assert len(pieces) > 1
            assert not any("\ufffd" in piece for piece in pieces)


def test_each_token_is_decoded_once_or_twice_and_not_each_time(monkeypatch):
    tokenizer, steps = byte_level(), []
    ids = tokenizer.backend_tokenizer.encode("What time is breakfast? " * 40, add_special_tokens=False).ids
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: steps.append(len(ids)) or "")
    assert len(decode_each(tokenizer, ids)) > 100
    assert steps == [len(ids)]  # all together once, at the end
