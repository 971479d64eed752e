"""Ways to change a model: what each must leave as it is, what is refused, and one of each the whole way."""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import save_tiny
from method_cells import CELLS, FAMILIES, UNFIT, save_model, try_cell
from tunesmith.cli.main import app
from tunesmith.core.config import validate
from tunesmith.core.errors import ConfigError, ModelError
from tunesmith.core.files import read_lines
from tunesmith.data.kinds.prepared import Prepared
from tunesmith.data.quality.ledger import Source
from tunesmith.infer.generator import Options, answer_all
from tunesmith.infer.local import LocalEngine, plain_path
from tunesmith.jobs.preflight import refuse_in_parts, refuse_merge, refuse_quantized
from tunesmith.model.adapter import with_adapter
from tunesmith.model.export import export, find_model, merged
from tunesmith.model.inspect import inspect_model
from tunesmith.model.load import LoadSpec, load
from tunesmith.model.methods.adalora import AdaloraConfig
from tunesmith.model.methods.adapter import AdapterConfig
from tunesmith.model.methods.continue_from import starting_adapter
from tunesmith.model.methods.lora import LoraConfig
from tunesmith.model.methods.method import trainable
from tunesmith.model.methods.p_tuning import make_encoder
from tunesmith.model.methods.table import METHODS, MethodConfig
from tunesmith.model.new_tokens import refuse_other_tokens
from tunesmith.model.soft import save_soft_tokens, soft_tokens
from tunesmith.prompt.base import resolve
from tunesmith.prompt.load import load_contract
from tunesmith.train.config import OptimConfig
from tunesmith.train.prefixed import with_prefix
from tunesmith.train.rates import parameter_groups
from tunesmith.train.recipe import Recipe, longest_row

MORE_OF_THE_SAME = {"lora", "lora, rsLoRA and LoRA+", "lora, OLoRA", "p_tuning, LSTM", "prefix_tuning", "adapter"}
ONE_OF_EACH = [cell for cell in CELLS if cell not in {"full", "bitfit", *MORE_OF_THE_SAME}]
IDS = torch.arange(3, 43).view(2, 20)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"))


def fresh(folder):
    return load(folder, LoadSpec()).model


def make(method: dict):
    return validate(Recipe, {"data": {"train": "x"}, "method": method}, "recipe").method


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize(("family", "cell"), [("Qwen2", "bitfit"), *(("Llama", cell) for cell in ONE_OF_EACH)])
def test_one_of_each_goes_the_whole_way(family, cell, tmp_path):
    try_cell(family, cell, tmp_path)


BESIDE = [cell for cell in CELLS if "quantize" in METHODS[CELLS[cell]["type"]].can and "init" not in CELLS[cell]]


@pytest.mark.parametrize(("kind", "cell"), [("nf4", "lora"), ("nf4", "adalora"), ("int8", "lora")])
def test_something_is_trained_beside_a_quantised_base(kind, cell, tmp_path):
    try_cell("Llama", cell, tmp_path, quantize=kind)
    said = [line["sentence"] for line in read_lines(tmp_path / "runs" / "whole" / "events.jsonl") if "sentence" in line]
    assert any(f"trained beside its base in {kind}" in sentence for sentence in said)


@pytest.mark.slow
@pytest.mark.parametrize("cell", BESIDE)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Gemma", "Phi-3", "GPT-NeoX", "OPT", "Bloom"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_every_method_that_says_so_trains_beside_a_quantised_base(kind, family, cell, tmp_path):
    in_fp32_alone = cell == "adalora" and family == "Llama"  # the one that is trained in bf16
    if kind == "int8" and (cell == "lora, DoRA" or in_fp32_alone):
        with pytest.raises(ConfigError, match="go together"):
            try_cell(family, cell, tmp_path, quantize=kind)
    else:
        try_cell(family, cell, tmp_path, quantize=kind)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_validation_pass_leaves_the_gradients_of_a_quantised_base_as_they_were(tiny, kind):
    lora = METHODS["lora"].apply(load(tiny, LoadSpec(precision="bf16", quantize=kind)).model, LoraConfig(rank=4))
    with torch.no_grad():
        for name, weight in trainable(lora).items():
            weight.normal_(std=0.05) if "lora_B" in name else None

    def gradients():
        lora.train().zero_grad()
        lora(input_ids=IDS, labels=IDS).loss.backward()
        return {name: weight.grad.clone() for name, weight in trainable(lora).items()}

    first = gradients()
    logits(lora)  # in evaluation mode, without gradients
    again = gradients()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(gradient.abs().sum() > 0 for gradient in first.values())


