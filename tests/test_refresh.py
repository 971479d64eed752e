"""After its weights have changed, a model answers with those: packed, stacked and compiled."""

from __future__ import annotations

import threading

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict

from test_decoding import generate, greedy, make, prompts, same
from tunesmith.core.errors import ModelError
from tunesmith.infer.engine.linear import SlotLinear
from tunesmith.infer.generator import Options
from tunesmith.infer.local import LocalEngine

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's
LENGTH = 16


def with_lora(rank: int = 4, seed: int = 3) -> PeftModel:
    base = make("llama")
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False,
                        task_type="CAUSAL_LM")  # fmt: skip
    return get_peft_model(base, config).eval()


def train(model, how: str) -> None:
    """Change all that an update of the weights would change, in place or by giving parameters other tensors."""
    torch.manual_seed(11)
    for name, weight in model.named_parameters():
        if "lora" in name or how != "lora":
            new = weight.detach() + 0.05 * torch.randn_like(weight)
            if how == "other tensors":
                weight.data = new
            else:
                with torch.no_grad():
                    weight.copy_(new)


def answers(engine: LocalEngine) -> list[list[int]]:
    return [answer.ids for answer in generate(engine, prompts(), Options(max_new_tokens=LENGTH))]


def all_same(model, got: list[list[int]]) -> bool:
    pairs = zip(prompts(), got, strict=True)
    return all(same(model, prompt, one, greedy(model, prompt, LENGTH)) for prompt, one in pairs)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("how", ["in place", "other tensors"])
def test_all_weights(kind: str, how: str):
    model = make(kind)
    engine = LocalEngine(model, None, compile_after=None)
    before = answers(engine)
    packed = [part for part in engine._path().network.model.modules() if isinstance(part, SlotLinear) and part.product]
    assert packed
    train(model, how)
    engine.refresh()
    after = answers(engine)
    assert after != before
    assert all_same(model, after)


def test_adapters_of_the_model():
    model = with_lora()
    engine = LocalEngine(model, None, compile_after=None)
    before = answers(engine)
    train(model, "lora")
    engine.refresh()
    after = answers(engine)
    assert after != before
    assert all_same(model, after)


@pytest.mark.parametrize("adapted", [False, True])
def test_compiled_layers_are_refreshed_without_being_compiled_again(adapted: bool):
    model = with_lora() if adapted else make("llama")
    engine = LocalEngine(model, None, compile_after=None)
    engine.compile()
    assert engine.reason == ""
    before, counted = answers(engine), torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted >= 2
    for how in ("lora", "in place", "other tensors"):
        if how == "lora" and not adapted:
            continue
        train(model, how)
        engine.refresh()
        for prompt in prompts()[:2]:  # one row alone has a graph of its own
            [alone] = generate(engine, [prompt], Options(max_new_tokens=LENGTH))
            assert same(model, prompt, alone.ids, greedy(model, prompt, LENGTH))
        after = answers(engine)
        assert after != before
        assert all_same(model, after)
        before = after
    if adapted:
        other = with_lora(seed=8)
        engine.set_adapter("default", get_peft_model_state_dict(other))
        assert answers(engine) != before
    assert engine._path().scheduler.batch.network is engine._graphs.network is not None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted


def test_an_adapter_is_set_by_tensors_under_both_of_pefts_names():
    model, other = with_lora(), with_lora(seed=8)
    engine = LocalEngine(model, None, compile_after=None)
    own = answers(engine)
    saved = get_peft_model_state_dict(other)
    inside = {name: weight for name, weight in other.named_parameters() if "lora" in name}
    assert saved.keys() != inside.keys()
    for tensors in (saved, inside):
        engine.set_adapter("default", tensors)
        assert all_same(other, answers(engine))
        engine.refresh()  # the model's own again
        assert answers(engine) == own
    engine.set_adapter("new", saved, other.peft_config["default"])
    assert engine.adapters == ["default", "new"]
    [answer] = generate(engine, prompts()[:1], Options(max_new_tokens=LENGTH, adapter="new"))
    assert same(other, prompts()[0], answer.ids, greedy(other, prompts()[0], LENGTH))
    engine.refresh()
    assert engine.adapters == ["default", "new"]
    wider = with_lora(rank=7, seed=9)
    engine.set_adapter("default", get_peft_model_state_dict(wider), wider.peft_config["default"])
    assert all_same(wider, answers(engine))


def test_tensors_that_are_no_adapter_of_this_model_are_refused():
    engine = LocalEngine(with_lora(), None)
    before, tensors = answers(engine), get_peft_model_state_dict(with_lora(seed=8))
    name = next(iter(tensors))
    with pytest.raises(ModelError, match="'other' is new: give its LoraConfig along"):
        engine.set_adapter("other", tensors)
    for wrong, said in (
        ({**tensors, "base_model.model.lm_head.weight": tensors[name]}, "more than LoRA's A and B"),
        ({**tensors, name: tensors[name] * torch.nan}, "infinite or no numbers"),
        ({key: value for key, value in tensors.items() if key != name}, "it lacks A or B"),
        ({**tensors, name: tensors[name][:, :5]}, "not as large"),
        ({key.replace("q_proj", "k_proj"): value for key, value in tensors.items()}, "its scaling is unknown"),
    ):
        with pytest.raises(ModelError, match=said):
            engine.set_adapter("default", wrong)
    assert answers(engine) == before


def test_a_model_that_became_another_is_refused():
    model = make("llama")
    engine = LocalEngine(model, None)
    answers(engine)
    model.model.layers[0].mlp.up_proj.weight.data = torch.zeros(5, 64)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.up_proj\.weight' is not what it was"):
        engine.refresh()


def test_answers_under_way_go_on_and_those_that_begin_later_have_the_new_weights():
    model = make("llama")
    engine = LocalEngine(model, None, compile_after=None)
    stop = threading.Event()
    driver = threading.Thread(target=engine.drive, args=(stop,))
    driver.start()
    try:
        running = engine.submit(prompts()[0], Options(max_new_tokens=100))
        next(iter(running))
        train(model, "other tensors")
        engine.refresh()
        assert all_same(model, answers(engine))
        assert len(running.result().choice.ids) == 100
    finally:
        stop.set()
        driver.join(10)
