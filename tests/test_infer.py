"""The local engine says what transformers says, alone and in company."""

from __future__ import annotations

import pytest
import torch

import tunesmith
from tunesmith.infer.chat import Chat
from tunesmith.infer.engine import Sampling
from tunesmith.infer.local import LocalEngine
from tunesmith.infer.sample import FIRST, pick
from tunesmith.model.load import load_model
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.prompt.messages import as_conversation

QUESTIONS = ["What time is breakfast?", "hello", "Is there a pool and where would I find it, please?", "What is 2 + 3?"]


@pytest.fixture(scope="module")
def ember():
    folder = resolve("ember").folder
    return load_model(folder, torch.float32), load_contract(folder)


def test_greedy_answers_equal_those_of_transformers(ember):
    model, contract = ember
    prompts = [contract.prompt(as_conversation(question)) for question in QUESTIONS]
    answers = LocalEngine(model, contract.stop_ids).generate(prompts, Sampling(max_new_tokens=40))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        want = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        want = want[0, len(prompt) :].tolist()
        assert answer.stopped == (want[-1] in contract.stop_ids)
        assert answer.ids == [i for i in want if i not in contract.stop_ids]


def test_a_batch_gives_the_answers_of_each_alone_and_streaming_the_same(ember):
    model, contract = ember
    prompts = [contract.prompt(as_conversation(question)) for question in QUESTIONS]
    engine = LocalEngine(model, contract.stop_ids, batch_size=2)
    together = engine.generate(prompts, Sampling(max_new_tokens=30))
    for prompt, completion in zip(prompts, together, strict=True):
        assert engine.generate([prompt], Sampling(max_new_tokens=30)) == [completion]
        assert list(engine.stream(prompt, Sampling(max_new_tokens=30))) == completion.ids


def test_an_answer_that_is_cut_has_not_stopped(ember):
    model, contract = ember
    prompt = contract.prompt(as_conversation(QUESTIONS[0]))
    [completion] = LocalEngine(model, contract.stop_ids).generate([prompt], Sampling(max_new_tokens=2))
    assert (len(completion.ids), completion.stopped) == (2, False)


def test_scores_equal_a_naive_sum(ember):
    model, contract = ember
    rows = [contract.render(as_conversation([{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}]))
            for q in QUESTIONS]  # fmt: skip
    scores = LocalEngine(model, contract.stop_ids).score([(row.ids, row.mask) for row in rows])
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
        return pick(logits, [Sampling(**sampling)] * 4000, draws)

    shares = torch.bincount(torch.tensor(drawn(temperature=1.0)), minlength=4) / 4000
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.03, rtol=0)
    kept = torch.bincount(torch.tensor(drawn(temperature=1.0, top_p=0.8)), minlength=4) / 4000
    torch.testing.assert_close(kept[:2], logits[0, :2].softmax(-1), atol=0.03, rtol=0)
    assert kept[2:].sum() == 0
    assert set(drawn(temperature=1.0, top_p=0.0)) == {0}
    assert set(drawn()) == {0}


def test_a_nucleus_wider_than_the_likeliest_few_is_sampled_whole():
    logits = torch.zeros(1, 3 * FIRST)
    drawn = [pick(logits, [Sampling(temperature=1.0, top_p=0.9)], [draw / 100])[0] for draw in range(100)]
    assert len(set(drawn)) == 100


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

    class Parrot:
        def stream(self, prompt, sampling):
            yield from ids

    pieces = list(Chat(Parrot(), contract).stream("say it"))
    assert "".join(pieces) == "Zürich 🙂!"
    assert not any("\ufffd" in piece for piece in pieces)
