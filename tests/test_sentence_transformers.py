"""The sentence-transformers family against the library called by hand, one item at a time."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError
from itertools import combinations
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, ItemError, UsageError
from mmeb_harness.files import FileIndex
from mmeb_harness.item import Rendered
from mmeb_harness.plugins.vision_ops import mend_torchvision
from mmeb_harness.subject import subject_from_object
from mmeb_harness.testing import check_encoder
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import sentence_transformers as tiny

pytestmark = pytest.mark.thorough

PLACEHOLDER = "<|image_1|>"
INSTRUCTION = "Represent the given image with the following question:"

TAKES = {
    "chat": {"text", "image", "both"},
    "towers": {"text", "image", "both"},
    "old towers": {"text", "image", "both"},
    "images": {"image"},
    "texts": {"text"},
    "routes": {"text"},
    "late routes": {"text"},
    "left padded": {"text"},
    "static": {"text"},
}
"""Which kinds of items each tiny model takes."""

Load = Callable[..., Any]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one tiny model of every kind."""
    mend_torchvision()
    return {name: make(tmp_path_factory.mktemp("models")) for name, make in tiny.MAKERS.items()}


@pytest.fixture(scope="session")
def load(models: dict[str, Path]) -> Load:
    """Return `(name, **options) -> encoder`; equal options share one: no edits."""

    @cache
    def load(name: str, **options: Any) -> Any:
        return mh.load_encoder(f"sentence-transformers:{models[name]}", device="cpu", **options)

    return load


@pytest.fixture(scope="session")
def by_hand(models: dict[str, Path]) -> Load:
    """Return `name -> the library's own model`, loaded as its users load it."""
    from sentence_transformers import SentenceTransformer

    @cache
    def by_hand(name: str) -> Any:
        return SentenceTransformer(str(models[name]), device="cpu")

    return by_hand


