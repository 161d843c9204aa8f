"""The adaptors against plain PyTorch, in value and gradient."""

import torch
import torch.nn.functional as F

from recbole_blair.model.adaptors import MLPAdaptor, MoEAdaptor
from recbole_blair.ops import mixture

CHUNKS_OF_3 = {"cpu": 3, "cuda": 3}  # several chunks, the last one short


def naive_mixture(adaptor, x):
    """Equation 4 of UniSRec with a loop over experts, gating noise and dropout off."""
    gates = F.softmax(x @ adaptor.w_gate, -1)
    total = 0
    for e in range(adaptor.weight.shape[0]):
        total = total + gates[:, e : e + 1] * ((x - adaptor.bias[e]) @ adaptor.weight[e].T)
    return total


def test_moe_adaptor_equals_a_loop_over_experts_in_value_and_gradient(monkeypatch):
    monkeypatch.setattr(mixture, "ROWS_AT_A_TIME", CHUNKS_OF_3)
    adaptor = MoEAdaptor(4, 6, 5, dropout_prob=0.0, noisy_gating=False).double()
    with torch.no_grad():
        for p in adaptor.parameters():
            p.copy_(torch.randn_like(p))
    x = torch.randn(7, 6, dtype=torch.double)
    weight = torch.randn(7, 5, dtype=torch.double)
    grads = []
    for forward in (adaptor, lambda x: naive_mixture(adaptor, x)):
        adaptor.zero_grad()
        out = forward(x)
        (out * weight).sum().backward()
        grads.append((out.detach(), [p.grad.clone() for p in adaptor.parameters() if p.grad is not None]))
    torch.testing.assert_close(grads[0][0], grads[1][0])
    assert len(grads[0][1]) == len(grads[1][1]) == 3  # weight, bias, w_gate
    for ours, naive in zip(grads[0][1], grads[1][1]):
        torch.testing.assert_close(ours, naive)


def test_moe_adaptor_passes_gradient_to_its_input_when_asked():
    adaptor = MoEAdaptor(3, 4, 2, dropout_prob=0.0, noisy_gating=False).double()
    x = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(adaptor, (x,))


def test_gate_noise_moves_training_outputs_only():
    adaptor = MoEAdaptor(4, 6, 5, dropout_prob=0.0, noisy_gating=True, initializer_range=1.0)
    x = torch.randn(8, 6)
    adaptor.train()
    assert not torch.equal(adaptor(x), adaptor(x))
    adaptor.eval()
    torch.testing.assert_close(adaptor(x), naive_mixture(adaptor, x), rtol=1e-4, atol=1e-5)


def test_mlp_adaptor_is_linear_relu_linear():
    adaptor = MLPAdaptor([6, 5, 3], dropout_prob=0.0)
    x = torch.randn(4, 6)
    first, second = adaptor.layers
    torch.testing.assert_close(adaptor(x), second(F.relu(first(x))))
