"""What prompts have in common is read once, and nobody's answer changes by it."""

from __future__ import annotations

import pytest
import torch

from test_decoding import generate, greedy, make, prompts, same
from test_refresh import train, with_lora
from tunesmith.infer.engine import prefixes
from tunesmith.infer.engine.prefixes import WORTH, Prefixes, as_ids, in_common
from tunesmith.infer.engine.slots import SlotCache
from tunesmith.infer.generator import Options
from tunesmith.infer.local import LocalEngine

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's
SYSTEM = [(13 * place + 7) % 512 for place in range(80)]
ASKED = [[*SYSTEM, *prompt] for prompt in prompts([3, 9, 5, 7])]
NEW = 12
BASE = (-1, "")


class Watched:
    """An engine, and how many tokens of each row its passes over prompts have read."""

    def __init__(self, model, **settings):
        self.engine, self.read = LocalEngine(model, None, compile_after=None, **settings), []
        network = self.engine._path().network
        prefill = network.prefill

        def watched(cache, first, start, tokens, *rest):
            self.read.append(tuple(tokens.shape[:2]))
            return prefill(cache, first, start, tokens, *rest)

        network.prefill = watched

    def ask(self, asked, **options):
        self.read.clear()
        return generate(self.engine, asked, Options(max_new_tokens=NEW, **options))


def all_same(model, asked, answers) -> bool:
    pairs = zip(asked, answers, strict=True)
    return all(same(model, prompt, one.ids, greedy(model, prompt, NEW)) for prompt, one in pairs)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma2"])
def test_those_that_begin_alike_wait_for_the_first_and_read_the_rest(kind: str):
    model = make(kind)
    watched = Watched(model)
    assert all_same(model, ASKED, watched.ask(ASKED))
    assert watched.read == [(1, 83), (3, 9)]
    assert all_same(model, ASKED[::-1], watched.ask(ASKED[::-1]))  # known to the last token but one
    assert sum(rows * tokens for rows, tokens in watched.read) <= 4 * 9
    assert all_same(model, ASKED[:1], watched.ask(ASKED[:1]))
    assert watched.read == [(1, 1)]


def test_a_conversation_that_goes_on_reads_what_is_new_in_it():
    model = make("llama")
    watched = Watched(model)
    [first] = watched.ask(ASKED[:1])
    longer = [*ASKED[0], *first.ids, 5, 6, 7]
    assert all_same(model, [longer], watched.ask([longer]))
    assert watched.read == [(1, 4)]  # the last token of an answer has been drawn, but not read
    done = watched.engine.submit(longer, Options(max_new_tokens=NEW)).result()
    assert (done.usage.prompt_tokens, done.usage.cached_tokens) == (len(longer), len(longer) - 1)


def test_several_answers_to_one_prompt_read_it_once():
    watched = Watched(make("llama"))
    done = watched.engine.submit(ASKED[0], Options(max_new_tokens=NEW, n=4)).result()
    assert len({tuple(choice.ids) for choice in done.choices}) == 1
    assert watched.read == [(1, 83), (3, 1)]


def test_prompts_that_have_nothing_in_common_are_read_together():
    watched, asked = Watched(make("llama")), prompts([70, 80, 90, 3])
    watched.ask(asked)
    assert watched.read == [(4, 90)]
    watched.ask([asked[0], prompts([1, 1, 1, 1, 60])[4]])  # nobody reads again what was read, to be with another
    assert sorted(watched.read) == [(1, 1), (1, 60)]


def test_short_ones_are_not_kept():
    watched = Watched(make("llama"))
    for _ in range(2):
        watched.ask(prompts([WORTH - NEW - 1]))
        assert watched.read == [(1, WORTH - NEW - 1)]
    assert len(watched.engine._path().scheduler.batch.prefixes) == 0


