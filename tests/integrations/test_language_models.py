"""Logits-SAM in preference optimization of causal language models from transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lowland.core.errors import InputError
from lowland.optim import LogitsSAM

transformers = pytest.importorskip("transformers")
WORDS = 50


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    settings = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=32, n_embd=16, n_layer=2, n_head=2, **ends
    )
    model: nn.Module = transformers.GPT2LMHeadModel(settings).eval()
    return model


def llama() -> nn.Module:
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model: nn.Module = transformers.LlamaForCausalLM(settings).eval()
    return model


def answers(seed: int, n: int = 4) -> Tensor:
    return torch.randint(1, WORDS, (n, 12), generator=torch.Generator().manual_seed(seed))


def log_probability(model: Any, tokens: Tensor) -> Tensor:
    """Σ_t log p(token_t | tokens before), shape (n,)."""
    z = model(tokens).logits[:, :-1].log_softmax(-1)
    return z.gather(2, tokens[:, 1:, None]).squeeze(2).sum(1)  # type: ignore[no-any-return]


def train(model: nn.Module, steps: int = 3, **own: Any) -> tuple[list[Tensor], Any, int]:
    """DPO against the untrained network; the forwards of the transformer are counted."""
    reference = copy.deepcopy(model)
    opt = LogitsSAM(model.parameters(), torch.optim.AdamW, model=model, lr=1e-3, **own)
    forwards = []
    body: Any = getattr(model, "transformer", None) or model.model
    hook = body.register_forward_hook(lambda *_: forwards.append(1))

    def dpo(chosen: Tensor, rejected: Tensor, at_reference: Tensor) -> Tensor:
        gap = log_probability(model, chosen) - log_probability(model, rejected)
        return -logsigmoid(0.5 * (gap - at_reference))

    for i in range(steps):
        chosen, rejected = answers(i), answers(100 + i)
        with torch.no_grad():
            gap = log_probability(reference, chosen) - log_probability(reference, rejected)
        opt.step(loss_fn=dpo, batch=(chosen, rejected, gap))
    hook.remove()
    assert opt.last is not None
    return [p.detach().clone() for p in model.parameters()], opt.last.metrics(), len(forwards)


def test_an_untied_head_is_sam_on_the_head_in_half_the_forwards() -> None:
    one, last, few = train(llama(), rho=1e-2, one_forward=True)
    two, other, many = train(llama(), rho=1e-2, one_forward=False)
    assert (few, many) == (6, 12), "two answers a step"
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert last == pytest.approx(other, rel=1e-4)
    assert last["perturbation_norm"] == pytest.approx(1e-2)


def test_a_tied_head_moves_no_embedding() -> None:
    """‖g_W‖ of the head's use alone: computed from the saved inputs and logits of a plain pass."""
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight  # type: ignore[union-attr]
    twin = copy.deepcopy(model)
    _, last, forwards = train(model, steps=1, rho=1e-2)
    assert forwards == 2

    kept: list[tuple[Tensor, Tensor]] = []
    head: Any = twin.lm_head
    head.register_forward_hook(lambda _, args, out: kept.append((args[0], out)))
    chosen, rejected = answers(0), answers(100)
    with torch.no_grad():
        gap = log_probability(twin, chosen) - log_probability(twin, rejected)
    kept.clear()
    loss = -logsigmoid(
        0.5 * (log_probability(twin, chosen) - log_probability(twin, rejected) - gap)
    ).mean()
    made = torch.autograd.grad(loss, [z for _, z in kept])
    g = sum(
        dz.flatten(0, 1).T @ h.detach().flatten(0, 1) for dz, (h, _) in zip(made, kept, strict=True)
    )
    assert last["grad_norm"] == pytest.approx(float(g.norm()), rel=1e-5)  # type: ignore[union-attr]


def test_a_loss_inside_the_network_is_refused_before_anything_moves() -> None:
    model = llama()
    before = [p.detach().clone() for p in model.parameters()]
    opt = LogitsSAM(model.parameters(), torch.optim.AdamW, model=model, lr=1e-3)
    with pytest.raises(InputError, match="compute that in loss_fn"):
        opt.step(loss_fn=lambda t: model(t, labels=t).loss, batch=(answers(0),))
    assert all(map(torch.equal, before, model.parameters()))
