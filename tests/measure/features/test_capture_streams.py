"""The residual stream of transformer blocks, against the tensors that the blocks computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformer_blocks import (
    WIDTH,
    FunctionalNorm,
    InPlaceBlock,
    MixerBlock,
    OnlyAttention,
    Parallel,
    PostNormBlock,
    PostNormMixerBlock,
    SandwichBlock,
    ScaledBlock,
    TimmBlock,
    Tower,
    images,
)
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)

from lowland.core.errors import InputError
from lowland.measure.features.capture import capture, residual_streams, stream
from lowland.measure.features.residual import STREAMS
from lowland.models import create

NOTED = {
    "before-attention": "x",
    "after-attention": "between",
    "after-mlp": "y",
    "attention-branch": "a",
    "mlp-branch": "m",
}
PRE_NORM = [TimmBlock, InPlaceBlock, ScaledBlock, SandwichBlock, MixerBlock]
BLOCKS = [*PRE_NORM, PostNormBlock, PostNormMixerBlock]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("block", BLOCKS)
def test_streams_are_what_the_block_computed(block, dtype) -> None:
    """On ragged batches; the last block's tensors of the last batch are what is compared."""
    model = Tower(block, dtype).train()
    found = capture(model, images(7, dtype).split(3), "blocks.*", where=list(NOTED))
    assert list(found)[:5] == [f"blocks.0:{name}" for name in NOTED]
    for number in (0, 1):
        for name, noted in NOTED.items():
            rows = found[f"blocks.{number}:{name}"]
            assert rows.shape == (7, 5 * WIDTH)
            assert rows.dtype == dtype
            expected = model.blocks[number].seen[noted].flatten(1)
            assert torch.equal(rows[6:], expected), (number, name)
    assert model.training


@pytest.mark.parametrize("block", BLOCKS)
def test_one_example_in_one_batch(block) -> None:
    model = Tower(block)
    whole = capture(model, [images()], "blocks.*", where=STREAMS, tokens="class")
    one = capture(model, [images()[:1]], "blocks.*", where=STREAMS, tokens="class")
    for name, rows in whole.items():
        torch.testing.assert_close(one[name], rows[:1])


@pytest.mark.parametrize("block", BLOCKS)
def test_around_the_activation(block) -> None:
    model = Tower(block)
    where = ["before-activation", "after-activation"]
    found = capture(model, [images()], "blocks.1", where=where)
    before, after = found["blocks.1:before-activation"], found["blocks.1:after-activation"]
    torch.testing.assert_close(after, nn.functional.gelu(before))
    assert before.shape == (7, 5 * 3 * WIDTH)


def test_one_stream_is_named_by_its_block_and_can_be_streamed() -> None:
    model, where = Tower(TimmBlock), "after-attention"
    found = capture(model, images().split(2), "blocks.1", where=where, tokens="mean")
    assert list(found) == ["blocks.1"]
    chunks = stream(model, images().split(2), "blocks.1", where=where, tokens="mean")
    assert torch.equal(torch.cat(list(chunks())), found["blocks.1"])


def test_inputs_are_the_outputs_of_the_block_before() -> None:
    model = Tower(TimmBlock)
    found = capture(model, [images()], "blocks.1", where=["input", "output", "after-mlp"])
    before = capture(model, [images()], "blocks.0")["blocks.0"]
    assert torch.equal(found["blocks.1:input"], before)
    assert torch.equal(found["blocks.1:output"], found["blocks.1:after-mlp"])


def test_where_streams_are_caught_can_be_read() -> None:
    model = Tower(TimmBlock)
    found = residual_streams(model, [images()], "blocks.*")
    assert found["blocks.1"] == {
        "before-attention": "input of 'blocks.1'",
        "after-attention": "input of 'blocks.1.norm2'",
        "after-mlp": "output of 'blocks.1'",
        "attention-branch": "output of 'blocks.1.ls1'",
        "mlp-branch": "output of 'blocks.1.ls2'",
        "before-activation": "input of 'blocks.1.mlp.act'",
        "after-activation": "output of 'blocks.1.mlp.act'",
    }
    scaled = residual_streams(Tower(ScaledBlock), [images()], "blocks.*")["blocks.0"]
    assert scaled["mlp-branch"] == "output of 'blocks.0' minus input of 'blocks.0.norm2'"
    shared = residual_streams(Tower(InPlaceBlock), [images()], "blocks.*")["blocks.0"]
    assert shared["attention-branch"] == "output of 'blocks.0.scale' in run 1 of 2"
    assert shared["mlp-branch"] == "output of 'blocks.0.scale' in run 2 of 2"
    with pytest.raises(InputError, match="batches: no examples"):
        residual_streams(model, [], "blocks.*")


