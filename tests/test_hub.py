"""Fetching from a Hub: what travels, what survives a cut, and what is refused."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub, running_hub
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.tasks.hub import RECORD, Fetched, fetch

pytestmark = pytest.mark.thorough

REPOSITORY = "TIGER-Lab/MMEB-eval"
SUBSETS = ("OK-VQA", "CIRR", "ImageNet-1K")
IMAGE = os.urandom(3000)
LARGE = os.urandom(400_000)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve MMEB-eval in small; huggingface_hub is let online, to the loopback only."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # not in __all__

    build_hf_headers()  # asks huggingface.co about coding agents, once, unless offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running_hub() as hub:
        hub.publish(REPOSITORY, published())
        yield hub
        close_session()


def table(subset: str) -> str:
    return f"{subset}/test-00000-of-00001.parquet"


def packed(members: dict[str, bytes]) -> bytes:
    """Zip members as they stand, without compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def published(**changes: bytes) -> dict[str, bytes]:
    """Return three subsets with two images each, in one archive; `images` replaces the archive."""
    images = {f"images/{name}/{n}.jpg": IMAGE + bytes([n]) for name in SUBSETS for n in range(2)}
    tables = {table(name): name.encode() * 500 for name in SUBSETS}
    archive = changes.get("images") or packed(images)
    return {**tables, "README.md": b"---\nconfigs: []\n---\n", "images.zip": archive}


def fetched(hub: Hub, folder: Path, *subsets: str, **options: object) -> Fetched:
    return fetch(REPOSITORY, subsets, folder, endpoint=hub.endpoint, **options)  # type: ignore[arg-type]  # as given


