"""A model in this process as a `Generator`, a `Scorer` and `Updatable`.

Answers run in one batch that they join and leave (`batch.py`), over a copy of the model that shares its weights
(`network.py`). Where that copy does not compute what the model computes, or cannot be made, the library's own
forward pass is used (`plain.py`), and `reason` says why.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean
from tunesmith.infer.engine.adapters import (
    Adapter,
    CannotStack,
    active_of,
    adapters_of,
    can_fold,
    fold,
    make_adapter,
    read_adapter,
)
from tunesmith.infer.engine.answering import LocalAnswering
from tunesmith.infer.engine.batch import SlotBatch
from tunesmith.infer.engine.compared import why_logits_differ
from tunesmith.infer.engine.compiled import LayerGraphs
from tunesmith.infer.engine.network import Network, why_alone
from tunesmith.infer.engine.plain import PlainBatch
from tunesmith.infer.engine.replay import Replays, recorder_for
from tunesmith.infer.engine.request import Request
from tunesmith.infer.engine.scheduler import Scheduler
from tunesmith.infer.engine.scoring import score_rows
from tunesmith.infer.engine.steer import Grammars, refuse_bias, steer_of
from tunesmith.infer.generator import Options, Prompt, RowScore, is_conversation
from tunesmith.infer.text import TextStream
from tunesmith.model.device import free_bytes
from tunesmith.model.heads import task_type
from tunesmith.model.soft import soft_tokens
from tunesmith.prompt.contract import Contract

LOGITS_A_PASS = 2**28  # most that are built at once: 1 GiB in fp32
COMPILE_AFTER = 10.0  # seconds of uncompiled decoding after which compiling is likely to pay for itself
ADAPTER_SHARE = 0.25  # of the free memory, that one more adapter may take with the places that come with it
FOLDED_SHARE = 0.25  # of the free memory, that a copy of the weights may take with an adapter folded in
MOST_WAITING = 1024  # answers that wait for a place in the batch


@dataclass(frozen=True)
class DecodePath:
    """How a model is decoded.

    Attributes:
        scheduler: drives the batch.
        network: the copy that decodes; None where the model itself does.
        reason: why it is the model itself, as a sentence.
        folded: why no adapter can join, where the copy's weights have one folded in.
        replays: steps that were recorded, on a GPU.
    """

    scheduler: Scheduler
    network: Network | None
    reason: str
    folded: str = ""
    replays: Replays | None = None


class LocalEngine:
    """Answers and scores with a transformers model, which it does not change."""

    def __init__(
        self,
        model: Any,
        contract: Contract | None,
        batch_size: int = 32,
        batch_tokens: int = 8192,
        compile_after: float | None = COMPILE_AFTER,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        """Use `model`, in evaluation mode. When its weights change, `refresh` must be told.

        Args:
            model: a causal language model.
            contract: how conversations become tokens and tokens text, and where an answer ends. If None, prompts are
                token ids, answers have no text, and none ends before its longest length.
            batch_size: most rows decoded together.
            batch_tokens: most tokens of prompts or rows, padding included, taken together; fewer where the
                vocabulary is large, since every scored position has a logit for each word.
            compile_after: seconds of decoding after which layers are compiled in the background; never if None.
            most_waiting: answers that may wait for a place in the batch.
        """
        if task_type(model) != "CAUSAL_LM":
            raise ModelError(
                "this model says what texts are, or what stands in them, and writes none. Use `tunesmith predict`."
            )
        config = model.config.get_text_config()
        self.model = model
        self.contract = contract
        self.batch_size = batch_size
        self.batch_tokens = min(batch_tokens, LOGITS_A_PASS // config.vocab_size)
        self._soft = soft_tokens(model)
        takes = getattr(config, "max_position_embeddings", None)
        self.positions: int | None = None if takes is None else takes - len(self._soft)
        self._compile_after, self._most_waiting = compile_after, most_waiting
        self._adapters: list[Adapter] = []
        self._own: list[str] = []  # adapters that the model brought along: the first of all
        self._active = -1  # the one that it uses
        self._graphs: LayerGraphs | None = None
        self._outdated: LayerGraphs | None = None
        self._lock = threading.Lock()
        self._grammars = Grammars(contract, config.vocab_size)
        self._decided: DecodePath | None = None

    @property
    def reason(self) -> str:
        """Why answers are decoded in a slower way than they could be, as a sentence; empty if they are not."""
        path = self._path()
        parts = [part for part in (self._graphs, path.replays) if part is not None]
        return path.reason or next((part.reason for part in parts if part.reason), "")

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that answers can use."""
        self._path()
        return [adapter.name for adapter in self._adapters]

    def submit(
        self,
        prompt: Prompt,
        options: Options = Options(),  # noqa: B008  frozen
        embeddings: torch.Tensor | None = None,
    ) -> LocalAnswering:
        """Begin to answer as soon as there is room; see `Generator`.

        Args:
            prompt: the same.
            options: the same.
            embeddings: a soft prompt (tokens, width), put in front of the prompt.

        Raises:
            Full: too many wait already.
            ConfigError: a bias of a token that is none, or a schema that makes no sense.
            ModelError: the prompt fills all positions that the model has, or cannot be computed; or there is no such
                adapter.
        """
        ids = self._ids(prompt, options)
        self._refuse_unknown(ids, embeddings)
        longest = len(ids) + (0 if embeddings is None else len(embeddings))
        room = options.max_new_tokens if self.positions is None else self.positions - longest
        if room <= 0 and self.positions is not None:
            raise ModelError(
                f"the conversation has {longest} tokens and the model takes at most {self.positions}. Shorten it."
            )
        path, limit = self._path(), min(room, options.max_new_tokens)
        refuse_bias(options.logit_bias, self.model.config.get_text_config().vocab_size)
        adapter = self._active if options.adapter is None else self._number(options.adapter)
        ids = [*self._soft, *ids]
        requests = [
            Request(
                ids,
                options,
                limit,
                adapter,
                embeddings,
                self._watch(options),
                options.seed + index,
                steer_of(options, self._grammars),
            )
            for index in range(options.n)
        ]
        path.scheduler.submit(requests)
        return LocalAnswering(requests, self.contract, path.scheduler.wait)

    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """The score of each row (ids and mask), in order, through the model's own forward pass."""
        soft = self._soft
        if soft:  # the first token of a row has no prediction with them either
            rows = [([*soft, *ids], [False] * (len(soft) + 1) + mask[1:]) for ids, mask in rows]
        return score_rows(self.model, rows, self.batch_tokens)

    def refresh(self) -> None:
        """Answer with the weights and adapters that the model has now; see `Updatable`.

        An adapter of the model's that `set_adapter` replaced is again what the model has.

        Raises:
            ModelError: the model has other weights or adapters than it had, by their names or shapes.
        """
        with self._lock:  # while it is being decided, weights are being copied
            path = self._decided
        if path is not None and (network := path.network) is not None:
            path.scheduler.exclusively(lambda: self._refresh(network))

    def _refresh(self, network: Network) -> None:
        try:
            if self._path_now().folded:
                network.refresh(fold(self.model))
                return
            own = adapters_of(self.model)
            if [adapter.name for adapter in own] != self._own:
                raise CannotStack("the model has other adapters than it had when the first answer was given")
            self._active = active_of(self.model)
            network.refresh(self.model)
            for place, adapter in enumerate(own):
                self._place(network, place, adapter)
        except CannotStack as error:
            raise ModelError(f"{error}. Make a new engine for it.") from None

    def set_adapter(self, name: str, tensors: Mapping[str, torch.Tensor], config: Any = None) -> None:
        """Let an adapter have these tensors from now on; see `Updatable`.

        Raises:
            ModelError: it is no plain LoRA of this base; or it is new and has no `config`; or the model itself decodes.
        """
        network = self._network(f"adapter {name!r}")
        known = {adapter.name: adapter for adapter in self._adapters}
        if config is None and name not in known:
            raise ModelError(
                f"adapter {name!r} is new: give its LoraConfig along, from which its scaling follows. "
                f"Known: {', '.join(known) or 'none'}."
            )
        try:
            self._put(network, make_adapter(name, tensors, known[name] if config is None else config))
        except CannotStack as error:
            raise ModelError(f"adapter {name!r}: {error}.") from None

    def add_adapter(self, name: str, folder: Path, instead: str | None = None) -> None:
        """Let answers use the LoRA adapter in `folder` from now on.

        Args:
            name: how a request asks for it.
            folder: that peft has written.
            instead: another one that it takes the place of; no answer under way may use that.

        Raises:
            ModelError: it cannot be read, is of another base, or the model itself decodes.
        """
        network = self._network(str(folder))
        try:
            self._put(network, read_adapter(name, folder), instead)
        except CannotStack as error:
            raise ModelError(f"{folder}: {error}. It belongs to another base.") from None

    def has_room(self, adapter: Adapter) -> bool:
        """Whether there is memory for one more of this size. Where the model itself decodes, adding it will say why."""
        network = self._path().network
        if network is None:
            return True
        return network.more_bytes(len(self._adapters), adapter) <= ADAPTER_SHARE * free_bytes(network.device.type)

    def _network(self, what: str) -> Network:
        path = self._path()
        if path.network is None or path.folded:
            raise ModelError(f"{what}: {path.folded or path.reason} Load it as a model of its own.")
        return path.network

    def _put(self, network: Network, adapter: Adapter, instead: str | None = None) -> None:
        """Have an adapter, in the place of the one that was so called: answers under way keep their numbers."""

        def put() -> None:
            names = [old.name for old in self._adapters]
            taken = [name for name in (adapter.name, instead) if name in names]
            self._place(network, names.index(taken[0]) if taken else len(names), adapter)

        self._path().scheduler.exclusively(put)

    def _place(self, network: Network, place: int, adapter: Adapter) -> None:
        """Only while no step is under way. What was compiled for other shapes is out of date."""
        if not network.put(place, adapter):
            self._outdated, self._graphs = self._graphs or self._outdated, None
        self._adapters[place : place + 1] = [replace(adapter, factors={})]  # the network has the numbers

    def drive(self, stop: threading.Event) -> None:
        """Compute for all readers until `stop` is set; meant for a thread of a server that does nothing else."""
        self._path().scheduler.drive(stop)

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called after each step, by the thread that computes: it must return at once."""
        self._path().scheduler.heard = heard

    def compile(self) -> None:
        """Compile now and wait until it is done, as a server does before it opens."""
        network = self._path().network
        if network is not None and compiles(network):
            self._graphs = graphs = self._graphs or LayerGraphs(network)
            graphs.wait()

    def _ids(self, prompt: Prompt, options: Options) -> list[int]:
        if not is_conversation(prompt):
            assert not options.tools, "token ids show no tools"
            return list(cast("Sequence[int]", prompt))
        assert self.contract is not None, "without a contract a prompt is token ids"
        return self.contract.prompt(prompt, options.tools)

    def _watch(self, options: Options) -> TextStream | None:
        assert self.contract is not None or not options.stop, "without a contract there is no text to stop at"
        return TextStream(self.contract, options.stop) if self.contract is not None and options.stop else None

    def _refuse_unknown(self, ids: list[int], embeddings: torch.Tensor | None) -> None:
        """What cannot be computed is refused before it delays others."""
        words, width = self.model.get_input_embeddings().weight.shape
        if not ids:
            raise ModelError("the prompt has no tokens. Give at least one.")
        if min(ids) < 0 or max(ids) >= words:
            raise ModelError(f"the prompt has a token outside the model's {words}: {min(ids)} to {max(ids)}.")
        if embeddings is not None and (embeddings.ndim != 2 or embeddings.shape[1] != width):
            raise ModelError(f"a soft prompt has the shape (tokens, {width}), not {tuple(embeddings.shape)}.")
        if embeddings is not None and not embeddings.isfinite().all():
            raise ModelError("a soft prompt holds numbers that are infinite or no numbers.")

    def _number(self, adapter: str) -> int:
        if adapter == "":
            return -1
        if adapter not in (names := self.adapters):
            raise ModelError(f"no adapter is called {adapter!r}; {did_you_mean(adapter, names)}")
        return [one.name for one in self._adapters].index(adapter)

    def _path(self) -> DecodePath:
        """How answers are decoded; decided at the first one."""
        with self._lock:
            if self._decided is None:
                self._decided = self._decide()
            return self._decided

    def _path_now(self) -> DecodePath:
        assert self._decided is not None
        return self._decided

    def _decide(self) -> DecodePath:
        network, folded = None, ""
        config = self.model.config.get_text_config()
        try:
            if reason := why_alone(config):
                raise CannotStack(reason)
            network, folded = self._network_of_model()
            reason = why_logits_differ(network, self.model, self._active)
        except Exception as error:  # noqa: BLE001  whatever stands in the way of the copy, the model itself works
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if reason is None and network is not None:
            batch = SlotBatch(network, self.batch_size, self.batch_tokens, recorder_for(network.device))
            alive = weakref.ref(self)  # or engine and scheduler would keep each other, and the weights, in memory

            def between() -> None:
                if (engine := alive()) is not None:
                    engine._between(network, batch)

            stop_ids = self.contract.stop_ids if self.contract is not None else ()
            scheduler = Scheduler(batch, frozenset(stop_ids), between, self._most_waiting)
            return DecodePath(scheduler, network, "", folded, batch.replays)
        self._adapters, self._active = [], -1
        return plain_path(self, f"answers are decoded the plain way: {reason}.")

    def _network_of_model(self) -> tuple[Network, str]:
        """A copy with the model's adapters in their places, or with the one folded in that has none; and why.

        Raises:
            CannotStack: neither is possible.
        """
        try:
            own, self._active = adapters_of(self.model), active_of(self.model)
            network = Network(self.model, own)
        except CannotStack as error:
            size = sum(weight.numel() * weight.element_size() for weight in self.model.parameters())
            if not can_fold(self.model) or size > FOLDED_SHARE * free_bytes(self.model.device.type):
                raise
            return Network(fold(self.model), []), f"{error}, and is folded into the weights."
        self._own = [adapter.name for adapter in own]
        self._adapters = [replace(adapter, factors={}) for adapter in own]
        return network, ""

    def _between(self, network: Network, batch: SlotBatch) -> None:
        """Between two steps: compile when that pays, use what was compiled."""
        if self._graphs is not None:
            batch.network = self._graphs.network or network
            return
        batch.network = network
        idle = self._outdated is None or not self._outdated.running
        wanted = self._compile_after is not None and batch.seconds > self._compile_after
        if wanted and idle and compiles(network):
            self._graphs = LayerGraphs(network)


def compiles(network: Network) -> bool:
    """Whether its layers are compiled: on a GPU, steps are replayed instead, and some are one call as they are."""
    return network.device.type == "cpu" and network.whole is None


def plain_path(engine: LocalEngine, reason: str) -> DecodePath:
    """Decoding through the library's own forward pass."""
    batch = PlainBatch(engine.model, engine.batch_size, engine.batch_tokens)
    stop_ids = engine.contract.stop_ids if engine.contract is not None else ()
    return DecodePath(Scheduler(batch, frozenset(stop_ids), lambda: None, engine._most_waiting), None, reason)