def test_compiled_models() -> None:
    model = Tower(TimmBlock)
    expected = capture(model, [images()], "blocks.*", where=STREAMS)
    for compiled in (torch.compile(model, backend="eager"), Tower(TimmBlock)):
        if compiled.__class__ is Tower:
            compiled.blocks[0] = torch.compile(compiled.blocks[0], backend="eager")
        with torch.no_grad():
            compiled.eval()(images())
        found = capture(compiled, [images()], "blocks.*", where=STREAMS)
        assert list(found) == list(expected)
        for name, rows in found.items():
            torch.testing.assert_close(rows, expected[name])


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", nn.GELU()])
def test_the_encoder_of_torch(norm_first, activation) -> None:
    """In eval mode without hooks it runs as one fused call, of which nothing could be caught."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 16, norm_first=norm_first, batch_first=True, activation=activation
    )
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = capture(model, [images()], "layers.*", where=STREAMS, tokens="mean")
    last = model.layers[1].eval()
    x, between, y = (
        capture(model, [images()], "layers.1", where=w)["layers.1"].reshape(7, 4, WIDTH)
        for w in STREAMS[:3]
    )
    with torch.no_grad():
        a = last.self_attn(*[last.norm1(x) if norm_first else x] * 3)[0]
        m = last.linear2(
            nn.functional.gelu(last.linear1(last.norm2(between) if norm_first else between))
        )
    expected = {
        "after-attention": x + a if norm_first else last.norm1(x + a),
        "after-mlp": between + m if norm_first else last.norm2(between + m),
        "attention-branch": a,
        "mlp-branch": m,
    }
    for name, value in expected.items():
        torch.testing.assert_close(
            found[f"layers.1:{name}"], value.mean(1).detach(), atol=1e-5, rtol=1e-5
        )
    hidden = found["layers.1:before-activation"]
    assert hidden.shape == found["layers.1:after-activation"].shape == (7, 16)
    torch.testing.assert_close(y, capture(model, [images()], "layers.1")["layers.1"].reshape_as(y))


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def text(n: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(n, 6, dtype=torch.long)
    mask[0, 4:] = 0
    return {
        "input_ids": torch.randint(1, 40, (n, 6), generator=generator),
        "attention_mask": mask,
    }


MODELS = {
    "vit": (lambda: ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)), "layers.*"),
    "bert": (lambda: BertModel(BertConfig(**SMALL, vocab_size=40)), "encoder.layer.*"),
    "llama": (lambda: LlamaModel(LlamaConfig(**SMALL, vocab_size=40)), "layers.*"),
    "gpt2": (
        lambda: GPT2Model(
            GPT2Config(
                n_embd=16, n_layer=2, n_head=2, vocab_size=40, bos_token_id=1, eos_token_id=2
            )
        ),
        "h.*",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers(name) -> None:
    """Their own hidden states are the streams between blocks; pre-norm sums add up exactly."""
    torch.manual_seed(0)
    make, glob = MODELS[name]
    model = make()
    batch = {"pixel_values": torch.randn(5, 3, 16, 16)} if name == "vit" else text()
    model.eval()
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    found = capture(model, [batch], glob, where=STREAMS)
    blocks = list(dict.fromkeys(key.split(":")[0] for key in found))
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        x, between, y, a, m = (found[f"{block}:{s}"] for s in STREAMS[:5])
        assert torch.equal(x, states[number].flatten(1))
        if number == 0:
            assert torch.equal(y, states[1].flatten(1))
        norm = nn.functional.layer_norm if name == "bert" else None
        if norm is None:
            assert torch.equal(x + a, between)
            assert torch.equal(between + m, y)
        else:
            shape = states[0].shape
            for total, result in ((x + a, between), (between + m, y)):
                expected = norm(total.reshape(shape), (16,), eps=1e-12).flatten(1)
                torch.testing.assert_close(result, expected)
        before, after = (found[f"{block}:{s}"] for s in STREAMS[5:])
        assert before.shape == after.shape
        assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Parallel, "block 'blocks.0' has no sum between attention and MLP"),
        (FunctionalNorm, "block 'blocks.0' has no sum between attention and MLP"),
        (OnlyAttention, "block 'blocks.0' has no sum between attention and MLP"),
    ],
)
def test_blocks_without_a_stream_that_can_be_told(block, message) -> None:
    model = Tower(block)
    with pytest.raises(InputError, match=message) as caught:
        capture(model, [images()], "blocks.*", where="after-attention")
    assert "name a module and where='input' or 'output'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_other_networks_have_no_attention() -> None:
    model = create("preact-resnet-small", shape=(3, 8, 8), classes=3)
    with pytest.raises(InputError, match=r"block 'block1' has no attention among what it runs"):
        capture(model, [torch.randn(3, 3, 8, 8)], where="mlp-branch")


def test_unknown_places() -> None:
    with pytest.raises(InputError, match="unknown place in a block 'after-attn': did you mean"):
        capture(Tower(TimmBlock), [images()], "blocks.*", where="after-attn")
    with pytest.raises(InputError, match="where: a stream is of one place; give a single name"):
        stream(Tower(TimmBlock), [images()], "blocks.0", where=["input", "output"])


class Gated(nn.Module):
    """An MLP whose activation is no module, between layers of other widths."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 12)
        self.down = nn.Linear(6, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(nn.functional.glu(self.up(self.norm2(x))))


def test_an_activation_that_cannot_be_told() -> None:
    model = Tower(Gated)
    assert "before-activation" not in residual_streams(model, [images()], "blocks.*")["blocks.0"]
    with pytest.raises(InputError, match=r"block .blocks\.0. has no activation that can be told"):
        capture(model, [images()], "blocks.*", where=["after-mlp", "after-activation"])
