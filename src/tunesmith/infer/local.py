"""Generate and score with a model in this process.

Answers run in one batch that they join and leave (`batch.py`), over a copy of the model that shares its weights
(`network.py`). Where that copy does not compute what the model computes, or cannot be made, the library's own
forward pass is used (`plain.py`), and `reason` says why. Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import ModelError
from tunesmith.core.names import did_you_mean
from tunesmith.infer.adapters import Adapter, CannotStack, active_of, adapters_of, read_adapter
from tunesmith.infer.batch import SlotBatch
from tunesmith.infer.compiled import LayerGraphs
from tunesmith.infer.engine import Completion, RowScore, Sampling
from tunesmith.infer.network import Network, probe, why_alone
from tunesmith.infer.plain import PlainBatch, pad
from tunesmith.infer.scheduler import Scheduler
from tunesmith.infer.ticket import Ticket

LOGITS = 2**28  # most logits built at once: 1 GiB in fp32
WORTH = 10.0  # seconds of uncompiled decoding after which compiling is likely to pay for itself


@dataclass(frozen=True)
class Way:
    """How a model is decoded.

    Attributes:
        scheduler: drives the batch.
        network: the copy that decodes; None on the plain way.
        usual: index of the adapter that the model came with, -1 for none.
        reason: why it is the plain way, as a sentence.
    """

    scheduler: Scheduler
    network: Network | None
    usual: int
    reason: str


class LocalEngine:
    """A `BatchEngine` over a transformers model, which it does not change and whose weights must stay as they are."""

    def __init__(
        self,
        model: Any,
        stop_ids: Sequence[int],
        batch_size: int = 32,
        batch_tokens: int = 8192,
        compile_after: float | None = WORTH,
    ) -> None:
        """Use `model` (in evaluation mode) with these stop ids.

        Args:
            model: a causal language model.
            stop_ids: ids that end an answer.
            batch_size: most rows decoded together.
            batch_tokens: most tokens of prompts or rows, padding included, taken together; fewer where the
                vocabulary is large, since every scored position has a logit for each word.
            compile_after: seconds of decoding after which layers are compiled in the background; never if None.
        """
        config = model.config.get_text_config()
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.batch_size = batch_size
        self.batch_tokens = min(batch_tokens, LOGITS // config.vocab_size)
        self.positions: int | None = getattr(config, "max_position_embeddings", None)
        self._compile_after = compile_after
        self._adapters: list[Adapter] = []
        self._stacked: list[Adapter] = self._adapters
        self._graphs: LayerGraphs | None = None
        self._outdated: LayerGraphs | None = None
        self._lock = threading.Lock()
        self._settled: Way | None = None

    @property
    def reason(self) -> str:
        """Why answers are decoded in a slower way than they could be, as a sentence; empty if they are not."""
        reason = self._way().reason
        return reason or (self._graphs.reason if self._graphs is not None else "")

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that answers can use."""
        self._way()
        return [adapter.name for adapter in self._adapters]

    def submit(
        self,
        prompt: list[int],
        sampling: Sampling,
        adapter: str | None = None,
        embeddings: torch.Tensor | None = None,
    ) -> Ticket:
        """Begin an answer as soon as there is room; see `BatchEngine`."""
        ticket = self._ticket(prompt, sampling, adapter, embeddings)
        self._way().scheduler.submit([ticket])
        return ticket

    def generate(self, prompts: Sequence[list[int]], sampling: Sampling) -> list[Completion]:
        """One completion for each prompt, in order."""
        tickets = [self._ticket(prompt, sampling, None, None) for prompt in prompts]
        try:
            self._way().scheduler.submit(sorted(tickets, key=lambda ticket: ticket.prompted))
            return [ticket.result() for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.cancel()

    def stream(self, prompt: list[int], sampling: Sampling) -> Iterator[int]:
        """The tokens of one completion as they come."""
        ticket = self.submit(prompt, sampling)
        try:
            yield from ticket
        finally:
            ticket.cancel()

    def add_adapter(self, name: str, folder: Path) -> None:
        """Let answers use the LoRA adapter in `folder` from now on.

        Raises:
            ModelError: it cannot be read, is of another base, or this model is decoded the plain way.
        """
        way, adapter = self._way(), read_adapter(name, folder)
        if way.network is None:
            raise ModelError(f"{folder}: {way.reason} Load it as a model of its own.")
        try:
            way.network.check(adapter)
        except CannotStack as error:
            raise ModelError(f"{folder}: {error}. It belongs to another base.") from None
        with self._lock:
            names = [old.name for old in self._adapters]
            place = names.index(name) if name in names else len(names)  # answers under way keep their numbers
            self._adapters = [*self._adapters[:place], adapter, *self._adapters[place + 1 :]]

    def drive(self, stop: threading.Event) -> None:
        """Compute for all readers until `stop` is set; meant for a thread of a server that does nothing else."""
        self._way().scheduler.drive(stop)

    def warm(self) -> None:
        """Compile now and wait until it is done, as a server does before it opens; nobody may be answered meanwhile."""
        network = self._way().network
        if network is not None:
            self._take_adapters(network)
            self._graphs = graphs = self._graphs or LayerGraphs(network)
            graphs.wait()

    def _ticket(
        self, prompt: list[int], sampling: Sampling, adapter: str | None, embeddings: torch.Tensor | None
    ) -> Ticket:
        self._refuse_unknown(prompt, embeddings)
        longest = len(prompt) + (0 if embeddings is None else len(embeddings))
        room = sampling.max_new_tokens if self.positions is None else self.positions - longest
        if room <= 0 and self.positions is not None:
            raise ModelError(
                f"the conversation has {longest} tokens and the model takes at most {self.positions}. Shorten it."
            )
        way = self._way()
        number = way.usual if adapter is None else self._number(adapter)
        return Ticket(prompt, sampling, min(room, sampling.max_new_tokens), number, embeddings, way.scheduler.wait)

    def _refuse_unknown(self, prompt: list[int], embeddings: torch.Tensor | None) -> None:
        """One request that cannot be computed would end those of everybody in its batch."""
        words, width = self.model.get_input_embeddings().weight.shape
        if not prompt:
            raise ModelError("the prompt has no tokens. Give at least one.")
        if min(prompt) < 0 or max(prompt) >= words:
            raise ModelError(f"the prompt has a token outside the model's {words}: {min(prompt)} to {max(prompt)}.")
        if embeddings is not None and (embeddings.ndim != 2 or embeddings.shape[1] != width):
            raise ModelError(f"a soft prompt has the shape (tokens, {width}), not {tuple(embeddings.shape)}.")
        if embeddings is not None and not embeddings.isfinite().all():
            raise ModelError("a soft prompt holds numbers that are infinite or no numbers.")

    def _number(self, adapter: str) -> int:
        if adapter == "":
            return -1
        names = self.adapters
        if adapter not in names:
            raise ModelError(f"no adapter is called {adapter!r}; {did_you_mean(adapter, names)}")
        return names.index(adapter)

    def _way(self) -> Way:
        """How answers are decoded; settled at the first one."""
        with self._lock:
            if self._settled is None:
                self._settled = self._settle()
            return self._settled

    def _settle(self) -> Way:
        network, usual = None, -1
        config = self.model.config.get_text_config()
        try:
            if reason := why_alone(config):
                raise CannotStack(reason)
            self._adapters = self._stacked = adapters_of(self.model)
            usual = active_of(self.model)
            network = Network(self.model, self._adapters)
            reason = probe(network, self.model, usual)
        except Exception as error:  # noqa: BLE001  whatever stands in the way of the copy, the model itself works
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if reason is None and network is not None:
            batch = SlotBatch(network, self.batch_size, self.batch_tokens)
            alive = weakref.ref(self)  # or engine and scheduler would keep each other, and the weights, in memory

            def between() -> None:
                if (engine := alive()) is not None:
                    engine._between(network, batch)

            return Way(Scheduler(batch, self.stop_ids, between), network, usual, "")
        self._adapters = []
        return plain_way(self, f"answers are decoded the plain way: {reason}.")

    def _between(self, network: Network, batch: SlotBatch) -> None:
        """Between two steps: take adapters that have come, compile when that pays, use what was compiled."""
        if self._take_adapters(network):
            batch.network = network
        if self._graphs is None:
            idle = self._outdated is None or not self._outdated.running
            if self._compile_after is not None and batch.seconds > self._compile_after and idle:
                self._graphs = LayerGraphs(network)
        elif self._graphs.network is not None:
            batch.network = self._graphs.network

    def _take_adapters(self, network: Network) -> bool:
        """Whether adapters have come; what was compiled before them is out of date then."""
        adapters = self._adapters  # another thread may set it to a longer list meanwhile
        if self._stacked is adapters:
            return False
        network.load(adapters)
        self._stacked, self._outdated, self._graphs = adapters, self._graphs, None
        return True

    @torch.inference_mode()
    def score(self, rows: Sequence[tuple[list[int], list[bool]]]) -> list[RowScore]:
        """Loss and hits over the marked tokens of each row, through the library's own forward pass."""
        scores: dict[int, RowScore] = {}
        for chosen in self._batches([len(ids) for ids, _ in rows]):
            ids_BT, seen_BT = pad([rows[i][0] for i in chosen], left=False)
            ids_BT, seen_BT = ids_BT.to(self.model.device), seen_BT.to(self.model.device)
            until = max(ids_BT.shape[1] - 1, 1)  # the last token is only predicted, and may have no position of its own
            seen = {"input_ids": ids_BT[:, :until], "attention_mask": seen_BT[:, :until]}
            logits_BTV = self.model(**seen, use_cache=False).logits
            for row, index in enumerate(chosen):
                mask = torch.tensor(rows[index][1][1:], device=ids_BT.device)
                logits_NV = logits_BTV[row, : len(mask)][mask].float()
                target_N = ids_BT[row, 1 : len(mask) + 1][mask]
                loss = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="sum")
                correct = (logits_NV.argmax(-1) == target_N).sum()
                scores[index] = RowScore(loss.item(), len(target_N), int(correct))
        return [scores[i] for i in range(len(rows))]

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Indices of near-equal lengths, as many together as `batch_tokens` allows."""
        batch: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            if batch and lengths[index] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch


def plain_way(engine: LocalEngine, reason: str) -> Way:
    """Decoding through the library's own forward pass."""
    batch = PlainBatch(engine.model, engine.batch_size, engine.batch_tokens)
    return Way(Scheduler(batch, engine.stop_ids, lambda: None), None, -1, reason)