def test_four_bits_take_less_than_half_of_the_memory_of_bf16_and_are_near_the_base(tmp_path):
    folder = save_tiny(tmp_path, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, initializer_range=0.02)
    sizes, outputs = {}, {}
    for kind in ("none", "int8", "nf4"):
        model = load(folder, LoadSpec(precision="bf16", quantize=kind)).model
        inner = [weight for layer in model.model.layers for weight in layer.parameters()]
        sizes[kind] = sum(weight.numel() * weight.element_size() for weight in inner)
        outputs[kind] = logits(model).float()
    assert sizes["nf4"] < 0.3 * sizes["none"]
    assert sizes["int8"] < 0.55 * sizes["none"]
    for kind, near in (("nf4", 0.3), ("int8", 0.05)):
        assert (outputs[kind] - outputs["none"]).norm() < near * outputs["none"].norm()


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(family, cell, tmp_path):
    seen = try_cell(family, cell, tmp_path)
    assert ("refused" in seen) == ((family, cell) in UNFIT)


@pytest.mark.parametrize(
    ("init", "family", "rslora"),
    [("pissa", "Llama", False), ("pissa", "Llama", True), ("pissa", "GPT-2", False), ("olora", "Llama", False)],
)
def test_what_starts_from_the_base_is_exported_as_plain_lora_on_the_base_as_it_was(init, family, rslora, tmp_path):
    save_model(family, tmp_path)
    lora, config = METHODS["lora"], LoraConfig(rank=4, alpha=6.0, init=init, rslora=rslora)
    before = logits(fresh(tmp_path))
    model = lora.apply(fresh(tmp_path), config)
    torch.testing.assert_close(logits(model), before, atol=2e-3, rtol=1e-3)  # what was taken out is in A and B
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.add_(0.05 * torch.randn_like(weight))
    want = logits(model)
    assert (want - before).abs().max() > 0.1
    again, tensors = lora.exported(
        config, {name: w.detach() for name, w in trainable(model).items()}, lora.state(model)[0]
    )
    other = lora.apply(fresh(tmp_path), again)
    assert trainable(other).keys() == tensors.keys()
    with torch.no_grad():
        for name, weight in trainable(other).items():
            weight.copy_(tensors[name])
    torch.testing.assert_close(logits(other), want, atol=2e-3, rtol=1e-3)
    with other.disable_adapter():
        assert torch.equal(logits(other), before)


def test_another_decomposition_of_the_base_is_put_right_when_a_run_goes_on(tiny):
    lora, config = METHODS["lora"], LoraConfig(rank=4, init="pissa")
    model, other = (lora.apply(fresh(tiny), config) for _ in range(2))
    want = logits(model)
    tensors, values = copy.deepcopy(lora.state(model))
    with torch.no_grad():  # as if another library had chosen other signs
        for name, part in other.named_modules():
            if hasattr(part, "lora_A") and "q_proj" in name:
                change = torch.randn_like(part.base_layer.weight)
                part.base_layer.weight.add_(change)
                down, up = (f"first {name}.lora_{kind}.default.weight" for kind in "AB")
                other._first[down], other._first[up] = torch.eye(*other._first[down].shape), other._first[up]
                scale = part.scaling["default"]
                part.base_layer.weight.copy_(
                    part.base_layer.weight - change + scale * tensors[up] @ tensors[down]
                    - scale * other._first[up] @ other._first[down]
                )  # fmt: skip
    lora.restore(other, tensors, values)
    torch.testing.assert_close(logits(other), want, atol=2e-3, rtol=1e-3)
    assert other._first.keys() == tensors.keys()


