"""Log-probabilities at a temperature, and the short ways of adapters, against plain torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from pedrl_agents.adapters import Lora
from pedrl_agents.head import token_logprobs
from pedrl_agents.learner import Learner, LearnerConfig
from pedrl_agents.lora_linear import LoraLinear
from pedrl_agents.losses import Divergence, PolicyLoss
from pedrl_agents.torch_policy import Sampling, load_policy
from pedrl_env.records import GenerationRequest, Signal
from pedrl_tasks.lexicon import Lexicon


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_token_logprobs_and_their_gradients(temperature: float, frozen: bool, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(6, 11, bias=False).requires_grad_(not frozen)
    hidden = torch.randn(7, 6, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 11, (7,), generator=generator)
    weights = torch.randn(7, generator=generator)
    ours = token_logprobs(head, hidden, tokens, temperature, rows * 11)
    plain = (head(hidden) / temperature).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    assert torch.allclose(ours, plain, atol=1e-6)
    learns = [hidden] if frozen else [hidden, head.weight]
    mine = torch.autograd.grad((ours * weights).sum(), learns)
    theirs = torch.autograd.grad((plain * weights).sum(), learns)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_an_adapted_layer_computes_what_peft_computes(tiny_base: Path, bias: bool) -> None:
    policy = load_policy(tiny_base, Sampling(), "lora", lora=Lora(rank=3, alpha=5.0))
    layers = [m for m in policy.models["student"].modules() if isinstance(m, LoraLinear)]
    assert len(layers) == 14  # every linear layer but the head
    layer = layers[0]
    if bias:
        layer.get_base_layer().bias = nn.Parameter(torch.ones(32), requires_grad=False)
    a, b = (w for name, w in layer.named_parameters() if ".student." in name)
    nn.init.normal_(b)
    x = torch.randn(2, 5, 32, requires_grad=True)

    def gradients(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out.square().sum(), (x, a, b))

    ours, plain = layer(x), Linear.forward(layer, x)
    assert torch.allclose(ours, plain, atol=1e-5)
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # peft's own way


@pytest.mark.parametrize("storage", ["separate", "lora"])
def test_an_unchanged_policy_has_ratio_one_at_any_temperature(
    tiny_base: Path, storage: str
) -> None:
    policy = load_policy(tiny_base, Sampling(12, 0.5), storage)  # type: ignore[arg-type]
    task = Lexicon(coined=1).tasks("train")[0]
    (turns,) = policy.generate([GenerationRequest(task, "student", 6)], seed=1)
    signals = [
        Signal(
            "student",
            t.prompt_ids,
            t.action_ids,
            advantages=np.ones(len(t.action_ids)) * (-1) ** i,
            old_logprobs=np.array(t.logprobs),
        )
        for i, t in enumerate(turns)
    ]
    metrics = Learner(policy, LearnerConfig(), PolicyLoss(), Divergence()).step(signals)
    assert metrics["mismatch/student_max"] < 1e-4
    assert metrics["loss/student"] == pytest.approx(0.0, abs=1e-5)  # advantages add up to nothing
    assert metrics["grad_norm/student"] > 0
