"""Recurrent networks and transformers in a stack are those of normkit.nn's layers."""

import pytest
import torch
from torch import nn

from normkit import nn as layers
from normkit.claims.experiments._stacked_layers import Draws
from normkit.claims.experiments._stacked_lstm import LSTM
from normkit.claims.experiments._stacked_norms import population_statistics
from normkit.claims.experiments._stacked_recurrent import RNN
from normkit.claims.experiments._stacked_training import PADDING
from normkit.claims.experiments._stacked_transformer import (
    BLANK,
    CHARACTERS,
    SYMBOLS,
    TokenBatchNorm,
    discrepancy_penalty,
    next_character,
    sorting,
    told_by_the_last,
    transformer,
)

R, N, T, I, H = 2, 5, 4, 3, 6  # noqa: E741


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stack(norm, **options):
    """With weights and biases that are not what they start from."""
    found = RNN(Draws((0, 1)), I, H, T, norm, **options)
    for p in found.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return found


def close_with_gradients(found, expected, x):
    dy = torch.randn_like(found)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, dy, retain_graph=True)[0] for y in (found, expected)))


@pytest.mark.parametrize(
    ("norm", "placement"),
    [("none", "none"), ("layer_sum", "sum"), ("layer_separate", "separate"), ("rms_sum", "rms_sum")],
)
@pytest.mark.parametrize("vary", [False, True])
def test_rnn_is_the_layer(norm, placement, vary):
    rnn = stack(norm)
    x = torch.randn(R, N, T, I, requires_grad=True)
    lengths = torch.tensor([[4, 1, 3, 2, 4], [2, 4, 1, 1, 3]]) if vary else None
    found = rnn(x, lengths)
    for replica in range(R):
        layer = layers.LayerNormRNN(I, H, batch_first=True, norm=placement)
        with torch.no_grad():
            layer.weight_ih_l0.copy_(rnn.weight_ih[replica].T)
            layer.weight_hh_l0.copy_(rnn.weight_hh[replica].T)
            layer.bias_ih_l0.copy_(rnn.bias[replica])
            layer.bias_hh_l0.zero_()
            for place, norm_layer in (("sum", rnn.norm_sum), ("ih", rnn.rows_ih), ("hh", rnn.rows_hh)):
                if norm_layer is not None:
                    getattr(layer, f"norm_weight_{place}_l0").copy_(norm_layer.weight[replica])
                    if norm_layer.bias is not None:
                        getattr(layer, f"norm_bias_{place}_l0").copy_(norm_layer.bias[replica])
        _, h = layer(x[replica], lengths=None if lengths is None else lengths[replica])
        close_with_gradients(found[replica], h[0], x)


def lstm(norm):
    found = LSTM(Draws((0, 1)), I, H, T, norm, every=True)
    for p in found.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return found


def give(layer, stacked, replica):
    """Our parameters to theirs, whose gates are in torch's order."""

    def ordered(value):
        if value.shape[0] == H:
            return value
        i, f, o, g = value.split(H)
        return torch.cat([i, f, g, o])

    with torch.no_grad():
        layer.weight_ih_l0.copy_(ordered(stacked.weight_ih[replica].T))
        layer.weight_hh_l0.copy_(ordered(stacked.weight_hh[replica].T))
        layer.bias_ih_l0.copy_(ordered(stacked.bias[replica]))
        layer.bias_hh_l0.zero_()
        for place in ("ih", "hh", "c"):
            for kind in ("rows", "batch"):
                norm = getattr(stacked, f"{kind}_{place}")
                if norm is not None:
                    getattr(layer, f"norm_weight_{place}_l0").copy_(ordered(norm.weight[replica]))
                    if norm.bias is not None:
                        getattr(layer, f"norm_bias_{place}_l0").copy_(ordered(norm.bias[replica]))


@pytest.mark.parametrize(
    ("norm", "theirs"),
    [
        ("none", lambda: layers.LayerNormLSTM(I, H, batch_first=True, norm="none")),
        ("layer_separate", lambda: layers.LayerNormLSTM(I, H, batch_first=True)),
        ("batch_separate", lambda: layers.BatchNormLSTM(I, H, batch_first=True, max_steps=T)),
    ],
)
def test_lstm_is_the_layer(norm, theirs):
    stacked = lstm(norm)
    x = torch.randn(R, N, T, I, requires_grad=True)
    found = stacked(x)
    stacked.eval()
    for replica in range(R):
        layer = theirs()
        give(layer, stacked, replica)
        close_with_gradients(found[replica], layer(x[replica])[0], x)
        layer.eval()
        with torch.no_grad():
            torch.testing.assert_close(stacked(x)[replica], layer(x[replica])[0])


