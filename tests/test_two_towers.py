"""ALIGN, AltCLIP, Chinese-CLIP, FLAVA and MetaCLIP 2 against transformers called by hand."""

from __future__ import annotations

import fnmatch
import importlib
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, UsageError
from PIL import Image
from tiny import align, altclip, chinese_clip, flava, metaclip_2

pytestmark = pytest.mark.thorough


@dataclass(frozen=True)
class Family:
    """What is called by hand for one family, and how long its texts may be."""

    made_by: ModuleType
    model: str
    tokenizer: str
    image_processor: str
    length: int
    end: str
    image_tokens: int
    model_type: str
    whole_sequence: bool = False


FAMILIES = {
    "align": Family(
        align, "AlignModel", "BertTokenizer", "EfficientNetImageProcessorPil", 64, "[SEP]", 4,
        "align",
    ),
    "chinese-clip": Family(
        chinese_clip, "ChineseCLIPModel", "BertTokenizer", "ChineseCLIPImageProcessorPil", 52,
        "[SEP]", 17, "chinese_clip",
    ),
    "altclip": Family(
        altclip, "AltCLIPModel", "XLMRobertaTokenizer", "CLIPImageProcessorPil", 40, "</s>", 17,
        "altclip",
    ),
    "metaclip-2": Family(
        metaclip_2, "MetaClip2Model", "XLMRobertaTokenizer", "CLIPImageProcessorPil", 40, "</s>",
        17, "metaclip_2",
    ),
    "flava": Family(
        flava, "FlavaModel", "BertTokenizer", "FlavaImageProcessorPil", 77, "[SEP]", 17, "flava",
        whole_sequence=True,
    ),
}  # fmt: skip

Load = Callable[..., Any]