@pytest.fixture
def damaged(models: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return `name -> folder`, a copy to be spoilt."""
    return lambda name: Path(shutil.copytree(models[name], tmp_path / "damaged"))


def picture(turn: int = 0, size: tuple[int, int] = (100, 80)) -> Image.Image:
    """Draw a picture that differs with `turn`."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).resize(size)


def asked(question: str, turn: int | None, role: Any = "query") -> mh.Item:
    """Make an item as MMEB words it, with its instruction marked."""
    image = None if turn is None else picture(turn, (60 + turn, 140))
    text = f"{PLACEHOLDER}\n{INSTRUCTION} {question}\n"
    return mh.Item(text=text, instruction=INSTRUCTION, image=image, role=role)


def items_for(name: str) -> list[mh.Item]:
    """Return items of the kinds that a model takes, of many lengths, in every role."""
    items = {
        "text": [
            mh.Item(text="a cat"),
            mh.Item(text="a cat", role="query"),
            mh.Item(text="a cat", role="candidate"),
            mh.Item(text="a much longer text about a dog, a boat and two blue squares"),
            mh.Item(text="two green squares beside the river?", role="query"),
            mh.Item(text="x", role="candidate"),
            mh.Item(text="a cow", role="candidate"),
            asked("who painted the house?", None),
        ],
        "image": [
            mh.Item(image=picture(20), role="candidate"),
            mh.Item(image=picture(50), role="candidate"),
            mh.Item(image=picture(110, (130, 57))),
            mh.Item(image=picture(140), role="query"),
        ],
        "both": [
            asked("what stands beside the red chair?", 10),
            asked("why?", 30),
            asked("what is blue?", 70, role=None),
            asked("what is blue?", 90, role="candidate"),
        ],
    }
    return [
        item for kind in ("text", "image", "both") if kind in TAKES[name] for item in items[kind]
    ]


def bare(item: mh.Item) -> str:
    """Return what is left of an item's text without instruction and placeholder."""
    return (item.text or "").replace(item.instruction or "", "").replace(PLACEHOLDER, "").strip()


def expected(name: str, model: Any, item: mh.Item) -> Any:
    """Call the library as its documentation says, for one item."""
    encode = {"query": model.encode_query, "candidate": model.encode_document, None: model.encode}
    prompt = {}
    if name == "chat" and item.instruction and item.role != "candidate":
        prompt = {"prompt": item.instruction}
    text = bare(item)
    if text and item.image is not None:
        if name == "chat":
            both = {"image": item.image, "text": text}
            return encode[item.role]([both], **prompt)[0]
        return encode[item.role]([text])[0] + encode[item.role]([item.image])[0]
    return encode[item.role]([text or item.image], **prompt)[0]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def apart(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


# -- the library by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", TAKES)
def test_vectors_are_those_of_the_library(name: str, load: Load, by_hand: Load) -> None:
    items = items_for(name)
    wanted = [expected(name, by_hand(name), item) for item in items]
    assert_close(load(name).encode(items), wanted)
    for row, other in combinations(range(len(items)), 2):
        if (bare(items[row]), items[row].image) != (bare(items[other]), items[other].image):
            assert apart(wanted[row], wanted[other]) > 1e-3, (row, other)


@pytest.mark.parametrize("name", TAKES)
def test_a_vector_does_not_depend_on_its_batch(name: str, load: Load) -> None:
    encoder, items = load(name), items_for(name)
    alone = np.concatenate([encoder.encode([item]) for item in items])
    count = len(items)
    for order in (range(count), range(count)[::-1], [*range(1, count, 2), *range(0, count, 2)]):
        batch = encoder.prepare([encoder.render(items[row]) for row in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[list(order)])


def test_a_neighbour_that_moves_the_library_moves_nothing_here(load: Load, by_hand: Load) -> None:
    texts = ["a cat", "a much longer text about a dog, a boat and two blue squares"]
    alone = np.stack([by_hand("left padded").encode([text])[0] for text in texts])
    assert apart(by_hand("left padded").encode(texts), alone) > 1e-2
    assert_close(load("left padded").encode([mh.Item(text=text) for text in texts]), alone)


def test_items_of_equal_shapes_share_a_forward_and_no_others(load: Load) -> None:
    def rows(name: str, *items: mh.Item) -> list[list[int]]:
        batch = load(name).prepare([load(name).render(item) for item in items])
        return [list(part.rows) for part in batch.parts]

    cat, dog, longer = (mh.Item(text=text) for text in ("a 1", "a 2", "a 1 2 3"))
    query = mh.Item(text="a 2", role="query")
    first, second, wide = (
        mh.Item(image=one) for one in (picture(1), picture(9), picture(1, (300, 60)))
    )
    assert rows("texts", cat, longer, dog) == [[0, 2], [1]]
    assert rows("routes", cat, query, dog) == [[0, 2], [1]]
    assert rows("towers", first, cat, wide) == [[0, 2], [1]]
    assert rows("chat", first, wide, second, cat) == [[0, 2], [1], [3]]
    assert rows("static", cat, dog) == [[0], [1]]


@pytest.mark.parametrize("name", TAKES)
def test_the_conformance_kit_finds_nothing(name: str, load: Load) -> None:
    check_encoder(load(name))


# -- prompts, roles, instructions ------------------------------------------------------------------


def test_the_role_chooses_the_models_own_prompt(load: Load, by_hand: Load) -> None:
    encoder = load("texts")
    roles: list[Any] = ["query", "candidate", None]
    shown = [encoder.render(mh.Item(text="a cat", role=role)) for role in roles]
    assert [one.settings for one in shown] == [
        ("query", "question: "),
        ("document", "passage text: "),
        ("", "something else: "),
    ]
    vectors = encoder.encode([mh.Item(text="a cat", role=role) for role in roles])
    prompts = [tiny.PROMPTS[name] for name in ("query", "document", "other")]
    assert_close(vectors, [by_hand("texts").encode(["a cat"], prompt=one)[0] for one in prompts])
    assert min(apart(vectors[0], vectors[1]), apart(vectors[1], vectors[2])) > 1e-2


@pytest.mark.parametrize("name", ["routes", "late routes"])
def test_the_role_chooses_the_route(name: str, load: Load) -> None:
    query, document = load(name).encode(
        [mh.Item(text="a cat", role="query"), mh.Item(text="a cat", role="candidate")]
    )
    assert apart(query, document) > 1e-2


def test_a_query_s_instruction_is_the_system_message_of_a_model_that_reads_chats(
    load: Load, by_hand: Load
) -> None:
    encoder, model = load("chat"), by_hand("chat")
    item = asked("what is blue?", 70)
    assert encoder.render(item) == Rendered(
        text="what is blue?", image=item.image, settings=("query", INSTRUCTION)
    )
    ids = encoder.prepare([encoder.render(item)]).parts[0].features["input_ids"][0]
    seen = model.tokenizer.decode(ids)
    assert seen.startswith(f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n")
    assert seen.endswith("<|vision_end|>what is blue?<|im_end|>\n<|im_start|>assistant")
    content = [{"type": "image", "image": item.image}, {"type": "text", "text": "what is blue?"}]
    system = {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]}
    chat = [system, {"role": "user", "content": content}]
    assert_close(encoder.encode([item]), model.encode([chat], prompt=""))


def test_a_candidate_is_encoded_as_a_document_whatever_its_instruction(load: Load) -> None:
    shown = load("chat").render(asked("what is blue?", 70, role="candidate"))
    assert (shown.text, shown.settings) == ("what is blue?", ("document", "Represent this."))


@pytest.mark.parametrize("name", ["towers", "texts"])
def test_a_model_that_reads_no_chats_gets_no_instruction(name: str, load: Load) -> None:
    item = asked("who painted the house?", None)
    encoder = load(name)
    assert encoder.render(item).text == "who painted the house?"
    assert INSTRUCTION not in encoder.render(item).settings
    plain = mh.Item(text="who painted the house?", role="query")
    assert_close(encoder.encode([item]), encoder.encode([plain]), 1e-6)


def test_stored_and_template_prompts_keep_the_models_own(load: Load, by_hand: Load) -> None:
    item = asked("what is blue?", 70)
    stored = load("chat", prompt="stored").render(item)
    assert (stored.text, stored.settings) == (item.text, ("query", "Find what is asked for."))
    template = "{{ instruction }} {{ text }}"
    encoder = load("chat", prompt="template", template=template)
    shown = encoder.render(item)
    assert shown.text == f"{INSTRUCTION} what is blue?"
    assert shown.settings == ("query", "Find what is asked for.")
    both = {"image": item.image, "text": shown.text}
    assert_close(encoder.encode([item]), by_hand("chat").encode_query([both]))
    vectors = [load("chat").encode([item]), encoder.encode([item])]
    assert apart(*vectors) > 1e-2


def test_an_image_with_nothing_but_an_instruction_is_the_image(load: Load, by_hand: Load) -> None:
    item = mh.Item(
        text=f"{PLACEHOLDER}\n{INSTRUCTION}\n",
        instruction=INSTRUCTION,
        image=picture(5),
        role="query",
    )
    assert load("chat").render(item).text is None
    wanted = by_hand("chat").encode_query([item.image], prompt=INSTRUCTION)
    assert_close(load("chat").encode([item]), wanted)


@pytest.mark.parametrize(
    "text", ["https://youtu.be/x1", "data:image/png;base64,AAAA", "https://a.b/c.jpg", "cat.png"]
)
def test_a_text_that_looks_like_an_address_is_a_text(text: str, load: Load, by_hand: Load) -> None:
    picture().save("cat.png")
    for name in ("chat", "towers", "texts"):
        found = load(name).encode([mh.Item(text=text)])
        wanted = by_hand(name).encode([{"text": text}] if name != "texts" else [text])
        assert_close(found, wanted)


# -- what a model takes ----------------------------------------------------------------------------


def test_a_model_of_two_towers_gives_the_sum_of_both(load: Load) -> None:
    text, image, both = load("towers").encode(
        [
            mh.Item(text="a cat"),
            mh.Item(image=picture()),
            mh.Item(text="a cat", image=picture()),
        ]
    )
    assert_close(both, text + image)
    assert min(np.abs(text).max(), np.abs(image).max()) > 0.1


@pytest.mark.parametrize("modality", ["text", "image"])
def test_unimodal_fusion_takes_the_side_that_the_task_marks(modality: Any, load: Load) -> None:
    sides = {"text": mh.Item(text="a cat"), "image": mh.Item(image=picture())}
    both = mh.Item(text="a cat", image=picture(), modality=modality)
    encoder = load("towers", fusion="unimodal")
    assert_close(encoder.encode([both]), encoder.encode([sides[modality]]), 1e-6)


def test_what_a_model_does_not_take_is_refused_by_name(load: Load) -> None:
    with pytest.raises(ItemError, match="takes no image: it takes text"):
        load("texts").render(mh.Item(text="a cat", image=picture()))
    with pytest.raises(ItemError, match="takes no text: it takes image"):
        load("images").render(mh.Item(text="a cat", image=picture()))


@pytest.mark.parametrize("name", ["chat", "texts"])
def test_an_item_with_nothing_in_it_is_refused(name: str, load: Load) -> None:
    with pytest.raises(ItemError, match="neither text nor image"):
        load(name).render(mh.Item())
    with pytest.raises(ItemError, match="nothing is left of it"):
        load(name).render(mh.Item(text=INSTRUCTION, instruction=INSTRUCTION))


def test_a_text_without_tokens_is_refused(load: Load) -> None:
    encoder = load("static", prompt="stored")
    with pytest.raises(ItemError, match="no tokens"):
        encoder.prepare([encoder.render(mh.Item(text=" "))])


def test_an_image_that_the_library_refuses_names_the_item_s_fault(load: Load) -> None:
    encoder = load("chat")
    thin = mh.Item(image=picture(0, (1000, 2)))
    with pytest.raises(ItemError, match="aspect ratio"):
        encoder.size(encoder.render(thin))
    with pytest.raises(ItemError, match="aspect ratio"):
        encoder.prepare([encoder.render(thin)])


def test_an_image_is_made_plain_rgb_and_resized_as_the_card_says(load: Load, by_hand: Load) -> None:
    image = picture(30).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    opaque = image.convert("RGB")
    assert_close(load("chat").encode([mh.Item(image=image)]), by_hand("chat").encode([opaque]))
    encoder = load("chat", image_resolution="low")
    squared = image.resize((128, 128)).convert("RGB")
    assert_close(encoder.encode([mh.Item(image=image)]), by_hand("chat").encode([squared]))
    assert encoder.size(encoder.render(mh.Item(image=image))) > 25


# -- settings --------------------------------------------------------------------------------------


def test_vectors_are_cut_as_the_model_says_and_normalised_on_request(
    load: Load, by_hand: Load
) -> None:
    items = items_for("texts")
    plain = load("texts").encode(items)
    assert plain.shape[1] == by_hand("texts").truncate_dim == 20
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert_close(load("texts", normalize=True).encode(items), plain / lengths)


def test_long_texts_are_cut_to_the_length_asked_for_and_never_beyond_the_models(
    models: dict[str, Path], load: Load
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(models["texts"]), device="cpu")
    long = mh.Item(text="the cat and the dog sit on the red chair " * 9)
    own = load("texts").encode([long])
    assert_close(own, model.encode([long.text]))
    assert_close(load("texts", max_length=4000).encode([long]), own, 1e-6)
    model.max_seq_length = 11
    encoder = load("texts", max_length=11)
    assert_close(encoder.encode([long]), model.encode([long.text]))
    assert apart(encoder.encode([long]), own) > 1e-2
    assert encoder.prepare([encoder.render(long)]).parts[0].features["input_ids"].shape == (1, 11)
    with pytest.raises(UsageError, match="does not cut texts"):
        mh.load_encoder(
            f"sentence-transformers:{models['static']}", device="cpu", max_length=9
        ).encode([long])


def test_the_kernel_and_the_numeric_type_are_those_asked_for(load: Load) -> None:
    assert load("chat", attention="eager").module.config._attn_implementation == "eager"
    half = mh.load_encoder(load("chat").mmeb_model.card.name, device="cpu", dtype="bfloat16")
    assert {one.dtype for one in half.module.parameters()} == {torch.bfloat16}
    items = items_for("chat")
    assert (half.encode(items) * load("chat").encode(items)).sum(1).min() > 0.99


# -- the two halves --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat", "towers", "texts", "routes", "static"])
def test_the_cpu_half_has_no_weights_and_prepares_the_same(
    name: str, models: dict[str, Path]
) -> None:
    encoder = mh.load_encoder(f"sentence-transformers:{models[name]}", device="cpu")
    items = items_for(name)
    rendered = [encoder.render(item) for item in items]
    assert min(encoder.size(one) for one in rendered) > 0
    batch = encoder.prepare(rendered)
    assert encoder._module is None
    assert {str(one.device) for one in encoder.hollow.state_dict().values()} == {"meta"}
    vectors = encoder.encode(items)
    again = pickle.loads(pickle.dumps(encoder))
    assert again._module is None
    other = pickle.loads(pickle.dumps(again.prepare([again.render(item) for item in items])))
    assert [part.rows for part in other.parts] == [part.rows for part in batch.parts]
    with torch.no_grad():
        assert_close(encoder.forward(other).numpy(), vectors, 1e-6)
    if name == "chat":
        assert len(pickle.dumps(encoder)) < 100_000  # the weights are 818 kB


@pytest.mark.parametrize("name", ["chat", "towers", "texts"])
def test_forward_is_encode_with_a_gradient(name: str, models: dict[str, Path]) -> None:
    encoder = mh.load_encoder(f"sentence-transformers:{models[name]}", device="cpu")
    items = items_for(name)
    batch = encoder.prepare([encoder.render(item) for item in items])
    for _ in range(2):  # a batch can be used again
        vectors = encoder.forward(batch)
        assert_close(vectors.detach().numpy(), encoder.encode(items))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = {name for name, one in encoder.module.named_parameters() if one.grad is None}
    assert {one.split(".")[2] for one in idle} <= {"pooler", "logit_scale"}


@pytest.mark.parametrize("name", ["chat", "texts", "routes"])
def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    name: str, load: Load, tmp_path: Path
) -> None:
    encoder = load(name, normalize=True, prompt="stored")
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(items_for(name)), encoder.encode(items_for(name)), 1e-6)
    assert again.card.name == "saved"
    assert again.card.vector_settings() == encoder.card.vector_settings()


def test_it_runs_over_the_suite_mini(load: Load, tmp_path: Path) -> None:
    run = mh.evaluate(
        load("towers"), suite="mini", tasks="GQA,WebQA,RefCOCO", output_dir=tmp_path / "run"
    )
    assert {(task.status, task.error) for task in run.tasks.values()} == {("ok", None)}
    assert len(run.tasks) == 3


@pytest.mark.thorough
def test_worker_processes_prepare_the_same(
    load: Load, tmp_path: Path, stored_vectors: Callable[[Path], dict[bytes, bytes]]
) -> None:
    folders = [tmp_path / "here", tmp_path / "workers"]
    runs = [
        mh.evaluate(
            load("chat"),
            suite="mini",
            tasks="GQA,WebQA",
            output_dir=folder,
            cache_dir=folder / "cache",
            workers=workers,
        )
        for folder, workers in zip(folders, (0, 2), strict=True)
    ]
    assert {task.status for run in runs for task in run.tasks.values()} == {"ok"}
    found = [stored_vectors(folder / "cache") for folder in folders]
    assert found[0]
    assert found[0] == found[1]


# -- identity --------------------------------------------------------------------------------------


def identity(reference: str, index: Path, **options: Any) -> str:
    """Return under which name the vectors of a model are kept."""
    encoder = mh.load_encoder(reference, device="cpu", **options)
    return subject_from_object(encoder, FileIndex(index)).namespace


def test_every_file_of_the_model_is_a_part_of_its_identity(
    damaged: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = damaged("texts")
    reference = f"sentence-transformers:{folder}"
    seen = [identity(reference, tmp_path / "index")]
    assert identity(reference, tmp_path / "index") == seen[0]
    (folder / ".cache").mkdir()
    (folder / ".cache/notes").write_text("not a part of it")
    assert identity(reference, tmp_path / "index") == seen[0]
    for path in (
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "config_sentence_transformers.json",
    ):
        (folder / path).write_text((folder / path).read_text() + " ")
        seen.append(identity(reference, tmp_path / "index"))
    seen.append(identity(reference, tmp_path / "index", prompt="stored"))
    assert len(set(seen)) == len(seen)


def test_a_model_of_the_hub_is_found_offline_and_known_by_its_commit(
    models: dict[str, Path], by_hand: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "5" * 40
    for name in ("someone--tiny", "sentence-transformers--tiny"):
        place = tmp_path / f"hub/models--{name}"
        shutil.copytree(models["texts"], place / "snapshots" / commit)
        (place / "refs").mkdir()
        (place / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    wanted = by_hand("texts").encode(["a cat"])
    for reference in ("someone/tiny", "tiny"):
        encoder = mh.load_encoder(f"sentence-transformers:{reference}", device="cpu")
        assert_close(encoder.encode([mh.Item(text="a cat")]), wanted)
        assert [folder.name for folder in encoder.weight_folders()] == [commit]


def test_what_is_fetched_from_the_hub_is_every_file_that_loading_needs(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mmeb_harness.plugins.sentence_transformers as family
    from huggingface_hub.utils import filter_repo_objects

    old = Path(shutil.copytree(models["old towers"], tmp_path / "old"))
    place = old / "0_CLIPModel"
    torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    for folder, unwanted in ((models["texts"], "onnx/model.onnx"), (old, "openvino/model.bin")):
        published = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        arrived = tmp_path / f"arrived-{folder.name}"

        def fetch(
            reference: str, revision: Any, patterns: Any, source: Path = folder,
            files: list[Path] = published, target: Path = arrived, other: str = unwanted,
        ) -> Path:  # fmt: skip
            names = [*map(str, files), other]
            for name in filter_repo_objects(names, allow_patterns=list(patterns)):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, target / name)
            return target

        monkeypatch.setattr(family, "fetch_model", fetch)
        encoder = mh.load_encoder("sentence-transformers:someone/tiny", device="cpu")
        here = mh.Item(text="a cat")
        whole = mh.load_encoder(f"sentence-transformers:{folder}", device="cpu")
        assert_close(encoder.encode([here]), whole.encode([here]), 1e-6)


# -- what cannot be loaded -------------------------------------------------------------------------


def refused(folder: Path | str) -> Any:
    """Load and use a model that cannot be."""
    encoder = mh.load_encoder(f"sentence-transformers:{folder}", device="cpu")
    return encoder.encode([mh.Item(text="a cat")])


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_that_is_no_model_is_refused(goldens: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        refused(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no usable modules\.json"):
        refused(goldens / "models/tiny-clip")
    with pytest.raises(UsageError, match="needs a reference"):
        mh.load_encoder("sentence-transformers")


@pytest.mark.parametrize("content", ["[]", "[1]", '{"type": "x"}', '[{"path": ""}]'])
def test_modules_that_say_nothing_usable_are_refused(
    content: str, damaged: Callable[[str], Path]
) -> None:
    folder = damaged("texts")
    (folder / "modules.json").write_text(content)
    with pytest.raises(UsageError, match=r"no usable modules\.json"):
        refused(folder)


def test_a_model_of_another_kind_is_refused(damaged: Callable[[str], Path]) -> None:
    folder = damaged("texts")
    edit(folder / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(UsageError, match="is a SparseEncoder"):
        refused(folder)


def test_code_of_a_models_own_is_never_run(damaged: Callable[[str], Path]) -> None:
    folder = damaged("texts")
    (folder / "own.py").write_text("raise SystemExit('it was run')")
    mapped = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    edit(folder / "config.json", model_type="made-up", auto_map=mapped)
    with pytest.raises(EnvironmentFault, match="code of its own, which is never run here"):
        refused(folder)
    entries = json.loads((folder / "modules.json").read_text())
    entries[1]["type"] = "own.Pooling"
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(EnvironmentFault, match=r"code of its own \(own.Pooling\)"):
        refused(folder)


def test_an_adapter_is_refused(damaged: Callable[[str], Path]) -> None:
    folder = damaged("texts")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(EnvironmentFault, match="merge it into its base"):
        refused(folder)


@pytest.mark.parametrize(
    ("name", "file", "key", "told"),
    [
        ("chat", "model", "layers.1.input_layernorm.weight", "lack 1"),
        ("texts", "model", "encoder.layer.0.output.dense.bias", "lack 1"),
        ("texts", "2_Dense/model", "linear.bias", "loading state_dict for Dense"),
        ("routes", "document_0_Transformer/model", "layer.1.output.dense.weight", "lack 1"),
        ("old towers", "0_CLIPModel/model", "text_projection.weight", "lack 1"),
    ],
)
def test_a_missing_weight_is_told(
    name: str, file: str, key: str, told: str, damaged: Callable[[str], Path]
) -> None:
    path = damaged(name) / f"{file}.safetensors"
    weights = load_file(path)
    [gone] = [one for one in weights if one.endswith(key)]
    del weights[gone]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(EnvironmentFault, match=told) as raised:
        refused(path.parents[file.count("/")])
    assert gone in str(raised.value) or name == "texts"


def test_a_pooler_that_nothing_reads_may_be_missing(
    damaged: Callable[[str], Path], load: Load
) -> None:
    folder = damaged("texts")
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert_close(refused(folder), load("texts").encode([mh.Item(text="a cat")]), 1e-6)


@pytest.mark.parametrize("file", ["model.safetensors", "2_Dense/model.safetensors"])
def test_damaged_and_missing_weights_are_told(file: str, damaged: Callable[[str], Path]) -> None:
    folder = damaged("texts")
    (folder / file).write_bytes((folder / file).read_bytes()[:500])
    with pytest.raises(EnvironmentFault, match="cannot be loaded"):
        refused(folder)
    (folder / file).unlink()
    with pytest.raises(EnvironmentFault, match="cannot be loaded"):
        refused(folder)


def test_without_the_library_the_message_says_what_to_install(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    monkeypatch.setattr("mmeb_harness.models.version", absent)
    with pytest.raises(EnvironmentFault, match="needs sentence-transformers, which is not install"):
        refused(models["texts"])
