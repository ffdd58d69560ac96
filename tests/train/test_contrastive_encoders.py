"""Towers of timm and transformers in contrastive runs: their pixels, tokens, pools and dropout."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lowland.core.errors import InputError
from lowland.data import load_pairs
from lowland.train import ContrastiveRecipe, read_history, read_weights, run_any
from lowland.train.contrastive.images import build_images
from lowland.train.contrastive.plan import make_plan
from lowland.train.contrastive.text_tower import build_texts
from lowland.train.contrastive.work import build

transformers = pytest.importorskip("transformers")

SMALL: dict[str, Any] = {
    "limit": 64,
    "image": "mlp",
    "image_options": {"width": 8},
    "dimension": 8,
    "batch_size": 16,
    "rank_examples": 32,
    "epochs": 1,
    "evaluations": 1,
    "rho": 0.1,
    "device": "cpu",
}
TEXT = "a the number zero one two three thin thick very in strokes , upright leaning"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT with random weights, dropout and a pooler, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", *TEXT.split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
    fast.save_pretrained(tmp_path / "bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def small(**changes: Any) -> ContrastiveRecipe:
    return ContrastiveRecipe.from_mapping({**SMALL, **changes})


def alone(folder: Path, text: str) -> torch.Tensor:
    """Last states of the published network on one text, without padding, in eval mode."""
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


@pytest.mark.parametrize("pool", ["first", "mean", "positions"])
def test_frozen_features_are_those_of_the_published_network(bert: Path, pool: str) -> None:
    recipe = small(text=f"hf:{bert}", freeze_text=True, pool=pool, max_tokens=24)
    data = make_plan(recipe).data
    (features,) = build_texts(recipe, data).texts["test"].tensors
    for place in (0, 7, 100):
        text = data.test.captions[place][0]
        states = alone(bert, text)
        expected = {"first": states[0], "mean": states.mean(0)}.get(pool)
        if expected is None:  # padding is averaged too, as in the released experiments
            model = transformers.BertModel.from_pretrained(bert).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
            made = tokenizer(text, padding="max_length", max_length=24, return_tensors="pt")
            with torch.no_grad():
                expected = model(**made).last_hidden_state[0].mean(0)
        assert torch.allclose(features[place], expected, atol=1e-5)
    if pool == "positions":
        assert not torch.allclose(features[place], states.mean(0), atol=1e-3)


def test_a_fine_tuned_network_trains_without_dropout_and_pooler(bert: Path, tmp_path: Path) -> None:
    recipe = small(text=f"hf:{bert}")
    _, module, texts = build(make_plan(recipe))
    rows = torch.arange(16)
    module.train()
    first, again = (module.text(*texts["train"].first(rows)) for _ in range(2))
    assert torch.equal(first, again)
    folder = run_any(recipe, tmp_path / "runs")
    weights = read_weights(folder)
    assert not [name for name in weights if "pooler" in name]
    name = "text.network.embeddings.word_embeddings.weight"
    started = transformers.BertModel.from_pretrained(bert).embeddings.word_embeddings.weight
    assert not torch.equal(weights[name], started)
    assert read_history(folder / "history.parquet")[-1]["diverged"] == 0


def test_other_weights_in_the_same_folder_are_another_run(bert: Path, tmp_path: Path) -> None:
    recipe = small(text=f"hf:{bert}", freeze_text=True)
    before = make_plan(recipe).run
    model = transformers.BertModel.from_pretrained(bert)
    nn.init.zeros_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(bert)
    assert make_plan(recipe).run != before
    assert recipe.files == (str(bert),)


def test_frozen_features_of_other_weights_are_not_taken_from_memory(bert: Path) -> None:
    recipe = small(text=f"hf:{bert}", freeze_text=True)
    data = make_plan(recipe).data
    before = build_texts(recipe, data).texts["test"].tensors[0]
    model = transformers.BertModel.from_pretrained(bert)
    nn.init.zeros_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(bert)
    assert not torch.equal(build_texts(recipe, data).texts["test"].tensors[0], before)


def test_an_image_network_with_its_own_pixels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": 8}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    data = load_pairs("digits-captions")
    recipe = small(image=f"hf:{tmp_path / 'vit'}", image_options={})
    tower = build_images(recipe, data)
    assert (tower.width, tower.channels) == (8, 3)
    images = data.test.images[:4]
    pixels = ((images.float() / 16).expand(-1, 3, -1, -1) - 0.5) / 0.25
    assert torch.allclose(tower.inputs(images, 16), pixels)
    model = transformers.ViTModel.from_pretrained(tmp_path / "vit").eval()
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0]
        assert torch.allclose(tower.module.eval()(pixels), expected, atol=1e-6)
    plain = build_images(recipe.changed(pixels="unit"), data)
    assert torch.equal(plain.inputs(images, 16), (images.float() / 16).expand(-1, 3, -1, -1))


class Pictured(nn.Module):
    """A network of timm's kind, without a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] != 8:
            raise ValueError("Input height (16) doesn't match model (8).")
        return self.drop(self.conv(x).flatten(1))