TEXTS = (
    "a cat",
    "Represent the given image: Two DOGS, 一张猫的照片?",
    "x",
    "the man holds a large umbrella, while it rains in the street. " * 12,
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of one family after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the family's tiny model."""
    place = tmp_path_factory.mktemp(family)
    assert FAMILIES[family].made_by.make(place) == f"{family}:{place}"
    return place


@pytest.fixture(scope="module")
def load(family: str, folder: Path) -> Load:
    """Return `(**options) -> encoder` over the family's tiny model."""
    return lambda **options: mh.load_encoder(f"{family}:{folder}", device="cpu", **options)


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def picture(turn: int = 0, size: tuple[int, int] = (100, 80)) -> Image.Image:
    """Draw a picture that differs with `turn`."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).crop((0, 0, *size))


PICTURES = (
    picture(),
    picture(40, (30, 90)),
    picture(70, (200, 31)).convert("L"),
    Image.effect_noise((64, 64), 90).convert("RGBA"),
)


def mixed_items() -> list[mh.Item]:
    """Text alone, image alone and both, of many lengths and shapes."""
    return [
        *(mh.Item(text=text) for text in TEXTS),
        *(mh.Item(image=one) for one in PICTURES),
        mh.Item(text="one more", image=picture(90)),
    ]


# -- transformers by hand --------------------------------------------------------------------------


class Hand:
    """A family's classes of transformers, called by hand, one item at a time."""

    def __init__(self, family: Family, folder: Path) -> None:
        import transformers

        self.family = family
        self.model: Any = getattr(transformers, family.model).from_pretrained(folder).eval()
        self.tokenizer: Any = getattr(transformers, family.tokenizer).from_pretrained(folder)
        kind = getattr(transformers, family.image_processor)
        self.image_processor: Any = kind.from_pretrained(folder)

    def words(self, text: str) -> Mapping[str, Any]:
        """Return all that the tokenizer gives of a text, cut to the family's length."""
        encoded: Mapping[str, Any] = self.tokenizer(
            text, truncation=True, max_length=self.family.length, return_tensors="pt"
        )
        return encoded

    def pixels(self, image: Image.Image) -> Any:
        """Return what the image processor gives of an image made plain RGB."""
        return self.image_processor(images=image.convert("RGB"), return_tensors="pt")[
            "pixel_values"
        ]

    @torch.no_grad()
    def text(self, text: str) -> Any:
        """Return the vector of a text."""
        return self._first(self.model.get_text_features(**self.words(text)).pooler_output)

    @torch.no_grad()
    def image(self, image: Image.Image) -> Any:
        """Return the vector of an image."""
        features = self.model.get_image_features(pixel_values=self.pixels(image))
        return self._first(features.pooler_output)

    def _first(self, vectors: Any) -> Any:
        assert vectors.ndim == 2 + self.family.whole_sequence
        return vectors[:, 0] if self.family.whole_sequence else vectors


@pytest.fixture(scope="module")
def hand(family: str, folder: Path) -> Hand:
    """Return the family's classes called by hand."""
    return Hand(FAMILIES[family], folder)


def test_vectors_are_the_features_of_the_library(load: Load, hand: Hand) -> None:
    encoder = load()
    found = encoder.encode([mh.Item(text=text) for text in TEXTS])
    assert_close(found, torch.cat([hand.text(text) for text in TEXTS]))
    found = encoder.encode([mh.Item(image=one) for one in PICTURES])
    assert_close(found, torch.cat([hand.image(one) for one in PICTURES]))
    both = encoder.encode([mh.Item(text=TEXTS[1], image=PICTURES[1])])
    assert_close(both, hand.text(TEXTS[1]) + hand.image(PICTURES[1]))


def test_cosines_are_those_of_the_model_itself(family: str, load: Load, hand: Hand) -> None:
    encoder = load(normalize=True)
    texts = encoder.encode([mh.Item(text=text) for text in TEXTS])
    images = encoder.encode([mh.Item(image=one) for one in PICTURES])
    logits = np.array(
        [[own_logit(family, hand, text, image) for text in TEXTS] for image in PICTURES]
    )
    assert_close(images @ texts.T * own_scale(family, hand.model), logits, 2e-5)
    assert np.ptp(logits) > 0.1


def own_scale(family: str, model: Any) -> float:
    """Return what the model multiplies a cosine by."""
    if family == "align":
        return 1 / model.temperature.item()
    return float(model.logit_scale.exp().item())


@torch.no_grad()
def own_logit(family: str, hand: Hand, text: str, image: Image.Image) -> float:
    """Return the model's own similarity of one text and one image."""
    if family != "flava":
        output = hand.model(**hand.words(text), pixel_values=hand.pixels(image))
        return float(output.logits_per_image.item())
    from transformers import FlavaForPreTraining

    whole = FlavaForPreTraining.from_pretrained(hand.model.name_or_path).eval()
    words = hand.words(text)
    patches = torch.zeros(1, 16, dtype=torch.long)
    output = whole(
        **words,
        input_ids_masked=words["input_ids"],
        pixel_values=hand.pixels(image),
        codebook_pixel_values=torch.zeros(1, 3, 32, 32),
        bool_masked_pos=patches,
        skip_unmasked_multimodal_encoder=True,
        return_loss=False,
    )
    return float(output.contrastive_logits_per_image.item())


# -- the same vector by every way ------------------------------------------------------------------


def test_a_vector_does_not_depend_on_its_batch(load: Load) -> None:
    encoder, items = load(), mixed_items()
    alone = np.concatenate([encoder.encode([item]) for item in items])
    for order in ([*range(9)], [8, 3, 0, 5, 2, 7, 4, 6, 1], [3, 2], [4, 7], [0, 4]):
        batch = encoder.prepare([encoder.render(items[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[order])
    differences = np.abs(alone[:, None] - alone[None]).max(-1) + np.eye(9)
    assert differences.min() > 1e-2


def test_long_texts_are_cut_and_keep_their_end_token(family: str, load: Load) -> None:
    facts, long = FAMILIES[family], mh.Item(text="a cat " * 200)
    for options, length in (({}, facts.length), ({"max_length": 9}, 9)):
        encoder = load(**options)
        ids = encoder.prepare([encoder.render(long)]).ids_TL[0].tolist()
        assert len(ids) == length == encoder.size(encoder.render(long))
        assert ids[-1] == encoder.tokenizer.convert_tokens_to_ids(facts.end)


def test_published_text_lengths(family: str, load: Load) -> None:
    lengths = {"align": 64, "chinese-clip": 52, "altclip": 77, "metaclip-2": 77, "flava": 77}
    assert load().card.max_length == lengths[family]


def test_no_text_is_longer_than_the_tower_has_positions_for(load: Load) -> None:
    encoder = load(max_length=5000)
    assert encoder.max_length < 100
    assert np.isfinite(encoder.encode([mh.Item(text="a cat " * 200)])).all()


def test_an_image_is_planned_with_as_many_tokens_as_its_tower_has(family: str, load: Load) -> None:
    encoder = load()
    tokens = FAMILIES[family].image_tokens
    assert encoder.size(encoder.render(mh.Item(image=picture()))) == tokens
    text, both = mh.Item(text="a cat"), mh.Item(text="a cat", image=picture())
    assert encoder.size(encoder.render(both)) == tokens + encoder.size(encoder.render(text))


def test_a_pickled_encoder_prepares_the_same_batch(load: Load) -> None:
    encoder = load()
    encoder.encode(mixed_items())
    again = pickle.loads(pickle.dumps(encoder))
    batch, other = (
        one.prepare([one.render(item) for item in mixed_items()]) for one in (encoder, again)
    )
    assert again._module is None
    assert torch.equal(batch.ids_TL, other.ids_TL)
    assert torch.equal(batch.mask_TL, other.mask_TL)
    assert torch.equal(batch.pixels, other.pixels)


def test_forward_is_encode_with_a_gradient_for_both_towers(family: str, load: Load) -> None:
    encoder = load()
    vectors = encoder.forward(encoder.prepare([encoder.render(item) for item in mixed_items()]))
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = {name for name, one in encoder.module.named_parameters() if one.grad is None}
    unused = ("logit_scale", "temperature", "pooler", "multimodal_model", "_to_mm_", "mask_token")
    assert all(any(word in name for word in unused) for name in idle), idle


def test_a_saved_encoder_loads_from_its_folder_with_its_card(load: Load, tmp_path: Path) -> None:
    encoder = load(max_length=20, normalize=True)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(mixed_items()), encoder.encode(mixed_items()), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


# -- weights as they are published -----------------------------------------------------------------


def with_older_weights(folder: Path, place: Path) -> Path:
    """Copy a model, its weights as they were kept before safetensors."""
    from safetensors.torch import load_file

    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(folder / "model.safetensors"), place / "pytorch_model.bin")
    return place


def test_weights_from_before_safetensors_are_read(family: str, folder: Path, load: Load) -> None:
    older = with_older_weights(folder, folder.parent / f"{family}-older")
    encoder = mh.load_encoder(f"{family}:{older}", device="cpu")
    assert_close(encoder.encode(mixed_items()), load().encode(mixed_items()), 1e-6)


@pytest.mark.parametrize("older", [True, False])
def test_older_weights_are_fetched_only_where_there_are_no_others(
    older: bool, family: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = with_older_weights(folder, tmp_path / "published")
    if not older:
        shutil.copy(folder / "model.safetensors", published)
    commit = "0123456789" * 4
    cache = tmp_path / "cache"
    here = cache / "models--some--model/snapshots" / commit
    here.mkdir(parents=True)

    def fetch(name: str, revision: str | None, allow_patterns: Sequence[str], **_: Any) -> str:
        assert (name, revision) in {("some/model", None), ("some/model", commit)}
        for path in published.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, here)
        return str(here)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    encoder = mh.load_encoder(f"{family}:some/model", device="cpu")
    assert not list(here.glob("*model.*"))
    encoder.encode([mh.Item(text="a cat")])
    wanted = "pytorch_model.bin" if older else "model.safetensors"
    assert [path.name for path in here.glob("*model.*")] == [wanted]


def test_weights_that_lack_a_tensor_are_refused(family: str, folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (lost,) = [name for name in tensors if name.endswith("text_projection.weight")]
    del tensors[lost]
    save_file(tensors, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    encoder = mh.load_encoder(f"{family}:{tmp_path / 'model'}", device="cpu")
    with pytest.raises(EnvironmentFault, match=r"text_projection\.weight"):
        encoder.encode([mh.Item(text="a")])


@pytest.mark.parametrize(
    ("lost", "item", "message"),
    [
        ("preprocessor_config.json", mh.Item(image=picture()), "the image processor in"),
        ("tokenizer*", mh.Item(text="a"), "the tokenizer in"),
        ("model.safetensors", mh.Item(text="a"), "the weights in"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(
    lost: str, item: mh.Item, message: str, family: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns(lost))
    with pytest.raises(EnvironmentFault, match=message):
        mh.load_encoder(f"{family}:{tmp_path / 'model'}", device="cpu").encode([item])


def test_another_model_is_refused_by_its_type(family: str, goldens: Path) -> None:
    wanted = rf"type 'clip'; {family} reads {FAMILIES[family].model_type}"
    with pytest.raises(UsageError, match=wanted):
        mh.load_encoder(f"{family}:{goldens}/models/tiny-clip")


@pytest.mark.parametrize("name", ["clip", "align", "altclip"])
def test_a_length_without_room_for_a_word_is_refused(name: str, tmp_path: Path) -> None:
    reference = importlib.import_module(f"tiny.{name}").make(tmp_path / "model")
    with pytest.raises(UsageError, match="at least 3 are needed"):
        mh.load_encoder(reference, max_length=2)
    assert len(mh.load_encoder(reference, max_length=3).token_ids("a cat and a dog")) == 3