def found(folder: Path) -> set[str]:
    """List the visible files below a folder."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in paths if not path.startswith(".")}


def expected(*subsets: str) -> set[str]:
    files = {f"images/{name}/{n}.jpg" for name in subsets for n in range(2)}
    return files | {table(name) for name in subsets} | {"README.md"}


@dataclass
class Heard:
    """A progress that remembers."""

    totals: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def started(self, name: str, total_bytes: int) -> None:
        self.totals[name] = total_bytes
        self.current = name

    def advanced(self, n_bytes: int) -> None:
        self.bytes[self.current] = self.bytes.get(self.current, 0) + n_bytes

    def finished(self, name: str) -> None:
        self.done.append(name)

    def waiting(self, reason: str, seconds: float) -> None:
        self.waits.append(seconds)


# What arrives


def test_two_of_three_subsets_bring_only_their_files(hub: Hub, tmp_path: Path) -> None:
    repository, heard = hub.repositories[REPOSITORY], Heard()
    result = fetched(hub, tmp_path, "OK-VQA", "CIRR", "OK-VQA", progress=heard)
    assert found(tmp_path) == expected("OK-VQA", "CIRR")
    for path in (table("OK-VQA"), table("CIRR"), "README.md"):
        assert (tmp_path / path).read_bytes() == repository.files[path]
    assert (tmp_path / "images/CIRR/1.jpg").read_bytes() == IMAGE + b"\1"
    sizes = {path: len(content) for path, content in repository.files.items()}
    del sizes[table("ImageNet-1K")]
    assert hub.sent == sizes
    assert result == Fetched(
        revision=repository.commit,
        files=4,
        bytes_downloaded=sum(sizes.values()),
        images_unpacked=4,
        images_present=4,
    )
    assert heard.bytes == heard.totals == {**sizes, "images of images.zip": 4 * len(IMAGE + b"0")}
    assert set(heard.done) == set(heard.totals)


def test_the_folder_says_what_it_holds(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "CIRR")
    fetched(hub, tmp_path, "OK-VQA")
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["repository"] == REPOSITORY
    assert record["commit"] == hub.repositories[REPOSITORY].commit
    assert record["subsets"].keys() == {"CIRR", "OK-VQA"}
    assert record["subsets"]["CIRR"]["images"] == 2


def test_another_repository_needs_another_folder(hub: Hub, tmp_path: Path) -> None:
    hub.publish("someone/other", published())
    fetched(hub, tmp_path, "CIRR")
    with pytest.raises(UsageError, match=f"holds the data of {REPOSITORY}"):
        fetch("someone/other", ["CIRR"], tmp_path, endpoint=hub.endpoint)


def test_a_second_fetch_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    first = fetched(hub, tmp_path, *SUBSETS)
    hub.forget()
    second = fetched(hub, tmp_path, *SUBSETS)
    assert not hub.sent
    assert first.images_unpacked == first.images_present == 6
    assert (second.files, second.bytes_downloaded, second.images_unpacked) == (0, 0, 0)
    assert second.images_present == 6


def test_another_subset_needs_only_its_table(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "OK-VQA", "CIRR")
    hub.forget()
    result = fetched(hub, tmp_path, "ImageNet-1K")
    assert set(hub.sent) == {table("ImageNet-1K")}
    assert found(tmp_path) == expected(*SUBSETS)
    assert (result.images_unpacked, result.images_present) == (2, 2)


def test_the_archive_is_kept_until_all_of_it_is_unpacked(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "OK-VQA", "CIRR")
    [kept] = tmp_path.glob(".archives/*.zip")
    assert kept.read_bytes() == hub.repositories[REPOSITORY].files["images.zip"]
    fetched(hub, tmp_path, "ImageNet-1K")
    assert [path.name for path in (tmp_path / ".archives").iterdir()] == [".lock"]


def test_a_lost_image_is_unpacked_again_from_the_kept_archive(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "OK-VQA", "CIRR")
    (tmp_path / "images/CIRR/1.jpg").unlink()
    (tmp_path / "images/OK-VQA/0.jpg").write_bytes(b"cut sho")
    untouched = (tmp_path / "images/CIRR/0.jpg").stat()
    hub.forget()
    result = fetched(hub, tmp_path, "OK-VQA", "CIRR")
    assert (result.images_unpacked, result.images_present, dict(hub.sent)) == (2, 4, {})
    assert (tmp_path / "images/CIRR/1.jpg").read_bytes() == IMAGE + b"\1"
    assert (tmp_path / "images/OK-VQA/0.jpg").read_bytes() == IMAGE + b"\0"
    assert (tmp_path / "images/CIRR/0.jpg").stat().st_mtime_ns == untouched.st_mtime_ns


def test_an_image_of_other_bytes_is_replaced(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "images/CIRR").mkdir(parents=True)
    (tmp_path / "images/CIRR/0.jpg").write_bytes(bytes(len(IMAGE) + 1))
    assert fetched(hub, tmp_path, "CIRR").images_unpacked == 2
    assert (tmp_path / "images/CIRR/0.jpg").read_bytes() == IMAGE + b"\0"


def test_an_interrupted_unpack_goes_on(hub: Hub, tmp_path: Path) -> None:
    class Interrupts(Heard):
        def advanced(self, n_bytes: int) -> None:
            super().advanced(n_bytes)
            if self.current.startswith("images of") and self.bytes[self.current] > n_bytes:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(hub, tmp_path, *SUBSETS, progress=Interrupts())
    assert not (tmp_path / RECORD).exists()
    hub.forget()
    result = fetched(hub, tmp_path, *SUBSETS)
    assert set(hub.sent) <= {"README.md"}
    assert (result.images_unpacked, result.images_present) == (4, 6)


def test_a_lost_image_brings_a_spent_archive_back(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, *SUBSETS)
    (tmp_path / "images/CIRR/1.jpg").unlink()
    hub.forget()
    result = fetched(hub, tmp_path, "CIRR")
    assert set(hub.sent) == {"images.zip"}
    assert (result.images_unpacked, result.images_present) == (1, 2)


def test_files_brought_by_other_means_are_taken_by_their_digest(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories[REPOSITORY].files
    for name, content in ((SUBSETS[0], files[table(SUBSETS[0])]), (SUBSETS[1], b"x" * 2000)):
        (tmp_path / name).mkdir()
        (tmp_path / table(name)).write_bytes(content)
    assert len(files[table(SUBSETS[1])]) == 2000
    fetched(hub, tmp_path, *SUBSETS)
    assert table(SUBSETS[0]) not in hub.sent
    assert (tmp_path / table(SUBSETS[1])).read_bytes() == files[table(SUBSETS[1])]


def test_a_new_commit_brings_what_changed(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "OK-VQA", "CIRR")
    old = hub.repositories[REPOSITORY]
    files = dict(old.files)
    files["OK-VQA/test-00000-of-00002.parquet"] = files.pop(table("OK-VQA"))
    files["CIRR/test-00000-of-00002.parquet"] = files.pop(table("CIRR"))
    new = hub.publish(REPOSITORY, files)
    hub.forget()
    result = fetched(hub, tmp_path, "OK-VQA")
    assert result.revision == new.commit != old.commit
    assert set(hub.sent) == {"OK-VQA/test-00000-of-00002.parquet"}
    assert not (tmp_path / table("OK-VQA")).exists()
    assert (tmp_path / table("CIRR")).exists(), "nobody asked for CIRR at the new commit"
    with pytest.raises(UsageError, match="no revision"):
        fetched(hub, tmp_path, "OK-VQA", revision=old.commit)


# How it travels


def large(hub: Hub) -> str:
    """Publish one subset whose table is large, and no images; return the table's path."""
    hub.publish(REPOSITORY, {table("CIRR"): LARGE, "README.md": b""})
    return table("CIRR")


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_a_cut_download_resumes(hub: Hub, tmp_path: Path, resets: bool) -> None:
    path, heard = large(hub), Heard()
    hub.cuts[path], hub.resets = [50_000], resets  # few enough to lie in the client's buffer
    result = fetched(hub, tmp_path, "CIRR", progress=heard)
    assert (tmp_path / path).read_bytes() == LARGE
    first, second = hub.ranges[path]
    assert first == ""
    assert second.startswith("bytes=") and int(second[6:-1]) > 0
    again = hub.sent[path] - len(LARGE)
    assert 0 <= again <= 0.05 * len(LARGE), f"{again} bytes travelled twice"
    assert result.bytes_downloaded == heard.bytes[path] == len(LARGE)
    assert heard.waits == [1.0]