@pytest.mark.parametrize("network", [RNN, LSTM])
def test_the_last_of_every_state_is_the_last_state(network):
    every, last = (network(Draws((0, 1)), I, H, T, "none", every=every) for every in (True, False))
    x = torch.randn(R, N, T, I)
    assert every(x).shape == (R, N, T, H)
    torch.testing.assert_close(every(x)[:, :, -1], last(x))


def loop_with_batch_norms(rnn, replica, x, norms, lengths=None):
    """The definition, a step at a time, with a BatchNorm1d for each place and step; with lengths, over the living."""
    ih, hh = norms
    h = x.new_zeros(x.shape[0], H)
    last = h
    for step in range(x.shape[1]):
        p, q = x[:, step] @ rnn.weight_ih[replica], h @ rnn.weight_hh[replica]
        living = torch.ones(len(x), dtype=torch.bool) if lengths is None else step < lengths
        p_hat, q_hat = p.clone(), q.clone()
        p_hat[living], q_hat[living] = ih[step](p[living]), hh[step](q[living])
        a = p_hat * rnn.batch_ih.weight[replica] + q_hat * rnn.batch_hh.weight[replica] + rnn.bias[replica]
        h = torch.tanh(a)
        last = torch.where(living[:, None], h, last)
    return last


def batch_norms():
    return [[layers.BatchNorm1d(H, affine=False) for _ in range(T)] for _ in range(2)]


def test_batch_rnn_normalizes_each_step_over_the_batch():
    rnn = stack("batch_separate", weight=0.1)
    x = torch.randn(R, N, T, I, requires_grad=True)
    found = rnn(x)
    rnn.eval()
    for replica in range(R):
        norms = batch_norms()
        close_with_gradients(found[replica], loop_with_batch_norms(rnn, replica, x[replica], norms), x)
        for layer in (*norms[0], *norms[1]):
            layer.eval()
        with torch.no_grad():
            expected = loop_with_batch_norms(rnn, replica, x[replica], norms)
            torch.testing.assert_close(rnn(x)[replica], expected)


def test_masked_batch_rnn_normalizes_over_the_sequences_that_reach_a_step():
    rnn = stack("batch_masked", weight=0.1)
    x = torch.randn(R, N, T, I, requires_grad=True)
    lengths = torch.tensor([[4, 1, 3, 2, 4], [2, 4, 2, 3, 4]])
    found = rnn(x, lengths)
    for replica in range(R):
        norms = batch_norms()
        expected = loop_with_batch_norms(rnn, replica, x[replica], norms, lengths[replica])
        close_with_gradients(found[replica], expected, x)
        for step in range(T):
            torch.testing.assert_close(rnn.batch_hh.running_var[replica, step], norms[1][step].running_var)


def test_padding_reaches_unmasked_batch_statistics_and_no_others():
    x, lengths = torch.randn(R, N, T, I), torch.tensor([[4, 1, 3, 2, 4], [2, 4, 2, 3, 4]])
    ended = torch.arange(T) >= lengths[:, :, None]
    other = torch.where(ended[..., None], torch.randn_like(x), x)
    for norm, same in (("batch_separate", False), ("batch_masked", True), ("layer_sum", True), ("none", True)):
        rnn = stack(norm)
        assert torch.allclose(rnn(x, lengths), rnn(other, lengths), rtol=1e-12, atol=1e-12) is same, norm


def test_a_step_that_one_sequence_reaches_takes_the_running_statistics():
    rnn = stack("batch_masked", weight=0.1)
    x, lengths = torch.randn(1, N, T, I).expand(R, -1, -1, -1), torch.tensor([4, 1, 1, 1, 1]).expand(R, -1)
    rnn(x, lengths)
    torch.testing.assert_close(rnn.batch_ih.running_mean[:, 1:], torch.zeros(R, T - 1, H))
    assert (rnn.batch_ih.running_mean[:, 0] != 0).all()


def test_shared_statistics_are_the_mean_over_the_steps():
    shared, each = stack("batch_shared"), stack("batch_separate")
    each.load_state_dict({**shared.state_dict(), **{k: v for k, v in each.state_dict().items() if "running" in k}})
    x = torch.randn(R, N, T, I)
    torch.testing.assert_close(shared(x), each(x))
    for name in ("running_mean", "running_var"):
        expected = getattr(each.batch_hh, name).mean(1, keepdim=True)
        torch.testing.assert_close(getattr(shared.batch_hh, name), expected)


def tokens():
    data = sorting(0, "variable").train
    return data.inputs[0][:6].expand(R, -1, -1), data.targets[:6]