def test_eva_starts_where_the_inputs_vary_most_and_changes_nothing_yet(tiny):
    from dataclasses import dataclass

    @dataclass
    class Row:
        ids: np.ndarray

    rows = [Row(np.random.default_rng(seed).integers(3, 4000, 30).astype(np.uint16)) for seed in range(6)]
    lora, config = METHODS["lora"], LoraConfig(rank=4, init="eva")
    before = logits(fresh(tiny))
    model, inputs = lora.apply(fresh(tiny), config), []
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        hook = layer.base_layer.register_forward_pre_hook(lambda part, given: inputs.append(given[0].flatten(0, 1)))
        for row in rows:
            model(input_ids=torch.from_numpy(row.ids.astype("int64"))[None])
        hook.remove()
    start = layer.lora_A["default"].weight.detach().clone()
    lora.prepare(model, config, rows, 1)
    assert torch.equal(logits(model), before)
    x = torch.cat(inputs)
    best = torch.linalg.svd(x - x.mean(0), full_matrices=False).S[:4].square().sum()
    now = layer.lora_A["default"].weight
    basis = torch.linalg.qr(now.T).Q

    def held(basis):
        return ((x - x.mean(0)) @ basis).square().sum() / best

    assert held(basis) > 0.9 > held(torch.linalg.qr(start.T).Q)


def test_budget_importance_and_choice_are_those_of_peft(tiny):
    from peft.tuners.adalora.layer import RankAllocator

    steps, config = 20, AdaloraConfig(first_rank=6, rank=2, warmup=0.1, settle=0.3, every=2)
    ours = METHODS["adalora"].apply(fresh(tiny), config)
    METHODS["adalora"].prepare(ours, config, [], steps)
    theirs = METHODS["adalora"].apply(fresh(tiny), config)
    peft_config = theirs.peft_config["default"]
    peft_config.tinit, peft_config.tfinal, peft_config.deltaT, peft_config.total_step = 2, 6, 2, steps
    allocator = RankAllocator(theirs, peft_config, "default")
    random, kept = torch.Generator().manual_seed(0), []
    for step in range(1, steps + 1):
        weights, others = trainable(ours), trainable(theirs)
        for name, weight in weights.items():
            with torch.no_grad():
                weight.add_(0.1 * torch.randn(weight.shape, generator=random))
                others[name].copy_(weight)
            weight.grad = torch.randn(weight.shape, generator=random)
            others[name].grad = weight.grad.clone()
        METHODS["adalora"].after_step(ours, weights, step)
        allocator.update_and_allocate(theirs, step)
        assert all(torch.equal(weight, others[name]) for name, weight in weights.items()), step
        kept.append(sum(int((weight != 0).sum()) for name, weight in weights.items() if "lora_E" in name))
    assert kept[-1] == 2 * 14
    assert kept[0] == 6 * 14
    assert len({*kept}) > 3  # it fell bit by bit
    with torch.no_grad():
        one = {name: weight.clone() for name, weight in trainable(ours).items()}
        want = torch.stack([
            torch.dist(one[n] @ one[n].T if "lora_A" in n else one[n].T @ one[n], torch.eye(6))
            for n in one if "lora_E" not in n
        ]).mean()  # fmt: skip
        assert METHODS["adalora"].extra_loss(ours, one).item() == pytest.approx(0.5 * want.item(), rel=1e-5)


def test_b_learns_faster_where_it_is_wanted(tiny):
    config = LoraConfig(rank=4, b_rate=8.0)
    model = METHODS["lora"].apply(fresh(tiny), config)
    weights = trainable(model)
    factor = partial(METHODS["lora"].rate, config)
    groups = parameter_groups(model, weights, OptimConfig(weight_decay=0.1), 1e-3, factor)
    rates = {name.split(".")[-3]: group.rate for group in groups for name in group.names}
    assert rates == {"lora_A": 1e-3, "lora_B": 8e-3}
    assert sum(len(group.names) for group in groups) == len(weights)