def test_an_interrupted_download_goes_on_in_the_next_fetch(hub: Hub, tmp_path: Path) -> None:
    class Interrupts(Heard):
        def advanced(self, n_bytes: int) -> None:
            super().advanced(n_bytes)
            if self.bytes[self.current] >= 150_000:
                raise KeyboardInterrupt

    path, heard = large(hub), Heard()
    hub.cuts[path] = [200_000]
    with pytest.raises(KeyboardInterrupt):
        fetched(hub, tmp_path, "CIRR", progress=Interrupts())
    assert not (tmp_path / path).exists()
    result = fetched(hub, tmp_path, "CIRR", progress=heard)
    assert (tmp_path / path).read_bytes() == LARGE
    assert result.bytes_downloaded <= len(LARGE) - 150_000
    assert heard.bytes[path] == heard.totals[path] == len(LARGE)


def test_a_server_without_ranges_is_served_from_the_start(hub: Hub, tmp_path: Path) -> None:
    path, heard = large(hub), Heard()
    hub.cuts[path], hub.ignores_ranges = [150_000], True
    fetched(hub, tmp_path, "CIRR", progress=heard)
    assert (tmp_path / path).read_bytes() == LARGE
    assert heard.bytes[path] == len(LARGE)


@pytest.mark.parametrize(
    ("status", "headers", "waits"),
    [
        (429, {"Retry-After": "2"}, [2.0]),
        (503, {}, [1.0]),
        (429, {"RateLimit": '"api";r=0;t=2'}, [2.0]),
    ],
)
def test_a_busy_hub_is_asked_again_as_it_wishes(
    hub: Hub, tmp_path: Path, status: int, headers: dict[str, str], waits: list[float]
) -> None:
    heard = Heard()
    hub.busy = [(status, headers)]
    fetched(hub, tmp_path, "CIRR", progress=heard)
    assert found(tmp_path) == expected("CIRR")
    assert heard.waits == waits


def test_a_hub_that_is_busy_in_the_middle_costs_nothing(hub: Hub, tmp_path: Path) -> None:
    class Overloads(Heard):
        def started(self, name: str, total_bytes: int) -> None:
            super().started(name, total_bytes)
            if name == path:
                hub.busy = [(500, {}), (429, {"Retry-After": "1"})]

    path, heard = large(hub), Overloads()
    fetched(hub, tmp_path, "CIRR", progress=heard)
    assert heard.waits == [1.0, 1.0]
    assert hub.sent[path] == len(LARGE)


