"""What keeps experts evenly loaded: the losses against their formulas, the moving bias, and the sums that both go by."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from moe_fakes import moe, routing, run
from vlm_fakes import DOCUMENTS, build, change

from vlm.losses import total_loss
from vlm.moe import RouterStats, balance_loss, router_z_loss

# -- balance ------------------------------------------------------------------------------------------------------------


def test_the_bias_moves_by_its_rate_towards_an_even_load():
    router = moe(balance_bias_rate=0.25).router
    router.bias.zero_()
    router.rebalance(torch.tensor([4.0, 0.0, 2.0, 3.0, 1.0]))
    assert router.bias.tolist() == [-0.25, 0.25, 0.0, -0.25, 0.25]
    router.rebalance(torch.tensor([3.0, 3.0, 2.0, 1.0, 1.0]))
    assert router.bias.tolist() == [-0.5, 0.0, 0.0, 0.0, 0.5]
    moe().router.rebalance(torch.ones(5))  # no bias: nothing happens


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_the_bias_evens_a_skewed_load_and_leaves_the_weights_of_the_chosen_alone(router):
    module = moe(router=router, balance_bias_rate=0.01, normalize_top_k=False, num_experts=8, top_k=2)
    module.router.bias.zero_()
    x = torch.randn(500, 16) + 1.0  # a common direction: some experts win almost everywhere
    spread = []
    for _ in range(150):
        load = routing(module, x)[2].counts.sum(0)
        spread.append(float(load.max() / load.mean()))
        module.router.rebalance(load)
    assert spread[0] > 2 and max(spread[-10:]) < 1.2
    weights, experts, _ = routing(module, x)
    logits = x @ module.router.weight.T
    scores = logits.softmax(-1) if router == "softmax" else logits.sigmoid()
    torch.testing.assert_close(weights, scores.gather(1, experts))


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


def test_balance_loss_of_a_sigmoid_router_is_of_each_tokens_shares():
    module, x = moe(router="sigmoid", shared_dim=4), torch.randn(2, 20, 16)
    scores = torch.sigmoid(x.flatten(0, 1) @ module.router.weight.T)
    shares = scores / scores.sum(-1, keepdim=True)
    experts = scores.topk(2).indices
    load = torch.stack([(experts == e).float().sum() for e in range(5)]) / (2 * 40)
    stats = RouterStats.stack([run(module, x)[1]])
    torch.testing.assert_close(balance_loss(stats, stats.counts.sum(1), stats.tokens), 5 * (load * shares.mean(0)).sum())


def test_statistics_are_split_by_tokens_that_see_an_image(model, mixed):
    router = model(mixed).router
    config = model.config.decoder
    real, sees = mixed.document >= 0, mixed.image_index >= 0
    assert router.counts.shape == (config.num_layers, 2, config.num_experts)
    for layer in router.counts:
        assert layer.sum(dim=1).tolist() == [int((real & ~sees).sum()) * config.top_k, int(sees.sum()) * config.top_k]
    assert router.tokens == real.sum()


def test_dense_layers_have_no_statistics(mixed):
    config = change(decoder={"dense_layers": (0, 2), "dense_dim": 40, "shared_dim": 8})
    model = build(config)
    assert model(mixed).router.counts.shape == (1, 2, 4)
    assert [layer.moe.router is not None for layer in model.decoder.layers] == [False, True, False]
    assert build(change(decoder={"dense_layers": (0, 1, 2)}))(mixed).router is None


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
