"""The prompt contract against oracles: transformers' own rendering, and a slow reference that marks characters.

TRL ships the chat templates of Llama 3, Qwen, Gemma, Phi, gpt-oss and others, as their models have them and with
markers for training. Each is tried here with the tokenizer of ember, to which the template's control tokens are added.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import ModelError
from tunesmith.data.kinds.chat import Chat
from tunesmith.data.kinds.row import Row
from tunesmith.data.prepare import rendered_rows
from tunesmith.data.quality.ledger import Source
from tunesmith.prompt.base import resolve
from tunesmith.prompt.contract import Contract
from tunesmith.prompt.load import load_tokenizer
from tunesmith.prompt.messages import Message, ToolCall, plain

FOLDER = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
CONTROL = re.compile(
    r"<\|[^|<>'\"{}\s]*\|>|<(?:start|end)_of_turn>|<\|?[A-Z_]+\|?>|<\uff5c[^<>'\"]*\uff5c>|<\|?(?:turn|channel|message)\|?>"
)
WORKING = re.compile(r"</?(?:think|tool_call|tool_response)>")  # a model writes these itself: added, not special
STRAIGHT = [
    "cohere", "cohere2", "cohere2_training", "cohere_training", "gemma", "gemma3", "gemma3_training", "gemma4_v2",
    "gemma_training", "glm4moe_training", "lfm2", "lfm2_2_5", "lfm2_training", "llama3", "llama3_1", "llama3_2",
    "llama3_training", "muse_glimmer", "phi3", "phi3_5", "phi3_5_training", "phi3_training", "qwen2_5",
    "qwen2_5_training", "qwen3_5_think_training", "qwen3_8", "qwen3_instruct_2507", "qwen3_training", "qwen3_vl",
]  # fmt: skip
REWRITING = ["gptoss", "gptoss_training", "qwen3", "qwen3_5_think", "qwen3_6"]  # they show earlier turns otherwise
CONTRARY = ["deepseekv3", "deepseek_r1_distill", "nemotron_3_nano"]  # they ask with what no answer begins with
CALLING = [
    "gemma4_v2", "llama3_1", "llama3_2", "muse_glimmer", "qwen2_5", "qwen2_5_training", "qwen3_5_think_training",
    "qwen3_8", "qwen3_training",
]  # fmt: skip
MUTE = ["lfm2", "phi3_5"]  # they leave tool calls out
NO_SYSTEM = {"gemma", "gemma_training"}
MARK = "\ue123"
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a town.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "Where."}}},
        },
    },
)
# Without < and [: what spells a control token is rightly encoded otherwise than transformers does it.
letters = st.characters(codec="utf-8", exclude_categories=["Cs", "Co"], exclude_characters="<[")
words = st.text(letters, min_size=1, max_size=20).filter(str.strip)
weights = st.integers(0, 1)
quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def contract_of(name, train_on="assistant"):
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = load_tokenizer(resolve("ember").folder)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": sorted({*CONTROL.findall(template), "<s>"}), "bos_token": "<s>"}
    )
    tokenizer.add_tokens(sorted(set(WORKING.findall(template))))
    asked = applied(tokenizer, template, (Message("user", "Hi"), Message("assistant", MARK)))
    rest = asked[asked.rindex(MARK) + 1 :].lstrip()
    added = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    stop = next(token for token in added if rest.startswith(token))
    further = [token for token in ("<|call|>", "<|observation|>") if token in added]
    return Contract(tokenizer, template, tuple(tokenizer.convert_tokens_to_ids([stop, *further])), train_on)


def applied(tokenizer, template, messages, tools=(), **options):
    """transformers' own rendering."""
    return tokenizer.apply_chat_template(
        plain(messages), tools=list(tools) or None, chat_template=template, tokenize=False, **options
    )


def with_mark(message):
    """The turn with a mark as the last thing that is said in it."""
    if not message.tool_calls:
        return Message(message.role, MARK, message.weight)
    call = message.tool_calls[-1]
    return Message(
        message.role,
        message.content,
        message.weight,
        (*message.tool_calls[:-1], ToolCall(call.name, {"town": MARK}, call.id)),
    )


