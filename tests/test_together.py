"""Items of one batch, run end to end or beside others that show the same picture: the vectors are
those that each has alone."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.encoder import infer
from mmeb_harness.errors import UsageError
from mmeb_harness.image import distinct
from mmeb_harness.item import PLACEHOLDER, Item
from PIL import Image

SHARING = ["qwen2_vl", "gme", "qwen3_vl", "llava_next", "phi3_v", "clip", "siglip", "open_clip"]
QUICK_FIRST = SHARING[:1] + [pytest.param(name, marks=pytest.mark.thorough) for name in SHARING[1:]]
PACKING = ["qwen2_vl", "gme", "qwen3_vl", "llava_next"]
ALONE = ["phi3_v", "mllama", "clip"]

TEXTS = ("a cat", "find the dog on the left of the sofa", "boat", "two small boats, and a man")


def picture(turn: int, size: tuple[int, int]) -> Image.Image:
    """Draw a picture that differs with `turn` all over."""
    pixels = np.random.default_rng(turn).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    sizes = ((60, 90), (120, 56), (84, 84))
    for turn, size in enumerate(sizes):
        picture(turn, size).save(folder / f"{turn}.png")
    return [str(folder / f"{turn}.png") for turn in range(len(sizes))]


def items(paths: list[str], shown: list[int | None]) -> list[Item]:
    """Return items with texts of several lengths, and the pictures of these numbers."""
    return [
        Item(
            text=TEXTS[place % 4] if number is None else f"{PLACEHOLDER}\n{TEXTS[place % 4]}",
            image=None if number is None else paths[number],
        )
        for place, number in enumerate(shown)
    ]


def together(encoder: Any, given: list[Item]) -> np.ndarray:
    return infer(encoder, encoder.prepare([encoder.render(item) for item in given]))


def one_by_one(encoder: Any, given: list[Item]) -> np.ndarray:
    return np.concatenate([together(encoder, [item]) for item in given])


REPEATED = [1, 0, None, 1, 2, 1, None, 0]


@pytest.mark.parametrize("shown", [REPEATED, [2, 0, 2]], ids=["several", "one"])
@pytest.mark.parametrize("name", QUICK_FIRST)
def test_a_picture_of_several_items_gives_each_its_own_vector(
    name: str, shown: list[int | None], encoders: Any, paths: list[str]
) -> None:
    encoder, given = encoders(name), items(paths, shown)
    assert np.abs(together(encoder, given) - one_by_one(encoder, given)).max() <= 1e-5


@pytest.mark.parametrize("name", SHARING)
def test_a_picture_of_several_items_is_prepared_once(
    name: str, encoders: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, given = encoders(name), items(paths, REPEATED)
    opened: list[str] = []
    kept = type(encoder).picture

    def noted(self: Any, source: Any) -> Any:
        opened.append(source)
        return kept(self, source)

    monkeypatch.setattr(type(encoder), "picture", noted)
    encoder.prepare([encoder.render(item) for item in given])
    assert sorted(opened) == sorted(paths)


def test_the_tower_sees_a_shared_picture_once(encoders: Any, paths: list[str]) -> None:
    encoder = encoders("qwen2_vl")
    batch = encoder.prepare([encoder.render(item) for item in items(paths, REPEATED)])
    assert len(batch.images["grids"]) == 3
    assert len(batch.of_items(batch.images["grids"])) == 6
    patches = int(batch.images["grids"].prod(-1).sum())
    assert len(batch.images["pixels"]) == patches


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "clip"])
def test_gradients_of_a_shared_picture_are_those_of_its_items(
    name: str, encoders: Any, paths: list[str]
) -> None:
    encoder, given = encoders(name), items(paths, [0, 0, 1, None, 0])
    rendered = [encoder.render(item) for item in given]
    parameter = next(
        one for where, one in encoder.module.named_parameters() if "vis" in where and one.ndim > 1
    )
    found = []
    for parts in ([rendered], [[one] for one in rendered]):
        encoder.module.zero_grad()
        for part in parts:
            encoder.forward(encoder.prepare(part)).pow(3).sum().backward()
        found.append(parameter.grad.clone())
    encoder.module.zero_grad()
    assert found[1].abs().max() > 0
    assert (found[0] - found[1]).abs().max() <= 1e-5 * found[1].abs().max()


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next"])
def test_a_settled_batch_keeps_each_picture_once(
    name: str, encoders: Any, paths: list[str]
) -> None:
    encoder, given = encoders(name), items(paths, REPEATED)
    before = [parameter.requires_grad for parameter in encoder.module.parameters()]
    encoder.module.requires_grad_(False)
    batch = encoder.prepare([encoder.render(item) for item in given])
    settled = encoder.settled(batch)
    vectors = infer(encoder, settled)
    for parameter, needed in zip(encoder.module.parameters(), before, strict=True):
        parameter.requires_grad_(needed)
    seen = settled.seen[0] if isinstance(settled.seen, list) else settled.seen
    assert len(seen) < int(batch.is_image_BL.sum())
    assert np.abs(vectors - one_by_one(encoder, given)).max() <= 1e-5


@pytest.mark.parametrize("shown", [[None, None], [0], [1, 2, None, 0], REPEATED])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", PACKING)
def test_packed_is_padded(
    name: str, side: str, shown: list[int | None], encoders: Any, paths: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder, given = encoders(name), items(paths, shown)
    monkeypatch.setattr(encoder, "padding_side", side)
    assert encoder.pack("off") is False
    padded = together(encoder, given)
    assert encoder.pack("on") is True
    packed = together(encoder, given)
    encoder.pack("off")
    assert np.abs(packed - padded).max() <= 1e-5


def test_packed_rows_are_one_row_without_padding(
    encoders: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, given = encoders("qwen2_vl"), items(paths, REPEATED)
    batch = encoder.prepare([encoder.render(item) for item in given])
    shapes: list[torch.Size] = []
    trunk = encoder.module.language_model
    handle = trunk.register_forward_pre_hook(
        lambda _, __, named: shapes.append(named["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    encoder.pack("on")
    infer(encoder, batch)
    encoder.pack("off")
    infer(encoder, batch)
    handle.remove()
    assert shapes == [(1, int(batch.mask_BL.sum())), tuple(batch.mask_BL.shape)]
    assert int(batch.mask_BL.sum()) < batch.mask_BL.numel()


def test_mrope_positions_are_packed_and_shared(paths: list[str], tmp_path: Path) -> None:
    model = importlib.import_module("tiny.qwen2_vl").make(tmp_path)
    encoder = mh.load_encoder(model, device="cpu", dtype="float32", positions="mrope")
    given = items(paths, REPEATED)
    alone = one_by_one(encoder, given)
    for way in ("off", "on"):
        encoder.pack(way)
        assert np.abs(together(encoder, given) - alone).max() <= 1e-5


@pytest.mark.parametrize("name", ALONE)
def test_a_family_that_cannot_pack_says_so(name: str, encoders: Any) -> None:
    encoder = encoders(name)
    assert encoder.pack("auto") is False
    assert encoder.pack("off") is False
    with pytest.raises(UsageError, match="cannot run items end to end"):
        encoder.pack("on")


def test_packing_is_chosen_where_the_kernel_has_lengths(encoders: Any) -> None:
    encoder = encoders("qwen2_vl")
    assert encoder.pack("auto") is False
    encoder.attention = "flash"
    assert encoder.pack("auto") is True
    assert encoder.pack("off") is False
    encoder.attention = "sdpa"


def test_a_run_records_which_way_it_took(tmp_path: Path) -> None:
    scores = {}
    for way in ("auto", "on"):
        run = mh.evaluate(
            "mini-vlm",
            suite="mini",
            tasks="GQA,RefCOCO",
            limit=6,
            packing=way,
            output_dir=tmp_path / way,
            cache_dir=tmp_path / f"cache {way}",
        )
        scores[way] = {name: result.score for name, result in run.tasks.items()}
        assert run.record.packed is (way == "on")
    assert scores["auto"] == scores["on"]


def test_an_unknown_way_of_packing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="packing"):
        mh.evaluate("random", suite="mini", packing="yes", output_dir=tmp_path)


def test_sources_are_told_apart() -> None:
    one, other = picture(0, (4, 4)), picture(0, (4, 4))
    sources = ["a.png", one, b"x", Path("a.png"), other, b"x", one]
    found, places = distinct(sources)
    assert places == [0, 1, 2, 0, 3, 2, 1]
    assert [found[place] for place in (1, 3)] == [one, other]
    assert found[0] in ("a.png", Path("a.png"))
    assert distinct([]) == ([], [])


@pytest.mark.thorough
def test_long_and_short_items_that_share_a_picture_run_apart(
    encoders: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders("phi3_v")
    given = [
        *items(paths, REPEATED),
        Item(text=f"{PLACEHOLDER}\n{'a cat ' * 70}", image=paths[1]),
        Item(text=f"{PLACEHOLDER}\n{'a dog ' * 70}", image=paths[1]),
    ]
    batch = encoder.prepare([encoder.render(item) for item in given])
    lengths = batch.mask_BL.sum(1)
    limit = int(lengths.median())
    assert lengths.min() <= limit < lengths.max()
    monkeypatch.setattr(type(encoder.module), "short_context", property(lambda _: limit))
    with torch.no_grad():
        seen = dataclasses.replace(batch, seen=encoder.seen_once(batch))
    alone = one_by_one(encoder, given)
    for way in (batch, seen):
        assert np.abs(infer(encoder, way) - alone).max() <= 1e-5
