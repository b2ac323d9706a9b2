"""How much memory a training step takes as the batch grows, with chunks of one budget.

Each batch size runs in a process of its own, which measures how far its resident memory rises from
before the batch is prepared to the highest point of preparing and the step (on a GPU also what the
step allocates there). Beside it stands what has to grow: the prepared inputs (pixels, token ids),
the frozen tower's features, the vectors with their gradients, and the loss's matrix of scores.
What is left has to be flat.

The allocator of the C library keeps freed memory for itself, more with every kind of chunk that it
has seen. So that it is the step that is measured, and not that, it is told to give every larger
piece back at once (MALLOC_MMAP_THRESHOLD_); `--usual-allocator` leaves it as it is.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measuring
from measuring import described, say
from mixed_pairs import Pictures, draw_pairs
from mmeb_harness.trainers.chunks import Preparer
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.processes import Processes
from mmeb_harness.trainers.step import Stepper
from random_qwen import SIZES, make_encoder, put_under_training, shape_of
from training_step import training_config

if TYPE_CHECKING:
    import torch

MB = 1e6
PIECE = 1 << 18
"""Bytes from which on a piece of memory is large."""

SCORES = 3
"""Matrices of scores that the loss has at once: scores, their softmax, its gradient."""


def measured(arguments: argparse.Namespace, pairs: int) -> dict[str, Any]:
    """Run one step in this process and return what it took, in bytes."""
    config = training_config(arguments)
    with tempfile.TemporaryDirectory() as folder:
        encoder = make_encoder(
            arguments.model,
            Path(folder),
            device=arguments.device,
            dtype=config.weights_dtype(arguments.device),
            resolution=arguments.resolution,
        )
        parameters = put_under_training(encoder, config)
        batch = list(islice(draw_pairs(arguments.seed, Pictures(arguments.seed)), pairs))
        preparer = Preparer(encoder=encoder, tokens=arguments.chunk_tokens)
        stepper = Stepper(
            encoder,
            InfoNCE(temperature=config.loss.temperature),
            preparer,
            Processes(),
            precision=config.precision_on(arguments.device),
        )
        stepper.gradients([preparer(batch[:2])], parameters)  # what is loaded and made only once
        level, device_level = forget_peaks(arguments.device)
        ready = preparer(batch)
        inputs = sum(one.nbytes for chunk in ready.chunks for one in tensors(chunk.batch))
        places = sum(int(chunk.batch.is_image_BL.sum()) for chunk in ready.chunks)
        facts = {
            "items": len(ready.codes_I),
            "chunks": len(ready.chunks),
            "model": shape_of(encoder),
        }
        stepper.gradients([ready], parameters)
        size = encoder.module.get_input_embeddings().weight
        return facts | {
            "peak": now("VmHWM") - level,
            "inputs": inputs,
            "features": places * size.shape[1] * size.element_size(),
            "vectors": 2 * 4 * facts["items"] * size.shape[1] + SCORES * 4 * pairs * pairs,
            "device": device_peak(arguments.device) - device_level,
        }


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a prepared batch."""
    import torch

    for one in value.values() if isinstance(value, dict) else vars(value).values():
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, dict):
            yield from tensors(one)


def now(name: str) -> int:
    """Return a number of bytes that the kernel knows of this process: VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def forget_peaks(device: str) -> tuple[int, int]:
    """Let peaks count from now; return the memory in use, the process's and the device's."""
    import torch

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what is free already would be counted as in use
    Path("/proc/self/clear_refs").write_text("5")
    if not device.startswith("cuda"):
        return now("VmRSS"), 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return now("VmRSS"), torch.cuda.memory_allocated()


def device_peak(device: str) -> int:
    """Return the most that was allocated on the device."""
    import torch

    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0


def in_own_process(pairs: int, usual_allocator: bool) -> dict[str, Any]:
    """Measure a batch size in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(pairs)]
    settings = {} if usual_allocator else {"MALLOC_MMAP_THRESHOLD_": str(PIECE)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **settings}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    say(f"{pairs} pairs: {found}")
    return found


def report(found: dict[int, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Return the section of results."""
    on_device = arguments.device.startswith("cuda")
    head = ["pairs", "items", "chunks", "peak MB", "inputs", "features", "vectors", "what is left"]
    head += ["on the device", "less vectors"] if on_device else []
    rows = []
    for pairs, one in found.items():
        known = [one[name] for name in ("inputs", "features", "vectors")]
        row = [one["peak"], *known, one["peak"] - sum(known)]
        row += [one["device"], one["device"] - one["vectors"]] if on_device else []
        rows.append([pairs, one["items"], one["chunks"], *(f"{cell / MB:.0f}" for cell in row)])
    title = (
        f"Memory of a training step: {arguments.model}, chunks of {arguments.chunk_tokens} tokens"
    )
    allocator = "; the allocator as it is" if arguments.usual_allocator else ""
    left = [float(row[7]) for row in rows]
    return "\n".join(
        [
            measuring.heading(title, arguments.device),
            f"{next(iter(found.values()))['model']}; resolution {arguments.resolution}; MB of 10^6 "
            f"bytes above the level before the batch is prepared{allocator}.\n",
            measuring.table(head, rows),
            f"\n**What is left: from {min(left):.0f} to {max(left):.0f} MB.**\n",
        ]
    )


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = described(__doc__)
    parser.add_argument("--model", choices=SIZES, default="10m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512], help="pairs"
    )
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--resolution", default="low")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--usual-allocator", action="store_true")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    """Measure, and print the section of results."""
    arguments = read_arguments()
    if arguments.only:
        print(json.dumps(measured(arguments, arguments.only)))
    else:
        found = {
            pairs: in_own_process(pairs, arguments.usual_allocator) for pairs in arguments.batches
        }
        print(report(found, arguments))


if __name__ == "__main__":
    main()
