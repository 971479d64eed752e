"""What a tagger says of texts and of words: `tunesmith.load("runs/slots").predict(["A room for two, please."])`.

Axes: T tokens, W words, C tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import DataError
from tunesmith.data.formats.values import list_of, text_of
from tunesmith.data.formats.words import places_of, words_in
from tunesmith.data.kinds.prepared import Tokens, tokens_of
from tunesmith.data.kinds.schemes import OUTSIDE, scheme_of, stretches
from tunesmith.data.kinds.tagged import WORDS, Tagged, pieces_of
from tunesmith.data.prepare import Prepared
from tunesmith.infer.predict.predictor import TaskPredictor, stream
from tunesmith.infer.predict.tokens import TokenReader, logits_of
from tunesmith.prompt.base import positions_in
from tunesmith.prompt.contract import Contract, Rendered
from tunesmith.prompt.words import draft_words

Given = str | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Entity:
    """A stretch of words with its label.

    Attributes:
        label: what it is.
        start, end: of its characters in the text; of its words, where words were given.
        text: what it says.
        score: the mean probability of its words' tags.
    """

    label: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Tagging:
    """What is said of a text's words.

    Attributes:
        words: its words.
        tags: of each.
        entities: the stretches that these mark; none where tags mark no stretches.
        by_words: whether words were given, so that their tags are told too.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    by_words: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        entities = [vars(one) for one in self.entities]
        return {"entities": entities, **({"tags": list(self.tags)} if self.by_words else {})}


@dataclass(frozen=True)
class WordsRead:
    """Words as the model reads them.

    Attributes:
        words: as they are.
        places: where each stands in the text; none where words were given alone.
        text: in which they stand.
        pieces: their sequences, several of a long text.
    """

    words: tuple[str, ...]
    pieces: list[Tokens]
    places: tuple[int, ...] = field(default=())
    text: str | None = None


class Tagger:
    """A model that says of words what they are: a `Predictor`.

    Attributes:
        keys: names of columns with texts or words.
        contract: how words become tokens.
        names: of the tags, by their ids.
        scheme: how they are read.
        takes: tokens that the model takes; None if its configuration does not say.
    """

    keys = frozenset({"text", *WORDS})

    def __init__(self, model: Any, contract: Contract, card: Mapping[str, Any]) -> None:
        """Use `model`, in evaluation mode.

        Args:
            model: for the task `token_classify`.
            contract: of the same folder.
            card: of the same folder.
        """
        self.reader, self.contract = TokenReader(model), contract
        self.names = [model.config.id2label[place] for place in range(model.config.num_labels)]
        self.scheme = scheme_of(self.names).name
        self.takes = positions_in(model.config.get_text_config().to_dict())

    def predict(self, texts: Iterable[Given]) -> list[Tagging]:
        """What is marked in each text.

        Args:
            texts: texts, or lists of words.

        Raises:
            DataError: one is neither, or has no word.
        """
        return [tagging for _, tagging in stream(self, texts)]

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The words of a row, or its text.

        Raises:
            RowFault: it has neither.
        """
        key = next((key for key in WORDS if values.get(key) is not None), None)
        return {"text": text_of(values, "text")} if key is None else {"tokens": list_of(values, key, "words")}

    def read(self, given: Given) -> WordsRead:
        """The token ids of a text's words, or of words.

        Raises:
            DataError: they cannot be read.
        """
        if isinstance(given, Mapping):
            given = given["tokens"] if "tokens" in given else given["text"]
        if isinstance(given, str):
            places = words_in(given)
            words = tuple(given[begin:end] for begin, end in places)
            return self._read(words, given, tuple(begin for begin, _ in places))
        words = tuple(given)
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise DataError(f"{str(given)[:60]!r}: give a text, or a list of words, none of them empty.")
        return self._read(words)

    def of_row(self, content: Tagged) -> WordsRead:
        """The words of a row of a data set."""
        places = None if content.text is None else places_of(content.tokens, content.text)
        return self._read(content.tokens, content.text, tuple(places or ()))

    def _read(self, words: tuple[str, ...], text: str | None = None, places: tuple[int, ...] = ()) -> WordsRead:
        if not words:
            raise DataError(f"{(text or '')[:60]!r}: holds no word.")
        close = Tagged(words, (), text).close
        [rendered] = self.contract.render_many([draft_words(words, close)])
        if not isinstance(rendered, Rendered):
            raise DataError(str(rendered))
        whole = tokens_of(rendered)
        short = self.takes is None or len(whole.ids) <= self.takes
        pieces = [whole] if short else pieces_of(whole, self.takes or 0, self.contract)
        return WordsRead(words, pieces, places, text)

    def answers(self, reads: Sequence[WordsRead]) -> list[Tagging]:
        """What is marked in each of some texts that were read."""
        flat = [(one.ids, len(one.ids)) for read in reads for one in read.pieces]
        found = iter(self.reader.logits(flat))
        return [self._said_of(read, [next(found) for _ in read.pieces]) for read in reads]

    def _said_of(self, read: WordsRead, logits: Sequence[np.ndarray]) -> Tagging:
        """What the logits of a text's tokens mean."""
        spans = [span for piece in read.pieces for span in piece.spans]
        logits_WC = np.concatenate(
            [
                logits_TC[[begin for begin, _ in piece.spans]]
                for piece, logits_TC in zip(read.pieces, logits, strict=True)
            ]
        )
        share_WC = torch.from_numpy(logits_WC).softmax(-1).numpy()
        none = OUTSIDE if OUTSIDE in self.names else self.names[0]  # of a word that the tokenizer makes nothing of
        tags = tuple(
            self.names[int(share_C.argmax())] if end > begin else none
            for share_C, (begin, end) in zip(share_WC, spans, strict=True)
        )
        marked = stretches(tags, self.scheme) if self.scheme != "none" else []
        entities = tuple(
            self._entity(read, one.label, one.begin, one.end, float(share_WC[one.begin : one.end].max(-1).mean()))
            for one in marked
        )
        return Tagging(read.words, tags, entities, not read.places or self.scheme == "none")

    def _entity(self, read: WordsRead, label: str, begin: int, end: int, score: float) -> Entity:
        if not read.places:
            return Entity(label, begin, end, " ".join(read.words[begin:end]), score)
        start, stop = read.places[begin], read.places[end - 1] + len(read.words[end - 1])
        return Entity(label, start, stop, (read.text or "")[start:stop], score)


def outputs(model: Any, rows: Sequence[Prepared]) -> list[np.ndarray]:
    """The logits of each row's tokens, (T, C)."""
    flat = iter(logits_of(model.eval(), [(one.ids, len(one.ids)) for row in rows for one in row.sequences]))
    return [np.concatenate([next(flat) for _ in row.sequences]) for row in rows]


PREDICTOR = TaskPredictor(Tagger, outputs)