def test_an_adapter_does_not_read_what_another_has_read():
    model = with_lora()
    watched = Watched(model)
    with model.disable_adapter():
        assert all_same(model, ASKED[:1], watched.ask(ASKED[:1], adapter=""))
    assert all_same(model, ASKED[:1], watched.ask(ASKED[:1]))
    assert watched.read == [(1, 83)]
    assert all_same(model, ASKED[1:2], watched.ask(ASKED[1:2]))
    assert watched.read == [(1, 9)]


def test_projects_do_not_learn_what_others_have_asked():
    watched = Watched(make("llama"))
    for project in ("one", "two"):
        watched.ask(ASKED[:1], shared_by=project)
        assert watched.read == [(1, 83)]
    watched.ask(ASKED[:1], shared_by="one")
    assert watched.read == [(1, 1)]


@pytest.mark.parametrize("how", ["in place", "other tensors"])
def test_other_weights_forget_what_was_read(how: str):
    model = make("llama")
    watched = Watched(model)
    before = watched.ask(ASKED)
    twin = watched.engine._path().network.twin()
    train(model, how)
    watched.engine.refresh()
    after = watched.ask(ASKED)
    assert watched.read == [(1, 83), (3, 9)]
    assert after != before
    assert all_same(model, ASKED, after)
    assert twin.version == watched.engine._path().network.version > 0


def test_what_old_weights_have_begun_is_not_kept():
    model = make("llama")
    watched = Watched(model)
    under_way = watched.engine.submit(ASKED[0], Options(max_new_tokens=NEW))
    deltas = iter(under_way)
    next(deltas)
    train(model, "in place")
    watched.engine.refresh()
    list(deltas)
    assert all_same(model, ASKED[:1], watched.ask(ASKED[:1]))
    assert watched.read == [(1, 83)]


def test_a_soft_prompt_shares_nothing():
    model = make("llama")
    watched = Watched(model)
    soft = torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = torch.cat([soft, model.get_input_embeddings()(torch.tensor(ASKED[0]))])[None]
    mask = torch.ones(1, whole.shape[1], dtype=torch.long)
    want = greedy(model, ASKED[0], NEW, inputs_embeds=whole, attention_mask=mask)
    watched.ask(ASKED[:1])
    for _ in range(2):
        answer = watched.engine.submit(ASKED[0], Options(max_new_tokens=NEW), embeddings=soft).result()
        assert answer.choice.ids == want
        assert answer.usage.cached_tokens == 0


def test_the_least_recently_used_leave_when_memory_is_short(monkeypatch: pytest.MonkeyPatch):
    kept, cache = Prefixes("cpu"), SlotCache()
    for store in (cache.keys, cache.values):
        store[0] = torch.zeros(2, 1, 128, 4)
    rows = [[place, *range(WORTH)] for place in range(3)]
    size = 2 * 4 * 4 * len(rows[0])  # keys and values, fp32
    monkeypatch.setattr(prefixes, "free_bytes", lambda device: 2.5 * size / prefixes.KEPT_SHARE)
    for row in rows[:2]:
        kept.keep(cache, 0, row, BASE)
    assert kept.best([*rows[0], 5], BASE)[1] == len(rows[0])
    assert kept.best([*rows[0], 5], (1, "")) == (None, 0)
    kept.keep(cache, 0, rows[2], BASE)
    assert [kept.best([*row, 5], BASE)[1] for row in rows] == [len(rows[0]), 0, len(rows[0])]
    kept.keep(cache, 0, [*rows[0], 7], BASE)  # takes the place of what it goes on from
    kept.keep(cache, 0, rows[0], BASE)  # known already
    assert [len(one.ids) for one in kept._kept] == [len(rows[2]), len(rows[0]) + 1]
    monkeypatch.setattr(prefixes, "free_bytes", lambda device: 0)
    kept.keep(cache, 0, [9, *rows[0]], BASE)
    assert len(kept) == 0


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 4, 3], 1), ([2], [1], 0)],
)
def test_how_many_tokens_are_in_common(one, other, length: int):
    assert in_common(as_ids(one), as_ids(other)) == length == in_common(as_ids(other), as_ids(one))
