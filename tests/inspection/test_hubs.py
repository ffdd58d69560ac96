"""timm and transformers: their own preprocessing, without a network."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_networks import array_data, foreign, inputs, inspected, text_data

from lowland.core.errors import InputError
from lowland.inspection import How, load_subject

TEXTS = ["a b c", "b", "c a b a", "a a", "b c", "c", "a c b"]
HAS_TIMM = importlib.util.find_spec("timm") is not None


def stub(monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[Any]:
    """A module in timm's place, and what it is asked."""
    asked: list[Any] = []

    def create_model(name: str, pretrained: bool) -> Any:
        asked.append((name, pretrained))
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)\nmore")
        return foreign()

    given = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3, **config}
    timm, data = types.ModuleType("timm"), types.ModuleType("timm.data")
    timm.__dict__.update(create_model=create_model, __version__="1.0", data=data)
    data.__dict__.update(resolve_model_data_config=lambda model: given)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return asked


class TestTimm:
    def test_its_preprocessing_is_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Half and a quarter, as recorded, and not ImageNet's numbers."""
        asked = stub(monkeypatch, interpolation="bicubic", crop_pct=0.8)
        subject = load_subject("timm:some_vit.sam_in1k")
        assert asked == [("some_vit.sam_in1k", True)]
        assert subject.preprocessing is not None
        made = subject.preprocessing
        assert (made.mean, made.std, made.size, made.resize) == (
            (0.5,) * 3,
            (0.25,) * 3,
            (8, 8),
            10,
        )
        stub(monkeypatch, crop_pct=1.0)
        record = inspected("timm:net", data=array_data(tmp_path), what="loss")
        expected = torch.nn.functional.cross_entropy(
            foreign().double()(inputs()), torch.arange(21) % 3
        )
        loss = record["subjects"][0]["model"]["loss"]["value"]
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert record["subjects"][0]["facts"]["timm"]["mean"] == [0.5] * 3

    def test_own_weights_in_its_network(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked = stub(monkeypatch)
        torch.save(foreign(7).state_dict(), tmp_path / "w.pt")
        subject = load_subject(str(tmp_path / "w.pt"), How(model="timm:net"))
        assert asked == [("timm:net".partition(":")[2], False)]
        assert torch.equal(subject.module.entry.weight, foreign(7).entry.weight)

    def test_what_it_refuses_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stub(monkeypatch)
        with pytest.raises(InputError, match=r"timm cannot make it: Unknown model \(unknown\)$"):
            load_subject("timm:unknown")

    def test_it_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(InputError, match="needs timm, which cannot be imported"):
            load_subject("timm:resnet18")

    @pytest.mark.skipif(not HAS_TIMM, reason="timm is not installed (it needs torchvision)")
    def test_the_real_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        real = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: real(name))
        subject = load_subject("timm:vit_tiny_patch16_224")
        assert subject.blocks == "blocks.[0-9]*"
        assert subject.tokens == "class"


def vit_folder(folder: Path, **processor: Any) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=3,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    settings = {
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
        "size": {"height": 8, "width": 8},
        "resample": 2,
        **processor,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def save_tokenizer(folder: Path, *, pad: str | None = "[PAD]", **options: Any) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "b", "c"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token="[UNK]", model_max_length=16,
        **options,
    )  # fmt: skip
    fast.save_pretrained(folder)