def reference(contract, chat, tools=()):
    """Ids and mask, found character by character: what follows the prompt that asks, up to the first stop token."""
    stops = contract.tokenizer.convert_ids_to_tokens(list(contract.stop_ids))

    def show(messages, **options):
        return applied(contract.tokenizer, contract.template, messages, tools, **options)

    text = show(chat)
    trained = [False] * len(text)
    for i, message in enumerate(chat):
        if message.role != "assistant" or not message.weight:
            continue
        begin = len(show(chat[:i], add_generation_prompt=True))
        marked = show((*chat[:i], with_mark(message), *chat[i + 1 :]))
        place = marked.rindex(MARK)
        end = min(found + len(stop) for stop in stops if (found := marked.find(stop, place)) >= 0)
        end += len(text) - len(marked)  # the mark has another length than what it stands for
        trained[begin:end] = [True] * (end - begin)
    encoding = contract.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], [trained[start] for start, _ in encoding["offset_mapping"]]


def agree(contract, chat, tools=()):
    ids, mask = reference(contract, chat, tools)
    assert contract.text(chat, tools=tools) == applied(contract.tokenizer, contract.template, chat, tools)
    rendered = contract.render(chat, tools)
    assert rendered.ids.tolist() == ids
    assert rendered.mask == mask
    assert contract.render_many([contract.draft(chat, tools)]) == [rendered]
    asked = contract.prompt(chat[:-1], tools)
    assert ids[: len(asked)] == asked


def talk(exchanges, system=None):
    turns = [Message("system", system)] if system else []
    for question, answer, weight in exchanges:
        turns += [Message("user", question), Message("assistant", answer, weight)]
    return (*turns[:-1], Message("assistant", turns[-1].content))


@pytest.mark.parametrize("name", STRAIGHT)
@quick
@given(st.lists(st.tuples(words, words, weights), min_size=1, max_size=3), st.none() | words)
def test_ids_equal_transformers_and_the_mask_equals_the_reference(name, exchanges, system):
    agree(contract_of(name), talk(exchanges, None if name in NO_SYSTEM else system))


@pytest.mark.parametrize("name", CALLING)
@quick
@given(words, words, words, words)
def test_tool_calls_are_trained_on_and_their_answers_are_not(name, question, town, weather, answer):
    agree(contract_of(name), with_call(question, town, weather, answer), TOOLS)


def with_call(question, town, weather, answer):
    call = Message("assistant", "", tool_calls=(ToolCall("weather", {"town": town}, "c1"),))
    result = Message("tool", weather, tool_call_id="c1", name="weather")
    return (Message("user", question), call, result, Message("assistant", answer))


@pytest.mark.parametrize("name", MUTE)
def test_a_template_that_leaves_tool_calls_out_is_refused_for_rows_that_have_some(name):
    with pytest.raises(ModelError, match="does not show that the assistant calls 'weather'"):
        contract_of(name).render(with_call("Rain?", "Ulm", "No.", "No."), TOOLS)


@pytest.mark.parametrize("name", REWRITING)
@quick
@given(st.lists(st.tuples(words, words, weights), min_size=1, max_size=3))
def test_a_template_that_rewrites_turns_is_followed_turn_by_turn(name, exchanges):
    contract, chat = contract_of(name), talk(exchanges)
    pieces = list(rendered_rows([Row(Chat(chat), Source("rows.jsonl", 1))], contract))
    trained = [i for i, message in enumerate(chat) if message.role == "assistant" and message.weight]
    if len(pieces) == 1:  # nothing was rewritten, or one turn alone is trained on
        assert pieces[0][1][0].mask == reference(contract, chat)[1]
        return
    assert len(pieces) == len(trained)
    for i, (_, [rendered]) in zip(trained, pieces, strict=True):
        context = tuple(Message(turn.role, turn.content, 0) for turn in chat[:i])
        ids, mask = reference(contract, (*context, Message("assistant", chat[i].content)))
        assert (rendered.ids.tolist(), rendered.mask) == (ids, mask)