def test_a_hub_that_asks_for_an_hour_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.busy = [(429, {"Retry-After": "3600"})]
    with pytest.raises(EnvironmentFault, match="status 429"):
        fetched(hub, tmp_path, "CIRR")


def test_redirects_are_followed(hub: Hub, tmp_path: Path) -> None:
    hub.redirects = True
    fetched(hub, tmp_path, "CIRR")
    assert found(tmp_path) == expected("CIRR")
    assert any(request.startswith("GET /cdn/") for request in hub.requests)


def test_two_fetches_at_once_download_once(hub: Hub, tmp_path: Path) -> None:
    results: list[Fetched] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetched(hub, tmp_path, *SUBSETS)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.files for result in results) == [0, 5]
    files = hub.repositories[REPOSITORY].files
    assert hub.sent == {path: len(content) for path, content in files.items()}


# What is refused


def test_wrong_bytes_are_not_taken(hub: Hub, tmp_path: Path) -> None:
    hub.corrupts = {table("CIRR")}
    with pytest.raises(EnvironmentFault, match="other bytes than the repository announces"):
        fetched(hub, tmp_path, "CIRR")
    assert not (tmp_path / table("CIRR")).exists()
    hub.corrupts.clear()
    fetched(hub, tmp_path, "CIRR")
    assert found(tmp_path) == expected("CIRR")


def test_an_unknown_subset_names_those_there_are(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'CIRR'.*CIRR, ImageNet-1K, OK-VQA"):
        fetched(hub, tmp_path, "OK-VQA", "CIR")
    assert not hub.sent


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "has no dataset repository"),
        (403, "GatedRepo", "is gated: accept its terms"),
        (401, "", "refuses access.*HF_TOKEN"),
    ],
)
def test_a_closed_repository_says_what_to_do(
    hub: Hub, tmp_path: Path, status: int, code: str, says: str
) -> None:
    hub.refuses[REPOSITORY] = (status, {"X-Error-Code": code} if code else {})
    with pytest.raises(EnvironmentFault, match=says):
        fetched(hub, tmp_path, "CIRR")


def test_what_is_no_repository_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="has no dataset repository nobody/nothing"):
        fetch("nobody/nothing", ["CIRR"], tmp_path, endpoint=hub.endpoint)
    with pytest.raises(UsageError, match="no name of a repository"):
        fetch("a/b/c", ["CIRR"], tmp_path, endpoint=hub.endpoint)


def test_no_network(hub: Hub, tmp_path: Path) -> None:
    heard, nobody = Heard(), "http://127.0.0.1:9"
    with pytest.raises(EnvironmentFault, match=f"{nobody} cannot be reached"):
        fetch(REPOSITORY, ["CIRR"], tmp_path, endpoint=nobody, progress=heard)
    assert heard.waits == [], "who was never reached is not waited for"


def test_a_disk_too_small_is_seen_before_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    hub.claims["images.zip"] = 10**18
    with pytest.raises(EnvironmentFault, match="GB are still to come"):
        fetched(hub, tmp_path, "CIRR")
    assert not hub.sent


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk always full")
def test_a_disk_that_fills_up_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    fetched(hub, tmp_path, "OK-VQA")
    digest = hub.repositories[REPOSITORY].entry(table("CIRR"))["lfs"]["oid"]
    full = tmp_path / f".archives/CIRR--test-00000-of-00001-{digest[:12]}.parquet.partial"
    full.symlink_to("/dev/full")
    with pytest.raises(EnvironmentFault, match="is full; what came is kept"):
        fetched(hub, tmp_path, "CIRR")
    assert found(tmp_path) == expected("OK-VQA")


# What archives hold