def test_sorting_pads_what_it_does_not_ask_for():
    x, y = tokens()
    assert ((x[0] == BLANK) == (y == PADDING)).all()
    for row, target in zip(x[0], y, strict=True):
        assert sorted(row[row < SYMBOLS].tolist()) == target[target >= 0].tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_token_batch_norm_is_batch_norm_over_tokens(masked):
    norm = TokenBatchNorm(R, H, masked=masked)
    x, known = torch.randn(R, N, T, H, requires_grad=True), torch.rand(R, N, T) < 0.6
    found = norm(x, known)
    norm.eval()
    for replica in range(R):
        layer = layers.BatchNorm1d(H)
        rows = known[replica] if masked else torch.ones_like(known[replica])
        close_with_gradients(found[replica][rows], layer(x[replica][rows]), x)
        layer.eval()
        torch.testing.assert_close(norm(x, known)[replica].flatten(0, 1), layer(x[replica].flatten(0, 1)))


def test_penalty_is_on_the_distance_from_the_running_statistics():
    model = transformer("batch_regularized", n_blocks=1)((0, 1))
    norms = [module for module in model.modules() if isinstance(module, TokenBatchNorm)]
    assert len(norms) == 3
    x, known = torch.randn(R, N, T, 32, requires_grad=True), torch.rand(R, N, T) < 0.6
    expected = torch.zeros(R)
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        for replica in range(R):
            rows = x[replica][known[replica]]
            mean = (norm.running_mean[replica] - rows.mean(0)).square().sum()
            var = (norm.running_var[replica] - rows.var(0)).abs().sum()
            expected[replica] = expected[replica] + (0.1 * mean + 0.01 * var) / len(rows)
        norm(x, known)
    close_with_gradients(discrepancy_penalty(model), expected, x)


def test_blanks_reach_unmasked_batch_norm_and_no_other():
    x, _ = tokens()
    longer = torch.cat([x[:, :, :10].clamp(max=SYMBOLS - 1), torch.full_like(x[:, :, :2], BLANK)], 2)
    for norm, same in (("layer", True), ("batch_masked", True), ("batch", False), ("rms", True)):
        model = transformer(norm)((0, 1))
        one, other = model(longer)[:, :, :10], model(longer[:, :, :10])
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10) is same, norm


@pytest.mark.parametrize(("norm", "tells"), [("none", False), ("layer", False), ("batch", True)])
def test_what_comes_later_is_seen_by_statistics_of_the_batch_alone(norm, tells):
    x = next_character(0).test.inputs[0][:6].expand(R, -1, -1)
    model = transformer(norm, language=CHARACTERS)((0, 1))
    found = told_by_the_last(model, x)
    assert ((found > 1e-3) if tells else (found == 0)).all()
    other = torch.cat([x[:, :, :-1], x[:, :, :1]], 2)
    model.eval()
    torch.testing.assert_close(model(x)[:, :, :-1], model(other)[:, :, :-1])
    assert (model(x)[:, :, -1] - model(other)[:, :, -1]).abs().amax() > 1e-3


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_transformer_replicas_do_not_see_one_another(placement):
    x, _ = tokens()
    both, alone = (transformer("batch", placement=placement)(seeds) for seeds in ((0, 1), (1,)))
    torch.testing.assert_close(both(x)[1], alone(x[:1])[0])


def test_transformer_is_torchs_encoder_layer():
    model = transformer("layer", n_blocks=1, placement="post")((0,))
    theirs = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    attention, feed = model.halves[0].inner, model.halves[1].inner
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(attention.project_in.weight[0].T)
        theirs.self_attn.out_proj.weight.copy_(attention.project_out.weight[0].T)
        theirs.linear1.weight.copy_(feed.hidden.weight[0].T)
        theirs.linear2.weight.copy_(feed.out.weight[0].T)
        for bias in (
            theirs.self_attn.in_proj_bias,
            theirs.self_attn.out_proj.bias,
            theirs.linear1.bias,
            theirs.linear2.bias,
        ):
            bias.zero_()
    x, known = torch.randn(1, 6, 16, 32), torch.ones(1, 6, 16, dtype=torch.bool)
    known[:, 0, 10:] = False
    y = model.halves[1](model.halves[0](x, known), known)
    torch.testing.assert_close(y[0][known[0]], theirs(x[0], src_key_padding_mask=~known[0])[known[0]])


def test_population_statistics_of_an_rnn_are_set_at_once():
    rnn = stack("batch_separate")
    x = torch.randn(R, N, T, I)
    with population_statistics(rnn):
        rnn(x)
    p = torch.einsum("rnti,rih->rnth", x, rnn.weight_ih)
    torch.testing.assert_close(rnn.batch_ih.running_mean, p.mean(1))
    torch.testing.assert_close(rnn.batch_ih.running_var, p.var(1))