def test_what_lokr_is_told_reaches_it(tiny):
    """Of a matrix of 16 by 16 a factor of 4 leaves blocks of 4 by 4; `both` parts the smaller one too."""
    given = {"type": "lokr", "rank": 1, "factor": 4, "both": True}
    model = METHODS["lokr"].apply(fresh(tiny), make(given))
    assert (model.peft_config["default"].decompose_factor, model.peft_config["default"].decompose_both) == (4, True)
    smaller = sum(weight.numel() for weight in trainable(model).values())
    assert smaller != sum(
        weight.numel()
        for weight in trainable(METHODS["lokr"].apply(fresh(tiny), make({**given, "factor": 8}))).values()
    )


def test_freezing_trains_what_is_named_and_nothing_else(tiny):
    names = set(
        trainable(METHODS["freeze"].apply(fresh(tiny), make({"type": "freeze", "last": 1, "names": ["*embed*"]})))
    )
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"1"}
    assert {name for name in names if ".layers." not in name} == {"model.embed_tokens.weight"}
    first = trainable(METHODS["freeze"].apply(fresh(tiny), make({"type": "freeze", "last": 0, "first": 1})))
    assert {name.split(".")[2] for name in first} == {"0"}
    norms = trainable(METHODS["layernorm"].apply(fresh(tiny), make({"type": "layernorm"})))
    assert {name.rsplit(".", 2)[-2] for name in norms} == {"input_layernorm", "post_attention_layernorm", "norm"}


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_the_network_of_p_tuning_is_that_of_peft(encoder):
    from peft.tuners.p_tuning import PromptEncoder, PromptEncoderConfig

    config = make({"type": "p_tuning", "tokens": 6, "hidden": 16, "encoder": encoder})
    ours = make_encoder(config, 32)
    theirs = PromptEncoder(
        PromptEncoderConfig(
            num_virtual_tokens=6, token_dim=32, encoder_hidden_size=16, num_transformer_submodules=1,
            encoder_reparameterization_type=encoder.upper(),
        )
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(), theirs(torch.arange(6)))


def test_soft_tokens_stand_before_every_row_and_change_nothing_else(tiny, tmp_path):
    model = METHODS["prompt_tuning"].apply(fresh(tiny), make({"type": "prompt_tuning", "tokens": 5})).eval()
    assert set(trainable(model)) == {"model.embed_tokens.prompt.weight"}
    assert soft_tokens(model) == [4096, 4097, 4098, 4099, 4100]
    ids, mask = list(range(10, 30)), [True] * 20
    with torch.no_grad():
        vectors = torch.cat(
            [trainable(model)["model.embed_tokens.prompt.weight"], model.model.embed_tokens.weight[ids]]
        )
        want = torch.log_softmax(fresh(tiny)(inputs_embeds=vectors[None]).logits[0, 5:-1], -1)
    [score] = LocalEngine(model, None).score([(ids, mask)])
    assert len(score.logprobs) == 19  # the first token is predicted by none, as without soft tokens
    torch.testing.assert_close(torch.tensor(score.logprobs), want[range(19), ids[1:]], atol=1e-4, rtol=1e-4)
    row = Prepared(np.arange(8, dtype=np.uint16), ((0, 3), (5, 8)), Source("x", 1), lambda: None)
    longer = with_prefix(row, np.array([4096, 4097]))
    assert longer.ids.tolist() == [4096, 4097, *range(8)]
    assert longer.mask.tolist() == [False] * 3 + [True, True, False, False] + [True] * 3
    save_soft_tokens(model, tmp_path, str(tiny), None)
    with pytest.raises(ModelError, match="cannot be folded into weights"):
        merged(tmp_path, resolve(str(tiny)))


