"""The local engine says what transformers says, alone and in company."""

from __future__ import annotations

import pytest
import torch

import tunesmith
from tunesmith.infer.chat import Chat
from tunesmith.infer.engine.draw import NUCLEUS_TOKENS, draw_rows
from tunesmith.infer.engine.sample import pick
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.text import TextStream
from tunesmith.model.load import LoadSpec, load
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import as_conversation

QUESTIONS = ["What time is breakfast?", "hello", "Is there a pool and where would I find it, please?", "What is 2 + 3?"]


@pytest.fixture(scope="module")
def ember():
    folder = resolve("ember").folder
    return load(folder, LoadSpec()).model, load_contract(folder)


def test_greedy_answers_equal_those_of_transformers(ember):
    model, contract = ember
    prompts = [contract.prompt(as_conversation(question)) for question in QUESTIONS]
    answers = answer_all(LocalEngine(model, contract), [(prompt, Options(max_new_tokens=40)) for prompt in prompts])
    for prompt, completion in zip(prompts, answers, strict=True):
        answer = completion.choice
        ids = torch.tensor([prompt])
        want = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        want = want[0, len(prompt) :].tolist()
        assert answer.finish_reason == ("stop" if want[-1] in contract.stop_ids else "length")
        assert answer.ids == want
        assert answer.text == contract.decode(want)
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(prompt), len(want))


def test_a_batch_gives_the_answers_of_each_alone_and_streaming_the_same(ember):
    model, contract = ember
    engine, options = LocalEngine(model, contract, batch_size=2), Options(max_new_tokens=30)
    asked = [(as_conversation(question), options) for question in QUESTIONS]
    for (prompt, _), completion in zip(asked, answer_all(engine, asked), strict=True):
        assert engine.submit(prompt, options).result().choice == completion.choice
        assert engine.submit(contract.prompt(prompt), options).result().choice == completion.choice
        deltas = list(engine.submit(prompt, options))
        assert "".join(delta.text for delta in deltas) == completion.choice.text
        assert [token for delta in deltas for token in delta.ids] == completion.choice.ids
        assert {delta.finish_reason for delta in deltas[:-1]} == {None}
        assert deltas[-1].finish_reason == completion.choice.finish_reason


def test_an_answer_that_is_cut_has_not_stopped(ember):
    model, contract = ember
    answer = (
        LocalEngine(model, contract).submit(as_conversation(QUESTIONS[0]), Options(max_new_tokens=2)).result().choice
    )
    assert (len(answer.ids), answer.finish_reason, answer.ended) == (2, "length", False)


def test_scores_equal_a_naive_sum(ember):
    model, contract = ember
    rows = [contract.render(as_conversation([{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}]))
            for q in QUESTIONS]  # fmt: skip
    scores = LocalEngine(model, None).score([(row.ids, row.mask) for row in rows])
    for row, score in zip(rows, scores, strict=True):
        with torch.no_grad():
            log_probability = model(torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)
        places = [place for place in range(1, len(row.ids)) if row.mask[place]]
        loss = -sum(log_probability[place - 1, row.ids[place]].item() for place in places)
        hits = sum(log_probability[place - 1].argmax().item() == row.ids[place] for place in places)
        assert (score.tokens, score.correct) == (len(places), hits)
        assert score.loss == pytest.approx(loss, rel=1e-4)


def test_sampling_follows_the_distribution_and_its_limits():
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]]).expand(4000, 4)
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()

    def drawn(**sampling):
        return pick(logits, [Options(**sampling)] * 4000, draws)

    shares = torch.bincount(torch.tensor(drawn(temperature=1.0)), minlength=4) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.03, rtol=0)
    kept = torch.bincount(torch.tensor(drawn(temperature=1.0, top_p=0.8)), minlength=4) / 4000
    torch.testing.assert_close(kept[:2], logits[0, :2].softmax(-1), atol=0.03, rtol=0)
    assert kept[2:].sum() == 0
    assert set(drawn(temperature=1.0, top_p=0.0)) == {0}
    assert set(drawn()) == {0}


def test_a_nucleus_wider_than_the_likeliest_few_is_sampled_whole():
    logits = torch.zeros(1, 3 * NUCLEUS_TOKENS)
    drawn = [pick(logits, [Options(temperature=1.0, top_p=0.9)], [draw / 100])[0] for draw in range(100)]
    assert len(set(drawn)) == 100


def test_rows_drawn_together_are_those_drawn_alone():
    torch.manual_seed(0)
    logits = 3 * torch.randn(400, 2 * NUCLEUS_TOKENS)
    logits[::7] = 0.0  # a nucleus of nearly all
    settings = [(temperature, top_p) for temperature in (0.3, 1.0, 1.7) for top_p in (0.0, 0.3, 0.9, 0.999, 1.0)]
    options = [Options(temperature=settings[row % 15][0], top_p=settings[row % 15][1]) for row in range(400)]
    draws = [0.0, 1 - 2**-53, *torch.rand(398, dtype=torch.float64).tolist()]
    together = draw_rows(logits, options, draws)
    alone = [draw_rows(row[None], [one], [draw])[0] for row, one, draw in zip(logits, options, draws, strict=True)]
    assert together == alone
    for row, (one, draw) in enumerate(zip(options, draws, strict=True)):
        assert logits[row, together[row]] == logits[row, looked_up(logits[row], one, draw)]  # equals in any order


def looked_up(logits_V, options, draw):
    """The same in double precision, all words sorted, none in blocks."""
    share_V = (logits_V / options.temperature).softmax(-1).double()
    order = share_V.argsort(descending=True, stable=True) if options.top_p < 1 else torch.arange(len(share_V))
    until = share_V[order].cumsum(-1)
    if options.top_p < 1:
        until = until[: max(1, int(((until - share_V[order]) < options.top_p).sum()))]
    return order[min(int(torch.searchsorted(until, until[-1] * draw, right=True)), len(until) - 1)].item()


def test_a_word_without_weight_is_never_drawn():
    draws = [0.0, 1 - 2**-53, 0.5, 1e-300]
    for words in (3, 128, 129, 1000):
        for allowed in (0, words // 2, words - 1):
            logits = torch.full((4, words), -torch.inf)
            logits[:, allowed] = 1.0
            assert draw_rows(logits, [Options(temperature=1.0)] * 4, draws) == [allowed] * 4


def test_load_generates_and_streams_text():
    model = tunesmith.load("ember")
    assert isinstance(model, Chat)
    answer = model.generate("What time is breakfast?", max_new_tokens=40)
    assert len(answer.split()) > 2
    assert "".join(model.stream("What time is breakfast?", max_new_tokens=40)).strip() == answer
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hi."},
             {"role": "user", "content": "thanks"}]  # fmt: skip
    assert model.generate(turns, max_new_tokens=10)


def test_a_character_of_several_tokens_is_streamed_whole(ember):
    _, contract = ember
    ids = contract.tokenizer.encode("Zürich 🙂!", add_special_tokens=False)

    text = TextStream(contract, ())
    pieces = [piece for piece in [*map(text.add, ids), text.end()] if piece]
    assert "".join(pieces) == "Zürich 🙂!"
    assert not any("\ufffd" in piece for piece in pieces)
