"""Runs a script of `tests/distributed` in several processes at once, as launchers start them.

A script calls `go_through` with its checks; each process notes every check that it has passed, so
that one which was left out shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

SCRIPTS = Path(__file__).parent / "distributed"
LIMIT = 120
"""Seconds after which processes that wait for one another for ever are ended."""

ACCELERATE = """
from mmeb_harness.plugins.vision_ops import mend_torchvision
mend_torchvision()  # which accelerate's command line imports
from accelerate.commands.accelerate_cli import main
main()
"""


def torchrun(processes: int) -> list[str]:
    """Return the words that start so many processes of a script with torchrun."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def accelerate_launch(processes: int) -> list[str]:
    """Return the words that start so many processes of a script with `accelerate launch`."""
    settings = ["--num_machines=1", "--mixed_precision=bf16", "--dynamo_backend=no"]
    several = ["--multi_gpu", f"--num_processes={processes}", "--main_process_port=0"]
    return ["-c", ACCELERATE, "launch", *several, *settings]


def run_together(
    script: str,
    processes: int,
    folder: Path,
    *arguments: str,
    launcher: Callable[[int], list[str]] = torchrun,
) -> list[list[str]]:
    """Return the checks that each process passed, by its number; raise if any process failed."""
    command = [sys.executable, *launcher(processes), SCRIPTS / script, folder, *arguments]
    here = os.pathsep.join([str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [(folder / f"{rank}.txt").read_text().split("\n") for rank in range(processes)]


def go_through(checks: Mapping[str, Callable[[], None]], rank: int) -> None:
    """Run checks in this process, warnings as errors, and note those that it has passed."""
    notes = Path(sys.argv[1]) / f"{rank}.txt"
    passed = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, check in checks.items():
            check()
            passed.append(name)
    notes.write_text("\n".join(passed))