def test_soft_tokens_start_where_they_are_told_to(tiny):
    words = fresh(tiny).get_input_embeddings().weight
    contract = load_contract(tiny)
    text = METHODS["prompt_tuning"].apply(fresh(tiny), make({"type": "prompt_tuning", "tokens": 5, "init": "text",
                                                             "text": "Answer briefly."}))  # fmt: skip
    ids = contract.tokenizer.encode("Answer briefly.", add_special_tokens=False)
    vectors = text.get_input_embeddings().prompt.weight
    assert torch.equal(vectors, words[[ids[place % len(ids)] for place in range(5)]])
    drawn = METHODS["prompt_tuning"].apply(fresh(tiny), make({"type": "prompt_tuning"})).get_input_embeddings()
    assert all((words == vector).all(-1).any() for vector in drawn.prompt.weight)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"type": "prompt_tuning", "tokens": 600}}, "takes at most 512 tokens in all"),
        ({"method": {"type": "p_tuning"}, "output": {"merge": True}}, "P-tuning adds nothing that could be folded"),
        ({"method": {"type": "adalora"}, "sharding": "full", "processes": 2}, "adalora with these settings needs all"),
        ({"method": {"type": "prompt_tuning", "text": "x"}}, "give both or none"),
        ({"method": {"type": "loha"}, "model": {"quantize": "nf4"}}, "nf4 and method.type = loha do not go together"),
        ({"method": {"type": "full"}, "model": {"quantize": "int8"}}, "train one of lora, adalora, vera, ia3, oft"),
        ({"method": {"type": "lora", "init": "pissa"}, "model": {"quantize": "nf4"}}, "init = pissa do not go"),
        ({"method": {"type": "ia3"}, "model": {"quantize": "nf4"}}, "go together in fp32 alone"),
        ({"method": {"type": "lora", "dora": True}, "model": {"quantize": "int8"}}, "dora do not go together"),
    ],
)  # fmt: skip
def test_what_a_method_cannot_do_is_refused_before_the_model_is_loaded(tiny, tmp_path, changes, said):
    values = {"data": {"train": "x"}, **changes, "model": {"base": str(tiny), **changes.get("model", {})}}

    def begin() -> None:
        recipe = validate(Recipe, values, "recipe")
        refuse_in_parts(recipe)
        refuse_merge(recipe)
        refuse_quantized(recipe)
        longest_row(recipe, resolve(str(tiny)))

    with pytest.raises(ConfigError, match=said):
        begin()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"type": "lora", "targets": ["q_prj"]}, "no linear layer of the model is called 'q_prj'; did you mean 'q_p"),
        ({"type": "loha", "targets": []}, "method.targets is empty"),
        ({"type": "lora", "rank": 64, "targets": ["k_proj"]}, "k_proj is 32 x 64, so a rank above 32 adds no"),
        ({"type": "lora", "rank": 4, "train_also": ["lm_hed"]}, "no module 'lm_hed'; did you mean 'lm_head'"),
        ({"type": "oft", "block": 7}, "reads 64 numbers, which 7 does not divide. Take 2, 4, 8,"),
        ({"type": "freeze", "last": 9}, "method.last = 9: the model has 2 layers"),
        ({"type": "freeze", "last": 0, "names": ["*.attention.*"]}, "no weight matches '.*attention.*'"),
        ({"type": "bitfit"}, "has no biases"),
    ],
)  # fmt: skip
def test_mistakes_get_a_sentence(tiny, method, said):
    config = make(method)
    with pytest.raises(ModelError, match=said):
        METHODS[method["type"]].apply(fresh(tiny), config)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"type": "lora", "init": "pissa", "continue_from": "x"}, "init says how fresh weights start"),
        ({"type": "lora", "init": "pissa", "dora": True}, "with dora, init pissa is not possible"),
        ({"type": "freeze", "last": 0}, "choose nothing"),
        ({"type": "qlora2"}, "must be one of full, freeze, bitfit"),
        ({"type": "adalora", "rank": 20}, "rank is what first_rank falls to"),
        ({"type": "adalora", "warmup": 0.6, "settle": 0.5}, "together they must be less than 1"),
        ({"type": "vera", "alpha": 3}, "method.alpha: unknown key"),
    ],
)
def test_contradictions_are_refused_before_anything_is_loaded(method, said):
    with pytest.raises(ConfigError, match=said):
        make(method)