def test_unpacking_is_light_on_layout(hub: Hub, tmp_path: Path) -> None:
    """Subsets' folders may be wrapped or bare; what belongs to no subset is everyone's."""
    layouts: list[tuple[dict[str, bytes], str]] = [
        ({"CIRR/a.jpg": IMAGE, "OK-VQA/b.jpg": IMAGE}, "images/CIRR/a.jpg"),
        ({"CIRR/deep/a.jpg": IMAGE}, "images/CIRR/deep/a.jpg"),
        ({"whatever/CIRR/a.jpg": IMAGE, "whatever/OK-VQA/b.jpg": IMAGE}, "images/CIRR/a.jpg"),
        ({"CIRR/OK-VQA/a.jpg": IMAGE}, "images/CIRR/OK-VQA/a.jpg"),
        ({"eval_images/shared/a.jpg": IMAGE}, "images/shared/a.jpg"),
        ({"shared/a.jpg": IMAGE, "OK-VQA/b.jpg": IMAGE}, "images/shared/a.jpg"),
    ]
    for number, (members, place) in enumerate(layouts):
        hub.publish(REPOSITORY, published(images=packed(members)))
        folder = tmp_path / str(number)
        fetched(hub, folder, "CIRR")
        assert {path for path in found(folder) if path.startswith("images/")} == {place}


@pytest.mark.parametrize("area", ["", "images/", "images_zip/"])
@pytest.mark.parametrize("inside", ["", "CIRR/", "images/CIRR/", "images/", "deep/"])
def test_an_archive_a_subset(hub: Hub, tmp_path: Path, area: str, inside: str) -> None:
    archives = {
        f"{area}{name}.zip": packed({f"{inside}a.jpg": IMAGE}) for name in ("CIRR", "NIGHTS")
    }
    tables = {table(name): b"rows" for name in ("CIRR", "NIGHTS")}
    hub.publish(REPOSITORY, {**tables, **archives})
    fetched(hub, tmp_path, "CIRR")
    place = "images/CIRR/deep/a.jpg" if inside == "deep/" else "images/CIRR/a.jpg"
    assert found(tmp_path) == {table("CIRR"), place}
    assert set(hub.sent) == {table("CIRR"), f"{area}CIRR.zip"}
    assert not list(tmp_path.glob(".archives/*.zip"))


def test_litter_is_left_in_the_archive(hub: Hub, tmp_path: Path) -> None:
    litter = {"__MACOSX/images/CIRR/b.jpg": b"x", "images/CIRR/._a.jpg": b"x"}
    litter |= {"images/.DS_Store": b"x", "images/CIRR/.DS_Store": b"x"}
    hub.publish(REPOSITORY, published(images=packed({"images/CIRR/a.jpg": IMAGE, **litter})))
    fetched(hub, tmp_path, "CIRR")
    assert found(tmp_path) == {table("CIRR"), "README.md", "images/CIRR/a.jpg"}


def link(name: str, target: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("CIRR/../../../climber.jpg", "climbs out"),
        ("CIRR\\..\\..\\climber.jpg", "climbs out"),
        (".", "climbs out"),
        ("/tmp/absolute.jpg", "absolute path"),
        ("C:\\absolute.jpg", "absolute path"),
        ("CIRR/link.jpg", "is a link"),
    ],
)
def test_an_unsafe_member_is_refused(hub: Hub, tmp_path: Path, name: str, says: str) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("CIRR/a.jpg", IMAGE)
        archive.writestr(link(name, "/etc") if "link" in name else name, b"/etc/passwd")
    hub.publish(REPOSITORY, published(images=buffer.getvalue()))
    folder = tmp_path / "deep/data"
    with pytest.raises(EnvironmentFault, match=says) as caught:
        fetched(hub, folder, "CIRR")
    assert repr(name) in str(caught.value)
    outside = {
        path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents
    }
    assert not outside
    assert not (folder / "images").exists(), "nothing is unpacked from an archive that is unsafe"
    assert not (folder / RECORD).exists()


@pytest.mark.parametrize("damage", ["no archive", "bad checksum"])
def test_a_damaged_archive_is_named(hub: Hub, tmp_path: Path, damage: str) -> None:
    archive = packed({"CIRR/a.jpg": IMAGE})
    broken = b"<html>" if damage == "no archive" else archive.replace(IMAGE[:20], IMAGE[20:40], 1)
    hub.publish(REPOSITORY, published(images=broken))
    with pytest.raises(EnvironmentFault, match=r"cannot unpack .*images-.*\.zip"):
        fetched(hub, tmp_path, "CIRR")
    assert found(tmp_path) == {table("CIRR"), "README.md"}