def clip_folder(folder: Path) -> Path:
    """Two towers, with images of 8x8 and texts of the words a, b, c."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "intermediate_size": 16, "projection_dim": 5}
    text = {"vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 2, "eos_token_id": 4}
    vision = {"hidden_size": 12, "num_hidden_layers": 3, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(
        text_config={**sizes, **text, "max_position_embeddings": 16},
        vision_config={**sizes, **vision}, projection_dim=5,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 8},
                "do_center_crop": True, "crop_size": {"height": 8, "width": 8}}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    save_tokenizer(folder, model_input_names=["input_ids", "attention_mask"])
    return folder


def bert_folder(folder: Path, *, head: bool) -> Path:
    import transformers

    save_tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=5, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=2,
    )  # fmt: skip
    kind = transformers.BertForSequenceClassification if head else transformers.BertModel
    kind(config).save_pretrained(folder)
    return folder


def assert_spectra(found: Any, features: list[Any]) -> None:
    """The spectra of the blocks are those of these features, centred per unit."""
    assert len(found["blocks"]) == len(features)
    for row, block in zip(found["blocks"].values(), features, strict=True):
        energies = torch.linalg.svdvals(block - block.mean(0)) ** 2
        np.testing.assert_allclose(row["rank"]["spectrum"], energies, rtol=1e-3, atol=1e-9)


class TestTransformers:
    def test_an_image_classifier(self, tmp_path: Path) -> None:
        from transformers import ViTForImageClassification

        folder = vit_folder(tmp_path / "m")
        record = inspected(f"hf:{folder}", data=array_data(tmp_path), what="rank,loss")
        subject = record["subjects"][0]
        assert subject["capturing"] == {"tokens": "class"}
        model = ViTForImageClassification.from_pretrained(folder).double().eval()
        with torch.no_grad():
            out = model(inputs(), output_hidden_states=True)
        loss = torch.nn.functional.cross_entropy(out.logits, torch.arange(21) % 3)
        assert subject["model"]["loss"]["value"] == pytest.approx(loss.item(), rel=1e-5)
        tokens = out.hidden_states[2][:, 0]  # after the second block
        energies = torch.linalg.svdvals(tokens - tokens.mean(0)) ** 2
        found = subject["blocks"][list(subject["blocks"])[1]]["rank"]["spectrum"]
        np.testing.assert_allclose(found, energies, rtol=1e-3, atol=1e-9)

    def test_the_image_tower_of_two(self, tmp_path: Path) -> None:
        from transformers import CLIPModel

        folder = clip_folder(tmp_path / "m")
        found = inspected(f"hf:{folder}", data=array_data(tmp_path), what="rank")["subjects"][0]
        model = CLIPModel.from_pretrained(folder).double().eval()
        with torch.no_grad():
            states = model.vision_model(inputs(), output_hidden_states=True).hidden_states
        assert found["kind"].endswith(", image tower")
        own = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
        assert found["parameters"] == sum(p.numel() for p in own)
        assert_spectra(found, [state[:, 0] for state in states[1:]])  # the class token

    def test_the_text_tower_of_two(self, tmp_path: Path) -> None:
        from transformers import AutoTokenizer, CLIPModel

        folder, data = clip_folder(tmp_path / "m"), text_data(tmp_path, TEXTS)
        how = How(tower="text")
        found = inspected(f"hf:{folder}", data=data, what="rank", how=how)["subjects"][0]
        model = CLIPModel.from_pretrained(folder).double().eval()
        tokenizer, states = AutoTokenizer.from_pretrained(folder), []
        for text in TEXTS:  # each alone: no padding
            with torch.no_grad():
                out = model.text_model(**tokenizer(text, return_tensors="pt"),
                                       output_hidden_states=True)  # fmt: skip
            states.append([state[0].mean(0) for state in out.hidden_states[1:]])
        assert_spectra(found, [torch.stack(rows) for rows in zip(*states, strict=True)])

    def test_a_tower_without_its_image_processor(self, tmp_path: Path) -> None:
        """It is the image tower still, and says that nobody knows how its images are made."""
        folder, data = clip_folder(tmp_path / "m"), array_data(tmp_path)
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(InputError, match="nothing says how"):
            inspected(f"hf:{folder}", data=data)
        how = How(mean=(0.5,), std=(0.25,), size=(8, 8))
        assert len(inspected(f"hf:{folder}", data=data, how=how)["subjects"][0]["blocks"]) == 3

    def test_towers_that_are_not_there(self, tmp_path: Path) -> None:
        clip, vit = clip_folder(tmp_path / "clip"), vit_folder(tmp_path / "vit")
        for name, tower, said in (
            (f"hf:{clip}", "texts", "unknown tower 'texts': did you mean 'text'"),
            (f"hf:{vit}", "image", "is none of them"),
            (str(tmp_path), "image", "--tower is for hf:NAME"),
        ):
            with pytest.raises(InputError, match=said):
                load_subject(name, How(tower=tower))

    def test_a_tokenizer_without_a_mask(self, tmp_path: Path) -> None:
        folder = clip_folder(tmp_path)
        save_tokenizer(folder, model_input_names=["input_ids"])
        with pytest.raises(InputError, match="no attention mask"):
            load_subject(f"hf:{folder}", How(tower="text"))

    def test_a_tokenizer_without_words(self, tmp_path: Path) -> None:
        """transformers makes an empty one where the folder has none: all words would be one."""
        folder = bert_folder(tmp_path / "m", head=False)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(InputError, match="no tokenizer that knows any word: save it beside"):
            load_subject(f"hf:{folder}")

    def test_a_tokenizer_that_cannot_pad(self, tmp_path: Path) -> None:
        """The end of a text pads, as GPT-2's: the attention mask hides it."""
        folder, data = bert_folder(tmp_path / "m", head=False), text_data(tmp_path, TEXTS)
        spectra = []
        for pad, end in (("[PAD]", None), (None, "[PAD]")):
            save_tokenizer(folder, pad=pad, eos_token=end)
            found = inspected(f"hf:{folder}", data=data, what="rank", batch_size=7)
            spectra.append([b["rank"]["spectrum"] for b in found["subjects"][0]["blocks"].values()])
        np.testing.assert_array_equal(*spectra)
        save_tokenizer(folder, pad=None)
        with pytest.raises(InputError, match="neither a token for padding nor an end of text"):
            load_subject(f"hf:{folder}")

    def test_texts_and_padding(self, tmp_path: Path) -> None:
        """Mean tokens without padding: a batch of all texts gives what each gives alone."""
        folder = bert_folder(tmp_path / "m", head=False)
        data = text_data(tmp_path, TEXTS)
        alone = inspected(f"hf:{folder}", data=data, what="rank", batch_size=1)
        together = inspected(f"hf:{folder}", data=data, what="rank", batch_size=7)
        assert together["subjects"][0]["capturing"] == {"tokens": "mean"}
        assert together["data"]["kind"] == "texts"
        for block, row in alone["subjects"][0]["blocks"].items():
            other = together["subjects"][0]["blocks"][block]["rank"]
            np.testing.assert_allclose(
                row["rank"]["spectrum"], other["spectrum"], rtol=1e-3, atol=1e-9
            )
        padded = inspected(f"hf:{folder}", data=data, what="rank", tokens="mean-with-padding",
                           batch_size=7)  # fmt: skip
        block = next(iter(alone["subjects"][0]["blocks"]))
        spectrum = padded["subjects"][0]["blocks"][block]["rank"]["spectrum"]
        one = alone["subjects"][0]["blocks"][block]["rank"]["spectrum"]
        assert not np.allclose(spectrum, one, rtol=1e-2), "padding counts there"

    def test_a_text_classifier_has_a_loss(self, tmp_path: Path) -> None:
        folder = bert_folder(tmp_path / "m", head=True)
        data = text_data(tmp_path, TEXTS, [0, 1, 0, 1, 0, 1, 0])
        record = inspected(f"hf:{folder}", data=data, what="loss")
        assert record["subjects"][0]["model"]["loss"]["n"] == 7

    def test_weights_that_the_checkpoint_lacks_are_said(self, tmp_path: Path) -> None:
        from transformers import BertConfig, BertForMaskedLM

        folder = bert_folder(tmp_path / "m", head=False)
        config = BertConfig.from_pretrained(folder)
        BertForMaskedLM(config).save_pretrained(folder)  # which has no pooler
        notes = load_subject(f"hf:{folder}").notes
        assert notes[0].startswith("2 tensors are not in the checkpoint and were drawn at random")
        assert "pooler.dense.bias" in notes[0]

    def test_a_network_without_a_head_has_no_loss(self, tmp_path: Path) -> None:
        folder = bert_folder(tmp_path / "m", head=False)
        data = text_data(tmp_path, TEXTS, [0] * 7)
        with pytest.raises(InputError, match="loss needs one output per class"):
            inspected(f"hf:{folder}", data=data, what="loss")

    def test_the_wrong_kind_of_data(self, tmp_path: Path) -> None:
        texts, images = bert_folder(tmp_path / "t", head=False), vit_folder(tmp_path / "i")
        with pytest.raises(InputError, match="holds images, the model reads texts"):
            inspected(f"hf:{texts}", data=array_data(tmp_path))
        with pytest.raises(InputError, match="no column 'image' or 'img'"):
            inspected(f"hf:{images}", data=text_data(tmp_path, TEXTS))
        with pytest.raises(InputError, match="--mean is for images"):
            load_subject(f"hf:{texts}", How(mean=(0.5,)))
        with pytest.raises(InputError, match="one network reads images, the other texts"):
            inspected(f"hf:{texts}", f"hf:{images}", data=text_data(tmp_path, TEXTS))

    @pytest.mark.parametrize(
        ("processor", "expected"),
        [
            ({}, {"size": (8, 8), "squash": True, "resize": None, "unit": 1.0}),
            (
                {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8},
                 "do_center_crop": True, "resample": 3},
                {"size": (8, 8), "squash": False, "resize": 10, "interpolation": "bicubic"},
            ),
            ({"size": 10}, {"size": (10, 10), "squash": False, "resize": 10}),
            ({"do_resize": False}, {"size": None}),
            ({"do_normalize": False}, {"mean": (0.0,), "std": (1.0,)}),
            ({"do_rescale": False}, {"unit": 255.0}),
            ({"rescale_factor": 2 / 255}, {"unit": 2.0}),
        ],
    )  # fmt: skip
    def test_what_processors_say(
        self, processor: dict[str, Any], expected: dict[str, Any], tmp_path: Path
    ) -> None:
        found = load_subject(f"hf:{vit_folder(tmp_path, **processor)}").preprocessing
        assert {key: getattr(found, key) for key in expected} == expected

    def test_nothing_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match="no such folder"):
            load_subject(f"hf:{tmp_path}/none")
        with pytest.raises(InputError, match="lacks its name"):
            load_subject("hf:")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(InputError, match="transformers cannot load it"):
            load_subject(f"hf:{tmp_path}")
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(InputError, match="needs transformers"):
            load_subject(f"hf:{tmp_path}")
