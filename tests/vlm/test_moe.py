"""Mixture of experts against a loop over tokens; losses against their formulas; statistics; sums that add up."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from vlm_fakes import DOCUMENTS, build, change

from vlm.config import DecoderConfig
from vlm.losses import CHUNK, nll_sum, total_loss
from vlm.moe import MoE, RouterStats, balance_loss, router_z_loss


def moe(num_experts=5, top_k=2, normalize=True):
    module = MoE(
        DecoderConfig(
            dim=16, num_heads=2, num_kv_heads=1, num_experts=num_experts, top_k=top_k, expert_dim=12, normalize_top_k=normalize
        )
    )
    for parameter in module.parameters():  # MoE's own are made by the decoder
        torch.nn.init.normal_(parameter)
    return module


def by_token(module, x):
    """Each token alone, its experts one by one."""
    if module.router is None:
        weights, experts = torch.ones(x.shape[0], 1), torch.zeros(x.shape[0], 1, dtype=torch.long)
    else:
        probability = torch.softmax(x @ module.router.weight.T, dim=-1)
        weights, experts = probability.topk(module.router.top_k)
        if module.router.normalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
    rows = []
    for token, chosen, weight in zip(x, experts.tolist(), weights, strict=True):
        total = torch.zeros_like(token)
        for e, w in zip(chosen, weight, strict=True):
            gate, up = (token @ module.experts.gate_up[e]).chunk(2)
            total = total + w * ((F.silu(gate) * up) @ module.experts.down[e])
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (5, 1), (5, 2), (5, 3), (5, 5)])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_a_loop_over_tokens(num_experts, top_k, normalize):
    module = moe(num_experts, top_k, normalize)
    x = torch.randn(2, 9, 16, requires_grad=True)
    everything = torch.ones(2, 9, dtype=torch.bool)
    ours, expected = module(x, everything, everything)[0], by_token(module, x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    wanted = [x, *module.parameters()]
    direction = torch.randn_like(x)
    for name, a, b in zip(
        ["x", *dict(module.named_parameters())],
        torch.autograd.grad((ours * direction).sum(), wanted, allow_unused=True),
        torch.autograd.grad((expected * direction).sum(), wanted, allow_unused=True),
        strict=True,
    ):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_experts_that_no_token_chose_get_a_zero_gradient():
    module = moe(4, 1)
    with torch.no_grad():
        module.router.weight.zero_()
        module.router.weight[2] = 1.0
    x = torch.rand(1, 6, 16)
    everything = torch.ones(1, 6, dtype=torch.bool)
    out, stats = module(x, everything, everything)
    out.sum().backward()
    assert stats.counts.sum(0).tolist() == [0, 0, 6, 0]
    assert [bool(g.any()) for g in module.experts.down.grad] == [False, False, True, False]


def test_routing_is_in_float32_under_autocast():
    module, x = moe(), torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, weights, _ = module.router(x)
    assert logits.dtype == weights.dtype == torch.float32
    assert torch.equal(logits, module.router(x)[0])


# -- losses -------------------------------------------------------------------------------------------------------------


def stats_of(probability, experts):
    """One layer's sums for tokens with these router probabilities [N, E] that went to `experts` [N, k]."""
    n, e = probability.shape
    counts = F.one_hot(experts, e).sum(dim=(0, 1)).float()
    return RouterStats(
        torch.stack([counts, 0 * counts])[None], probability.sum(0)[None], torch.zeros(1), torch.tensor(float(n))
    )


def test_balance_loss_is_one_for_an_even_load_and_e_for_a_collapsed_one():
    e, n = 6, 60
    even = stats_of(torch.full((n, e), 1 / e), torch.arange(n).view(n, 1) % e)
    collapsed = stats_of(F.one_hot(torch.zeros(n, dtype=torch.long), e).float(), torch.zeros(n, 1, dtype=torch.long))
    for stats, value in [(even, 1.0), (collapsed, float(e))]:
        assert balance_loss(stats, stats.counts.sum(1), stats.tokens).item() == pytest.approx(value)