# The environment


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, timeout=60, check=False
    )


FETCH = f"""
import sys
from pathlib import Path
from typing import Any
from mmeb_harness.errors import HarnessError
from mmeb_harness.tasks.hub import fetch
assert "huggingface_hub" not in sys.modules, "importing is light"
try:
    print(fetch({REPOSITORY!r}, ["CIRR"], Path(sys.argv[1] if len(sys.argv) > 1 else "DATA")))
except HarnessError as error:
    sys.exit(f"{{error.exit_status}} {{error}}")
"""


def test_hf_endpoint_and_hf_token_keep_their_meaning(hub: Hub, tmp_path: Path) -> None:
    code = FETCH.replace('"DATA"', repr(str(tmp_path / "data")))
    done = run_python(code, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_secret", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "data") == expected("CIRR")
    assert hub.tokens == {"Bearer hf_secret"}
    assert done.stderr == "", "nothing but our own progress is shown"


def test_offline_says_so(hub: Hub, tmp_path: Path) -> None:
    code = FETCH.replace('"DATA"', repr(str(tmp_path / "data")))
    done = run_python(code, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.stderr.startswith(f"3 {REPOSITORY} cannot be fetched while HF_HUB_OFFLINE is set")
    assert not hub.requests


# -- training data ---------------------------------------------------------------------------------

TRAINING = "TIGER-Lab/MMEB-train"


def of_split(subset: str, split: str) -> str:
    return f"{subset}/{split}-00000-of-00001.parquet"


@pytest.fixture
def training(hub: Hub, goldens: Path) -> dict[str, bytes]:
    """Publish MMEB-train in small: real tables in three splits, an archive of images a subset."""
    files = {"README.md": b"---\nconfigs: []\n---\n"}
    for subset in ("CIRR", "ImageNet_1K", "MSCOCO_t2i"):
        rows = (goldens / "data/train" / of_split(subset, "original")).read_bytes()
        files |= {of_split(subset, "original"): rows, of_split(subset, "train"): b"older"}
        images = (goldens / "data/train_images/images" / subset).iterdir()
        archive = packed({f"{subset}/{image.name}": image.read_bytes() for image in images})
        files[f"images_zip/{subset}.zip"] = archive
    files[of_split("CIRR", "diverse_instruction")] = files[of_split("CIRR", "original")]
    hub.publish(TRAINING, files)
    return files


def train_on(folder: Path, names: str) -> list[Any]:
    from mmeb_harness.registry import build_registry
    from mmeb_harness.trainconfig import DataSection
    from mmeb_harness.trainingdata import load_training_data

    section = DataSection(suite="mmeb", subsets=names)
    return load_training_data(section, build_registry({}), folder, 42)


def test_training_data_is_cut_resumed_and_read(
    hub: Hub, training: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "training/mmeb"
    wanted = ["CIRR", "ImageNet_1K"]
    chosen = {of_split(name, "original") for name in wanted} | {"README.md"}
    chosen |= {f"images_zip/{name}.zip" for name in wanted}
    hub.cuts["images_zip/CIRR.zip"] = [20_000]
    hub.resets = True
    heard = Heard()
    result = fetch(
        TRAINING, wanted, folder, split="original", endpoint=hub.endpoint, progress=heard
    )
    assert set(hub.sent) == chosen, "no other split, no other subset"
    assert hub.ranges["images_zip/CIRR.zip"][1].startswith("bytes=")
    assert heard.waits == [1.0]
    images = sum(len(subset) for subset in (training_images(folder, name) for name in wanted))
    assert result.images_unpacked == result.images_present == images == 64
    hub.forget()
    again = fetch(TRAINING, wanted, folder, split="original", endpoint=hub.endpoint)
    assert (dict(hub.sent), again.files, again.images_present) == ({}, 0, 64)
    cirr, imagenet = train_on(tmp_path, "CIRR,ImageNet-1K")
    assert (len(cirr.pairs), len(imagenet.pairs)) == (16, 16)
    for pair in (*cirr.pairs, *imagenet.pairs):
        assert Path(pair.query.image).read_bytes()


def training_images(folder: Path, subset: str) -> list[Path]:
    return list((folder / "images" / subset).iterdir())


def test_another_split_needs_only_its_tables_and_leaves_the_first(
    hub: Hub, training: dict[str, bytes], tmp_path: Path
) -> None:
    fetch(TRAINING, ["CIRR"], tmp_path, split="original", endpoint=hub.endpoint)
    hub.forget()
    fetch(TRAINING, ["CIRR"], tmp_path, split="diverse_instruction", endpoint=hub.endpoint)
    assert set(hub.sent) == {of_split("CIRR", "diverse_instruction")}
    files = dict(training)
    files["CIRR/original-00000-of-00002.parquet"] = files.pop(of_split("CIRR", "original"))
    hub.publish(TRAINING, files)
    fetch(TRAINING, ["CIRR"], tmp_path, split="original", endpoint=hub.endpoint)
    tables = {path.name for path in (tmp_path / "CIRR").iterdir()}
    assert tables == {
        "original-00000-of-00002.parquet",
        "diverse_instruction-00000-of-00001.parquet",
    }


def test_an_unknown_split_names_the_nearest(
    hub: Hub, training: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown split 'orignal'; did you mean 'original'"):
        fetch(TRAINING, ["CIRR"], tmp_path, split="orignal", endpoint=hub.endpoint)
    with pytest.raises(UsageError, match=r"unknown subset 'MSCOCO_t2i'.*subsets of .*: CIRR\)"):
        fetch(
            TRAINING, ["MSCOCO_t2i"], tmp_path, split="diverse_instruction", endpoint=hub.endpoint
        )


def command(hub: Hub, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"from mmeb_harness.cli import main\nmain({['data', 'fetch', *words]!r})"
    return run_python(
        code,
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(tmp_path),
        MMEB_HARNESS_CACHE_DIR=str(tmp_path / "cache"),
        MMEB_HARNESS_DATA_DIR=str(tmp_path / "to be scored on"),
    )


def test_the_command_brings_training_data_to_where_training_looks_for_it(
    hub: Hub, training: dict[str, bytes], tmp_path: Path
) -> None:
    done = command(hub, tmp_path, "--training", "-t", "CIRR,MSCOCO_t2i")
    assert done.returncode == 0, done.stderr
    assert "2 tasks in" in done.stdout and "5 files" in done.stdout
    assert not (tmp_path / "to be scored on").exists()
    cirr, coco = train_on(tmp_path / "cache", "CIRR,MSCOCO_t2i")
    assert Path(coco.pairs[0].positive.image).is_file()
    assert Path(cirr.pairs[0].negative.image).is_file()
    typed = ("--data-dir", str(tmp_path / "typed"), "--split", "diverse_instruction")
    done = command(hub, tmp_path, "--training", "-t", "CIRR", *typed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "typed" / of_split("CIRR", "diverse_instruction")).is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--training", "-t", "GQA"], "GQA: without a training part"),
        (["--split", "original"], "give --training with it"),
    ],
)
def test_the_command_refuses_what_has_no_training_part(
    hub: Hub, tmp_path: Path, words: list[str], told: str
) -> None:
    done = command(hub, tmp_path, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not hub.requests


# -- weights of models -----------------------------------------------------------------------------


def test_older_weights_are_fetched_where_a_model_has_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fnmatch import fnmatch

    from mmeb_harness.hub import fetch_weights

    remote = {
        "me/new": ["config.json", "model.safetensors", "pytorch_model.bin"],
        "me/old": [
            "config.json",
            "pytorch_model-00001-of-00002.bin",
            "pytorch_model.bin.index.json",
        ],
        "me/adapter": ["adapter_config.json", "adapter_model.bin", "optimizer.bin"],
    }

    def snapshot_download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        folder = tmp_path / "hub" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in remote[name]:
            if any(fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    fetched = {name: {path.name for path in fetch_weights(name, None).iterdir()} for name in remote}
    assert fetched["me/new"] == {"config.json", "model.safetensors"}
    assert fetched["me/old"] == set(remote["me/old"])
    assert fetched["me/adapter"] == {"adapter_config.json", "adapter_model.bin"}
