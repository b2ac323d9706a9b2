"""A vector is reused only where the files that decide it are the same, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.thorough

Evaluate = Callable[..., mh.Run]
RANDOM_ADAPTER, NEW_ADAPTER = "tiny-qwen2vl-dora-init-randB", "tiny-qwen2vl-dora-init-ref"


@pytest.fixture
def models(goldens: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return `(golden, name) -> folder`: a copy of a tiny model that a test may change."""
    if not (goldens / "models").is_dir():
        pytest.skip("the tiny models are not here")

    def copy(golden: str, name: str = "model") -> Path:
        return Path(shutil.copytree(goldens / "models" / golden, tmp_path / name))

    return copy


@pytest.fixture
def evaluate(make_task_folder: Callable[..., Path], tmp_path: Path) -> Evaluate:
    """Return `(model, **overrides) -> run` over a few items, each time into a new folder."""
    data = make_task_folder("OK-VQA", queries=2, candidates=2)
    outputs = iter(range(100))

    def run(model: str, **overrides: Any) -> mh.Run:
        result = mh.evaluate(
            model,
            overrides=overrides,
            tasks="OK-VQA",
            data_dir=data,
            output_dir=tmp_path / f"run {next(outputs)}",
            device="cpu",
        )
        assert result.failed == []
        return result

    return run


def counts(run: mh.Run) -> tuple[int, int]:
    """Return how many vectors were computed, and how many reused."""
    return run.record.computed, sum(run.record.reused.values())


def retrain(path: Path) -> None:
    """Move one tensor a little, and write the file as a trainer would: same names, same size."""
    tensors = load_file(path)
    size = path.stat().st_size
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, path, {"format": "pt"})
    assert path.stat().st_size == size


def retrain_keeping_times(path: Path) -> None:
    status = path.stat()
    retrain(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_another(path: Path) -> None:
    other = path.with_name("other.safetensors")
    shutil.copy2(path, other)
    retrain_keeping_times(other)
    os.replace(other, path)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def copy_and_replace(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy(path, other)
    os.replace(other, path)


@pytest.mark.parametrize("change", [retrain, retrain_keeping_times, replace_with_another])
def test_weights_changed_in_place_reuse_nothing(
    models: Callable[..., Path], evaluate: Evaluate, change: Callable[[Path], None]
) -> None:
    folder = models("tiny-clip")
    first = evaluate(f"clip:{folder}")
    change(folder / "model.safetensors")
    second = evaluate(f"clip:{folder}")
    assert counts(first)[0] > 0
    assert counts(second) == (counts(first)[0], 0)
    assert second.record.encoder != first.record.encoder


@pytest.mark.parametrize("change", [None, rewrite, copy_and_replace])
def test_the_same_bytes_written_again_reuse_everything(
    models: Callable[..., Path], evaluate: Evaluate, change: Callable[[Path], None] | None
) -> None:
    folder = models("tiny-clip")
    first = evaluate(f"clip:{folder}")
    if change is not None:
        for path in folder.iterdir():
            change(path)
    assert counts(evaluate(f"clip:{folder}")) == (0, counts(first)[0])


def test_weights_put_back_reuse_what_they_had(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    folder = models("tiny-clip")
    original = (folder / "model.safetensors").read_bytes()
    first = evaluate(f"clip:{folder}")
    retrain(folder / "model.safetensors")
    evaluate(f"clip:{folder}")
    (folder / "model.safetensors").write_bytes(original)
    assert counts(evaluate(f"clip:{folder}")) == (0, counts(first)[0])


def test_a_copy_elsewhere_is_the_same_model(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    first = evaluate(f"clip:{models('tiny-clip')}")
    assert counts(evaluate(f"clip:{models('tiny-clip', 'copy')}")) == (0, counts(first)[0])


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}),
        ("config.json", {"logit_scale_init_value": 1.0}),
        ("tokenizer_config.json", {"model_max_length": 7}),
    ],
)
def test_another_processor_tokenizer_or_configuration_reuses_nothing(
    models: Callable[..., Path], evaluate: Evaluate, name: str, changes: dict[str, Any]
) -> None:
    folder = models("tiny-clip")
    first = evaluate(f"clip:{folder}")
    edit(folder / name, **changes)
    assert counts(evaluate(f"clip:{folder}")) == (counts(first)[0], 0)