def test_an_adapter_of_another_kind_or_of_other_settings_is_not_continued(tiny, tmp_path):
    vera = METHODS["vera"].apply(fresh(tiny), make({"type": "vera", "rank": 8}))
    vera.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"it is a VERA adapter. Only LORA adapters can be started from here"):
        METHODS["lora"].apply(fresh(tiny), make({"type": "lora", "continue_from": str(tmp_path)}))
    with pytest.raises(ModelError, match=r"method.rank = 9, and the adapter in .* has 8. Set method.rank=8"):
        METHODS["vera"].apply(fresh(tiny), make({"type": "vera", "rank": 9, "continue_from": str(tmp_path)}))
    again = METHODS["vera"].apply(fresh(tiny), make({"type": "vera", "rank": 8, "continue_from": str(tmp_path)}))
    torch.testing.assert_close(logits(again), logits(vera))


def test_every_method_of_the_table_can_be_named_and_says_what_it_is():
    kinds = {one.model_fields["type"].default for one in MethodConfig.__origin__.__args__}
    assert kinds == set(METHODS) == {method["type"] for method in CELLS.values()}
    assert all(method.label for method in METHODS.values())


@pytest.fixture(scope="module")
def exports(tiny, tmp_path_factory):
    """An adapter, a full model and soft tokens of one base, as runs export them."""
    folder, contract = tmp_path_factory.mktemp("exports"), load_contract(tiny)
    base = resolve(str(tiny))
    kinds = [{"type": "lora", "rank": 4, "targets": ["q_proj"]}, {"type": "layernorm"},
             {"type": "prompt_tuning", "tokens": 3}]  # fmt: skip
    for kind in kinds:
        model = METHODS[kind["type"]].apply(fresh(tiny), make(kind))
        with torch.no_grad():
            for name, weight in trainable(model).items():
                weight.fill_(0.5 if "lora_A" in name else 0.25)
        card = {"base": {"name": str(tiny), "sha256": base.fingerprint()}, "method": kind}
        export(model, base, contract, folder / kind["type"], card)
    return folder


def test_inspecting_tells_what_moved_and_how_far(tiny, exports):
    base = fresh(tiny)
    found = {part.name: part for part in inspect_model(find_model(str(tiny)))}
    assert sum(part.numbers for part in found.values()) == sum(weight.numel() for weight in base.parameters())
    assert not any(part.trained or part.moved for part in found.values())
    weight = base.model.layers[1].mlp.up_proj.weight
    assert found["model.layers.*.mlp.up_proj.weight"].rms[1] == pytest.approx(weight.square().mean().sqrt().item())

    found = {part.name: part for part in inspect_model(find_model(exports / "lora"))}
    moved = found["model.layers.*.self_attn.q_proj.weight"]
    weight = base.model.layers[0].self_attn.q_proj.weight
    change = 2.0 * torch.full((64, 4), 0.25) @ torch.full((4, 64), 0.5)  # alpha is twice 16, the rank 4: a scale of 8
    assert moved.moved[0] == pytest.approx((4 * change.norm() / weight.norm()).item(), rel=1e-4)
    assert [part.name for part in found.values() if part.moved] == [moved.name]
    trained = {part.name: (part.shape, part.numbers) for part in found.values() if part.trained}
    assert list(trained.values()) == [((4, 64), 512), ((64, 4), 512)]

    found = inspect_model(find_model(str(exports / "layernorm")))
    assert {part.name.split(".")[-2] for part in found if part.trained} == {
        "input_layernorm", "post_attention_layernorm", "norm",
    }  # fmt: skip
    assert all(far == pytest.approx(0.75) for part in found for far in part.moved.values())  # from 1 to 0.25

    *own, soft = inspect_model(find_model(exports / "prompt_tuning"))
    assert (soft.name, soft.shape, soft.trained) == ("soft tokens", (3, 64), True)
    assert not any(part.moved or part.trained for part in own)


