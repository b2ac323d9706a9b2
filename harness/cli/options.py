"""Options that several commands share, each with its environment variable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from mmeb_harness.errors import UsageError


def option(*names: str, help: str, **settings: Any) -> Any:
    """Make an option that can also come from MMEB_HARNESS_<ITS LONG NAME>."""
    long = next(name for name in names if name.startswith("--"))
    variable = "MMEB_HARNESS_" + long.partition("/")[0].lstrip("-").replace("-", "_").upper()
    return typer.Option(*names, help=help, envvar=variable, show_envvar=False, **settings)


Model = Annotated[
    str | None,
    option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A card's name, PLUGIN:REFERENCE (folder or Hub id), or a trained folder. "
        "See `mmeb-harness list models`.",
    ),
]
ModelOptions = Annotated[
    list[str] | None,
    option(
        "-M",
        "--model-option",
        metavar="KEY=VALUE",
        help="Change a field of the card; repeatable. For instance -M image_resolution=low.",
    ),
]
Tasks = Annotated[
    str | None,
    option(
        "-t",
        "--tasks",
        metavar="TASKS",
        help="Names, or all, ind, ood, classification, vqa, retrieval, grounding; comma-separated.",
    ),
]
DataDir = Annotated[
    Path | None,
    option("--data-dir", metavar="DIR", help="Data in a published layout (default: the cache)."),
]
ImageDir = Annotated[
    Path | None,
    option(
        "--image-dir",
        metavar="DIR",
        help="Root of the image paths (default: DIR/images, DIR/eval_images or DIR).",
    ),
]
CacheDir = Annotated[
    Path | None,
    option("--cache-dir", metavar="DIR", help="Vectors, data and file digests kept across runs."),
]
Device = Annotated[
    str | None, option("--device", help="cpu, cuda, cuda:1, mps (default: the best there is).")
]
Dtype = Annotated[
    str | None,
    option("--dtype", help="float32, bfloat16, float16 (default: bfloat16 on an accelerator)."),
]
BatchTokens = Annotated[
    int | None, option("--batch-tokens", metavar="N", help="Padded tokens in a batch, at most.")
]
Packing = Annotated[
    str,
    option(
        "--packing",
        help="on: a batch's items end to end, without padding; off: side by side; auto: what is "
        "quicker. No vector depends on it.",
    ),
]
Engine = Annotated[
    str | None,
    option(
        "--engine",
        help="local: this process and one device (the default); ray: many, on the cluster of "
        "RAY_ADDRESS or on this machine ([ray] extra; --gpus and --actors choose it).",
    ),
]
Gpus = Annotated[
    int | None,
    option("--gpus", metavar="N", help="So many GPUs, a copy of the model on each, with Ray."),
]
Actors = Annotated[
    int | None,
    option(
        "--actors",
        metavar="N",
        help="So many copies of the model, with Ray: a GPU each, or a share of the CPU's cores "
        "(default: one for each GPU).",
    ),
]
Workers = Annotated[
    int | None,
    option(
        "--workers", metavar="N", help="Preprocessing processes (0: none); with Ray, of each actor."
    ),
]
Offline = Annotated[
    bool, option("--offline", help="Never ask the Hub; use what is on this machine.")
]
AsJson = Annotated[bool, option("--json", help="Print one JSON object on stdout, nothing else.")]


def parse_pairs(pairs: Iterable[str] | None) -> dict[str, str]:
    """Split `key=value` words. Raises UsageError for one without `=`."""
    parsed = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"-M {pair}: write it as KEY=VALUE")
        parsed[key.replace("-", "_")] = value
    return parsed


def go_offline(offline: bool) -> None:
    """Keep the Hub's libraries from the network; before they are imported."""
    if offline:
        import os

        os.environ["HF_HUB_OFFLINE"] = "1"