def test_a_folder_that_only_looks_like_the_hubs_cache_is_read_too(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    """The Hub's cache is known by its commits, but people name folders `snapshots` as well."""
    folder = models("tiny-clip", "snapshots/latest")
    first = evaluate(f"clip:{folder}")
    retrain(folder / "model.safetensors")
    assert counts(evaluate(f"clip:{folder}")) == (counts(first)[0], 0)


def test_another_setting_that_decides_vectors_reuses_nothing(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    model = f"clip:{models('tiny-clip')}"
    computed = counts(evaluate(model))[0]
    for overrides in ({"normalize": "true"}, {"prompt": "stored"}, {"fusion": "unimodal"}):
        assert counts(evaluate(model, **overrides)) == (computed, 0), overrides
    assert counts(evaluate(model)) == (0, computed)


def test_another_similarity_reuses_everything(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    model = f"clip:{models('tiny-clip')}"
    first = evaluate(model)
    second = evaluate(model, similarity="dot")
    assert counts(second) == (0, counts(first)[0])
    assert (first.record.similarity, second.record.similarity) == ("cosine", "dot")


def swap_in_place(folder: Path, goldens: Path) -> Path:
    for path in (goldens / "models" / NEW_ADAPTER).iterdir():
        shutil.copy(path, folder / path.name)
    return folder


def another_folder(folder: Path, goldens: Path) -> Path:
    return goldens / "models" / NEW_ADAPTER


def retrain_adapter(folder: Path, goldens: Path) -> Path:
    retrain(folder / "adapter_model.safetensors")
    return folder


def another_scale(folder: Path, goldens: Path) -> Path:
    config = json.loads((folder / "adapter_config.json").read_text())
    edit(folder / "adapter_config.json", lora_alpha=2 * config["lora_alpha"])
    return folder


@pytest.mark.parametrize("change", [swap_in_place, another_folder, retrain_adapter, another_scale])
def test_another_adapter_reuses_nothing(
    models: Callable[..., Path],
    evaluate: Evaluate,
    goldens: Path,
    change: Callable[[Path, Path], Path],
) -> None:
    base, adapter = models("tiny-qwen2vl", "base"), models(RANDOM_ADAPTER, "adapter")
    settings = {"image_resolution": "low"}
    model = f"qwen2-vl:{base}"
    first = evaluate(model, adapter=str(adapter), **settings)
    again = evaluate(model, adapter=str(adapter), **settings)
    assert counts(again) == (0, counts(first)[0])
    changed = evaluate(model, adapter=str(change(adapter, goldens)), **settings)
    assert counts(changed) == (counts(first)[0], 0)


def test_an_adapter_and_its_base_alone_share_nothing_and_another_base_neither(
    models: Callable[..., Path], evaluate: Evaluate
) -> None:
    base, adapter = models("tiny-qwen2vl", "base"), models(RANDOM_ADAPTER, "adapter")
    settings = {"image_resolution": "low"}
    with_adapter = evaluate(f"qwen2-vl:{base}", adapter=str(adapter), **settings)
    computed = counts(with_adapter)[0]
    assert counts(evaluate(f"qwen2-vl:{base}", **settings)) == (computed, 0)
    retrain(base / "model.safetensors")
    other_base = evaluate(f"qwen2-vl:{base}", adapter=str(adapter), **settings)
    assert counts(other_base) == (computed, 0)


def test_a_module_changed_in_memory_is_another_encoder(
    goldens: Path, tmp_path: Path, make_task_folder: Any
) -> None:
    import torch

    data = make_task_folder("OK-VQA")
    options: dict[str, Any] = {"data_dir": data, "tasks": "OK-VQA"}
    encoder = mh.load_encoder(f"clip:{goldens}/models/tiny-clip", device="cpu")
    mh.evaluate(encoder, output_dir=tmp_path / "before", **options)
    assert mh.evaluate(encoder, output_dir=tmp_path / "again", **options).record.computed == 0
    with torch.no_grad():
        encoder.module.text_projection.weight.add_(0.1)
    changed = mh.evaluate(encoder, output_dir=tmp_path / "changed", **options)
    assert changed.record.computed > 0
    clean = mh.load_encoder(f"clip:{goldens}/models/tiny-clip", device="cpu")
    assert mh.evaluate(clean, output_dir=tmp_path / "clean", **options).record.computed == 0
    items = [mh.Item(text="a cat")]
    assert not np.array_equal(clean.encode(items), encoder.encode(items))


def test_weights_replaced_on_disk_after_loading_are_not_given_the_old_vectors(
    goldens: Path, tmp_path: Path, make_task_folder: Any
) -> None:

    data = make_task_folder("OK-VQA")
    options: dict[str, Any] = {"data_dir": data, "tasks": "OK-VQA"}
    folder = tmp_path / "model"
    shutil.copytree(goldens / "models/tiny-clip", folder)
    encoder = mh.load_encoder(f"clip:{folder}", device="cpu")
    encoder.encode([mh.Item(text="a cat")])
    tensors = {
        name: tensor + 0.1 for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    mh.evaluate(encoder, output_dir=tmp_path / "old", **options)
    new = mh.load_encoder(f"clip:{folder}", device="cpu")
    assert mh.evaluate(new, output_dir=tmp_path / "new", **options).record.computed > 0


def test_another_numeric_type_reuses_nothing(
    goldens: Path, tmp_path: Path, make_task_folder: Any
) -> None:
    data = make_task_folder("OK-VQA")
    options: dict[str, Any] = {"data_dir": data, "tasks": "OK-VQA", "device": "cpu"}
    model = f"clip:{goldens}/models/tiny-clip"
    for dtype in ("float32", "bfloat16"):
        done = mh.evaluate(model, output_dir=tmp_path / dtype, dtype=dtype, **options)
        assert done.record.computed > 0
        assert done.record.dtype == dtype


def test_a_tokenizer_saved_while_in_use_changes_no_vector(goldens: Path, tmp_path: Path) -> None:

    from tokenizers import Tokenizer

    folder = tmp_path / "model"
    shutil.copytree(goldens / "models/tiny-qwen2vl", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    items = [mh.Item(text="a text of rather more than eight tokens, whichever way they are cut")]
    one, other = (
        mh.load_encoder(f"qwen2-vl:{place}", device="cpu").encode(items)
        for place in (goldens / "models/tiny-qwen2vl", folder)
    )
    assert np.array_equal(one, other)