def test_balance_loss_by_formula():
    n, e, k = 40, 5, 2
    probability = torch.randn(n, e).softmax(-1)
    experts = probability.topk(k).indices
    f = torch.stack([(experts == i).float().sum() / (n * k) for i in range(e)])
    stats = stats_of(probability, experts)
    expected = e * (f * probability.mean(0)).sum()
    torch.testing.assert_close(balance_loss(stats, stats.counts.sum(1), stats.tokens), expected)


def test_z_loss_by_formula_and_padding_is_not_counted():
    module, x = moe(), torch.randn(2, 9, 16)
    real = torch.arange(9) < torch.tensor([[9], [4]])
    logits = (x @ module.router.weight.T)[real]
    stats = RouterStats.stack([module(x, real, real)[1]])
    torch.testing.assert_close(router_z_loss(stats, stats.tokens), logits.exp().sum(-1).log().square().mean())
    assert stats.tokens == 13 and stats.counts.sum() == 26
    torch.testing.assert_close(stats.probability[0], logits.softmax(-1).sum(0))


def test_statistics_are_split_by_tokens_that_see_an_image(model, mixed):
    router = model(mixed).router
    config = model.config.decoder
    real, sees = mixed.document >= 0, mixed.image_index >= 0
    assert router.counts.shape == (config.num_layers, 2, config.num_experts)
    for layer in router.counts:
        assert layer.sum(dim=1).tolist() == [int((real & ~sees).sum()) * config.top_k, int(sees.sum()) * config.top_k]
    assert router.tokens == real.sum()


def test_statistics_do_not_depend_on_padding(model, processor):
    short, long = processor(DOCUMENTS), processor(DOCUMENTS, length=60)
    a, b = model(short).router, model(long).router
    assert torch.equal(a.counts, b.counts) and a.tokens == b.tokens
    torch.testing.assert_close(a.probability, b.probability)
    torch.testing.assert_close(a.z, b.z)


def test_one_expert_has_nothing_to_balance(mixed):
    out = build(change(decoder={"num_experts": 1, "top_k": 1}))(mixed)
    assert out.router is None
    torch.testing.assert_close(out.loss, out.nll / out.learnt)


def test_sums_of_half_batches_give_the_joined_batchs_loss_and_gradients(processor):
    model = build(change(decoder={"balance_loss": 0.5, "router_z_loss": 0.3}))
    config = model.config.decoder
    docs = [processor.encode(s) for s in DOCUMENTS]
    rows = [[docs[1], docs[0]], [docs[5]], [docs[2]], [docs[4], docs[3]]]
    whole = model(processor.collate(rows))
    whole.loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    halves = [model(processor.collate(part)) for part in (rows[:1], rows[1:])]  # of very different size
    counts = sum(h.router.counts.sum(1) for h in halves).detach()
    learnt = sum(h.learnt for h in halves)
    losses = [total_loss(h.nll, learnt, h.router, config, counts=counts) for h in halves]
    sum(losses).backward()
    torch.testing.assert_close(sum(losses), whole.loss)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_weights_of_the_router_losses_are_those_of_the_config(model, mixed):
    out, config = model(mixed), model.config.decoder
    counts = out.router.counts.sum(1)
    for name, term in [
        ("balance_loss", balance_loss(out.router, counts, out.router.tokens)),
        ("router_z_loss", router_z_loss(out.router, out.router.tokens)),
    ]:
        heavier = dataclasses.replace(config, **{name: getattr(config, name) + 2.0})
        torch.testing.assert_close(
            total_loss(out.nll, out.learnt, out.router, heavier) - out.loss, 2 * term, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("learnt", [0, 1, CHUNK, CHUNK + 3])
def test_nll_in_chunks_is_the_nll(learnt):
    labels = torch.full((1, CHUNK + 10), -100)
    labels[0, :learnt] = torch.randint(0, 7, (learnt,))
    states, head = torch.randn(1, CHUNK + 10, 4), torch.randn(7, 4)
    expected = F.cross_entropy((states @ head.T).flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    torch.testing.assert_close(nll_sum(states, labels, head), expected)