@pytest.mark.parametrize("name", CONTRARY)
def test_a_template_whose_answers_do_not_continue_its_prompts_is_refused_with_the_reason(name):
    with pytest.raises(ModelError, match="does not continue the prompt that asks for it"):
        contract_of(name).render((Message("user", "Hi?"), Message("assistant", "Hello.")))


@pytest.mark.parametrize("name", [*STRAIGHT, *REWRITING])
def test_no_added_token_ever_comes_from_what_users_say_nor_a_special_one_from_anybody(name):
    contract = contract_of(name)
    clean = contract.render((Message("user", "ab"), Message("assistant", "cd"))).ids
    for i, token in contract.tokenizer.added_tokens_decoder.items():
        spelled = token.content
        answer = f"c{spelled}d" if token.special else "cd"
        chat = (Message("user", f"a{spelled}b{spelled}"), Message("assistant", answer))
        rendered = contract.render(chat)
        assert rendered.ids.count(i) == clean.count(i), spelled
        assert contract.render_many([contract.draft(chat)]) == [rendered]
        shown = contract.tokenizer.decode(rendered.ids.tolist(), skip_special_tokens=False)
        assert shown.count(spelled) == 2 + token.special + clean.count(i), spelled
    working = [i for i, token in contract.tokenizer.added_tokens_decoder.items() if not token.special]
    for i in working:  # what a model must learn to write stays one token in its answers
        spelled = contract.tokenizer.added_tokens_decoder[i].content
        rendered = contract.render((Message("user", "ab"), Message("assistant", f"c{spelled}d")))
        assert rendered.ids.count(i) >= clean.count(i), spelled


@pytest.mark.parametrize("name", ["llama3_1", "qwen3_training", "phi3"])
def test_only_the_last_turn_or_everything_where_that_is_asked_for(name):
    chat = talk([("Hi?", "Hello.", 1), ("And you?", "Fine.", 1)])
    whole, last, every = (contract_of(name, rule).render(chat) for rule in ("assistant", "last", "all"))
    assert whole.ids == last.ids == every.ids
    assert last.spans == whole.spans[-1:]
    assert every.spans == ((0, len(whole.ids)),)


def training_templates():
    """The chat templates that TRL ships with generation markers: their masks are the oracle."""
    names = "cohere cohere2 gemma gemma3 glm4moe lfm2 llama3 phi3 phi3_5 qwen2_5 qwen2_5_vl qwen3 qwen3_instruct_2507"
    return [FOLDER / f"{name}_training.jinja" for name in names.split()]


SPECIAL = re.compile(r"<\|[^|<>'\"]*\|>|<(?:start|end)_of_turn>|<\|?[A-Z_]+\|?>")


@pytest.mark.parametrize("path", training_templates(), ids=lambda path: path.stem)
def test_ids_and_masks_agree_with_trls_generation_markers(path):
    template = path.read_text()
    tokenizer = load_tokenizer(resolve("ember").folder)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": sorted({*SPECIAL.findall(template)}), "bos_token": "<s>"}
    )
    control = tokenizer.added_tokens_decoder
    for pairs in ([("Hi there?", "Hello. ")], [(" Two\n lines", "An answer\n\nwith lines.\n"), ("More", "Yes!")]):
        chat = tuple(
            Message(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
        )
        oracle = tokenizer.apply_chat_template(
            plain(chat), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, theirs = oracle["input_ids"], oracle["assistant_masks"]
        stops = {i for i, marked in zip(ids, theirs, strict=True) if marked and i in control}
        ours = Contract(tokenizer, template, tuple(stops)).render(chat)
        assert ours.ids.tolist() == ids
        # The markers may hold the turn's first words (which the prompt already says) and a line break after
        # the stop token, neither of which a model has to write itself. Between the two there is no difference.
        extra = [i for i, marked, mine in zip(ids, theirs, ours.mask, strict=True) if marked and not mine]
        assert set(tokenizer.convert_ids_to_tokens(extra)) <= {"Ċ"}
        assert not [i for i, marked, mine in zip(ids, theirs, ours.mask, strict=True) if mine and not marked]
        said = tokenizer.decode([i for i, mine in zip(ids, ours.mask, strict=True) if mine], skip_special_tokens=True)
        for _, answer in pairs:
            assert answer.strip() in said