def test_a_network_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return Pictured()

    timm, of_data = types.ModuleType("timm"), types.ModuleType("timm.data")
    timm.__dict__.update(create_model=create_model, data=of_data)
    of_data.__dict__.update(
        resolve_model_data_config=lambda model: {"mean": (0.4,) * 3, "std": (0.2,) * 3}
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.data", of_data)
    data = load_pairs("digits-captions")
    tower = build_images(small(image="timm:net", image_options={"drop_path_rate": 0.1}), data)
    assert asked == [("net", {"pretrained": True, "num_classes": 0, "drop_path_rate": 0.1})]
    assert (tower.mean, tower.std, tower.width) == ((0.4,) * 3, (0.2,) * 3, 5)
    assert tower.module.get_submodule("drop").p == 0.0
    build_images(small(image="timm:net", image_options={"pretrained": False}), data)
    assert asked[-1][1]["pretrained"] is False


def test_images_of_another_size_name_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(name: str, *_: Any, **__: Any) -> Any:
        return Pictured(), {"mean": (0.0,), "std": (1.0,)}

    monkeypatch.setattr("lowland.train.contrastive.images.timm_network", network)
    data = load_pairs("digits-captions")
    large = data.train.images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    bigger = replace(data, shape=(1, 16, 16), train=replace(data.train, images=large))
    with pytest.raises(InputError, match=r"cannot read images of shape \(1, 16, 16\).*set size to"):
        build_images(small(image="timm:net"), bigger)


def test_encoders_that_cannot_be_had_are_one_line(tmp_path: Path) -> None:
    data = load_pairs("digits-captions", limit=64)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="transformers cannot load it"):
        build_texts(small(text=f"hf:{tmp_path / 'empty'}"), data)
    with pytest.raises(InputError, match="transformers cannot load it"):
        build_images(small(image=f"hf:{tmp_path / 'empty'}", image_options={}), data)
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "wordless")
    with pytest.raises(InputError, match="has no tokenizer that"):
        build_texts(small(text=f"hf:{tmp_path / 'wordless'}"), data)


def save_causal(folder: Path, bert: Path, *, start: bool, side: str = "right") -> Path:
    """A GPT-2 with random weights, whose first token sees no other, and no token for padding.

    Args:
        folder: where.
        bert: what has the words.
        start: whether every text begins with the same token, as CLIP's do, and not GPT-2's.
        side: on which its tokenizer would pad.
    """
    fast = transformers.AutoTokenizer.from_pretrained(bert)
    words = fast.backend_tokenizer
    if not start:
        from tokenizers import Tokenizer, pre_tokenizers

        words = Tokenizer(words.model)
        words.pre_tokenizer = pre_tokenizers.Whitespace()
    again = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[PAD]", padding_side=side
    )
    again.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(fast), n_embd=8, n_layer=2, n_head=2, n_positions=16,
        bos_token_id=2, eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def causal(tmp_path: Path, bert: Path) -> Path:
    return save_causal(tmp_path / "gpt", bert, start=True)


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_an_encoder_that_does_not_see_the_text_is_refused(
    start: bool, frozen: bool, bert: Path, tmp_path: Path
) -> None:
    """Loss and errors would be those of guessing, or of the first word, whatever is trained."""
    folder = save_causal(tmp_path / "gpt", bert, start=start)
    recipe = small(text=f"hf:{folder}", freeze_text=frozen, max_tokens=16)
    with pytest.raises(InputError, match=r"with pool=first gives texts the same.*set pool=mean"):
        recipe.check()
    recipe.changed(pool="mean").check()


def test_texts_that_are_too_long_for_an_encoder_are_one_line(causal: Path) -> None:
    recipe = small(text=f"hf:{causal}", pool="positions", max_tokens=17)
    with pytest.raises(InputError, match=r"cannot read texts of up to 17 tokens.*lower max_tokens"):
        recipe.check()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_text_is_read_as_without_padding(side: str, bert: Path, tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "gpt", bert, start=True, side=side)
    recipe = small(text=f"hf:{folder}", freeze_text=True, pool="mean", max_tokens=16)
    data = make_plan(recipe).data
    (features,) = build_texts(recipe, data).texts["test"].tensors
    model = transformers.GPT2Model.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for place in (0, 7, 100):
        made = tokenizer(data.test.captions[place][0], return_tensors="pt")
        with torch.no_grad():
            alone = model(**made).last_hidden_state[0].mean(0)
        assert torch.allclose(features[place], alone, atol=1e-5)