def test_an_adapter_of_another_base_or_a_damaged_one_gets_a_sentence(tiny, exports, tmp_path):
    other, cut = save_tiny(tmp_path / "other", hidden_size=32), tmp_path / "cut"
    with pytest.raises(ModelError, match="does not fit the base model: it is of another base, or damaged"):
        with_adapter(fresh(other), exports / "lora")
    with pytest.raises(ModelError, match="its soft tokens are of the shape"):
        with_adapter(fresh(other), exports / "prompt_tuning")
    for kind in ("lora", "prompt_tuning"):
        shutil.copytree(exports / kind, cut, dirs_exist_ok=True)
        file = cut / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:40])
        with pytest.raises(ModelError, match="damaged"):
            with_adapter(fresh(tiny), cut)


def test_inspect_and_methods_on_the_command_line(tiny, exports, tmp_path):
    runner = CliRunner()
    told = runner.invoke(app, ["inspect", str(exports / "lora"), "--picture", str(tmp_path / "moved.png")])
    assert told.exit_code == 0, told.output
    assert "1,024 of them trained" in told.output
    assert (tmp_path / "moved.png").read_bytes().startswith(b"\x89PNG")
    assert (
        runner.invoke(app, ["inspect", str(tiny), "--picture", "x.svg"]).exception.args[0].startswith("--picture: no")
    )
    assert "svg or .png" in str(runner.invoke(app, ["inspect", str(tiny), "--picture", "x.pdf"]).exception)
    listed = runner.invoke(app, ["methods"]).output
    assert all(name in listed for name in METHODS)


@pytest.mark.parametrize("method", [{"type": "prefix_tuning", "tokens": 5}, {"type": "adapter", "size": 8}])
def test_rows_of_any_length_share_a_batch_of_the_library_too(tiny, method):
    """Prompts padded on the left, decoded with the library's cache, are those that are decoded alone in slots."""
    config = make(method)
    model = METHODS[method["type"]].apply(fresh(tiny), config)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.add_(0.2 * torch.randn_like(weight))
    prompts = [[5, 6, 7, 8, 9, 10, 11], [70, 80]]
    slots, plain = LocalEngine(model.eval(), None, compile_after=None), LocalEngine(model, None, compile_after=None)
    before = logits(model)
    plain._decided = plain_path(plain, "as the test wants it")
    asked = [(prompt, Options(max_new_tokens=10)) for prompt in prompts]
    answers = [[answer.choice.ids for answer in answer_all(engine, asked)] for engine in (slots, plain)]
    assert slots.reason == ""
    assert answers[0] == answers[1]
    assert answers[0] != [a.choice.ids for a in answer_all(LocalEngine(fresh(tiny), None), asked)]
    torch.testing.assert_close(logits(model), before)


@pytest.mark.parametrize("cell", ["prefix_tuning, projection", "adapter, Houlsby"])
def test_what_attention_and_layers_are_given_is_compiled_with_them(cell, tmp_path):
    try_cell("Llama", cell, tmp_path, compiled=True)


