"""Trainings of the toy in processes of their own, which die where they are told to.

Given a list of jobs as JSON, one after the other is run in a fork of this process, which has
imported everything already; how each ended is printed as JSON. A job names the `folder`, may change
`sections`, and may say that it is killed right before the so-manieth change to a file there
(`dies_at`), or that no file can become longer than `file_size` bytes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
"""What Python tells an audit hook of that changes files; a file opened to be read does not."""

Job = Mapping[str, Any]


def run_jobs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Run jobs in a process that forks; return for each `status` (negative: the signal that killed
    it), `error` if it failed, and how many `changes` to files it made."""
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, str(here)],
        input=json.dumps(list(jobs)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *_inherited()])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ended: list[dict[str, Any]] = json.loads(done.stdout)
    return ended


def _inherited() -> list[str]:
    return [one for one in [os.environ.get("PYTHONPATH")] if one]


def main() -> None:
    import torch
    from toy_training import train_toy

    torch.set_num_threads(1)  # a pool of threads would not be there in a fork
    with tempfile.TemporaryDirectory() as folder:
        train_toy(Path(folder) / "first")  # so that everything is imported, once for all forks
    print(json.dumps([_in_fork(job) for job in json.load(sys.stdin)]))


def _in_fork(job: Job) -> dict[str, Any]:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        os._exit(_work(job, tell))
    os.close(tell)
    with os.fdopen(told) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return {"error": None, **json.loads(said or "{}"), "status": os.waitstatus_to_exitcode(status)}


def _work(job: Job, tell: int) -> int:
    from mmeb_harness.errors import HarnessError
    from toy_training import train_toy

    count = _watch(Path(job["folder"]), job.get("dies_at"))
    if job.get("file_size"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    said: dict[str, Any] = {}
    try:
        train_toy(Path(job["folder"]), **job.get("sections", {}))
        status = 0
    except HarnessError as error:
        said["error"], status = str(error), error.exit_status
    except Exception as error:
        said["error"], status = f"{type(error).__name__}: {error}", 99
    os.write(tell, json.dumps({**said, "changes": len(count)}).encode())
    return status


def _watch(folder: Path, dies_at: int | None) -> list[str]:
    """Return a list that grows by a word with each change to a file in a folder."""
    seen: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen.append(f"{event} {arguments[0]}")
        if len(seen) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    return seen


if __name__ == "__main__":
    main()