MORE_WITH_NEW_TOKENS = [
    ("Llama", "prefix_tuning"), ("Llama", "full"), ("Llama", "lora"), ("GPT-2", "adapter"), ("Qwen2", "bitfit"),
    ("Llama", "p_tuning"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "cell"),
    [("Gemma", "lora"), ("Llama", "prefix_tuning, projection")]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in MORE_WITH_NEW_TOKENS],
)
def test_new_tokens_are_trained_and_kept_with_every_method(family, cell, tmp_path):
    try_cell(family, cell, tmp_path, tokens=("lower level", "Zzyzx"))
    found = find_model(str(tmp_path / "runs" / "whole"))
    tokenizer, spec = found.contract().tokenizer, found.spec(LoadSpec())
    ids = tokenizer.convert_tokens_to_ids(["lower level", "Zzyzx"])
    assert ids == [4096, 4097]
    assert tokenizer.encode("On the lower level.", add_special_tokens=False).count(4096) == 1
    base = load(tmp_path / "base", spec).model
    was, now = (one.get_output_embeddings().weight.detach() for one in (base, found.load("cpu")))
    assert len(was) == len(now) == 4098
    own = load_contract(tmp_path / "base").tokenizer
    start = was[own.encode("Zzyzx", add_special_tokens=False)].mean(0)
    torch.testing.assert_close(was[4097], start)
    assert not torch.equal(now[4096], was[4096])  # it is among the answers
    assert cell == "full" or torch.equal(now[:4096], was[:4096])
    if cell == "lora":
        engine = LocalEngine(fresh(tmp_path / "base"), None)
        with pytest.raises(ModelError, match="it has tokens of its own, so it cannot join a batch"):
            engine.add_adapter("x", found.folder)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [([" x"], "begins or ends with a space"), (["the"], "is in the model's tokenizer already"),
     (["Zzyzx", "Zzyzx"], "is in the list already")],
)  # fmt: skip
def test_tokens_that_cannot_be_new_are_refused(tiny, tokens, said):
    with pytest.raises(ModelError, match=said):
        load_contract(tiny, add_tokens=tokens)


def test_an_adapter_whose_new_tokens_are_damaged_is_a_sentence(tiny, tmp_path):
    model = METHODS["lora"].apply(load(tiny, LoadSpec(new_tokens=("Zzyzx",))).model, LoraConfig(rank=4))
    contract = load_contract(resolve("ember").folder, add_tokens=["Zzyzx"])
    export(model, resolve(str(tiny)), contract, tmp_path / "out", {})
    (tmp_path / "out" / "new_tokens.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="its new tokens are damaged"):
        with_adapter(fresh(tiny), tmp_path / "out")


def test_an_adapter_is_not_gone_on_from_with_other_new_tokens(tiny, tmp_path):
    model = METHODS["lora"].apply(load(tiny, LoadSpec(new_tokens=("Zzyzx", "Qwxy"))).model, LoraConfig(rank=4))
    contract = load_contract(resolve("ember").folder, add_tokens=["Zzyzx", "Qwxy"])
    export(model, resolve(str(tiny)), contract, tmp_path / "out", {})
    refuse_other_tokens(tmp_path / "out", ["Zzyzx", "Qwxy"])
    for wanted in ([], ["Zzyzx"], ["Qwxy", "Zzyzx"]):
        with pytest.raises(ModelError, match=r'other ones. Set model.add_tokens=\["Zzyzx", "Qwxy"\]'):
            refuse_other_tokens(tmp_path / "out", wanted)
    before = starting_adapter(str(tmp_path / "out"))
    (tmp_path / "out" / "new_tokens.safetensors").unlink()
    assert starting_adapter(str(tmp_path / "out")) != before


def test_bottlenecks_that_stand_elsewhere_or_are_damaged_are_a_sentence(tiny, tmp_path):
    model = METHODS["adapter"].apply(fresh(tiny), AdapterConfig(size=4))
    contract = load_contract(resolve("ember").folder)
    export(model, resolve(str(tiny)), contract, tmp_path / "out", {})
    folder = tmp_path / "out"
    with pytest.raises(ModelError, match=r"stands behind other layers \(down_proj\)"):
        METHODS["adapter"].apply(fresh(tiny), AdapterConfig(size=4, placement="houlsby", continue_from=str(folder)))
    with pytest.raises(ModelError, match=r"method.size = 8, and the adapter .* has 4"):
        METHODS["adapter"].apply(fresh(tiny), AdapterConfig(size=8, continue_from=str(folder)))
    with pytest.raises(ModelError, match=r"no linear layer of the model is called 'dwn_proj'; did you mean"):
        METHODS["adapter"].apply(fresh(tiny), AdapterConfig(targets=["dwn_proj"]))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="the adapter is damaged"):
        with_adapter(fresh(tiny), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "activation": "swish2"}))
    with pytest.raises(ModelError, match="activation = 'swish2'"):
        with_adapter(fresh(tiny), folder)
