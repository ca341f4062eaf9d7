"""Three ways to source files: made, from a mirror, downloaded. Each is checked."""

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ldebm.config import DataConfig
from ldebm.data.fetch import Downloader, extract_member, fetch
from ldebm.data.registry import SOURCES, Download, Source, SourceFile, find_source
from ldebm.errors import UsageError
from ldebm.files import hash_path

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CONFIG = DataConfig(kind="sentences", source="toy")


class Server(ThreadingHTTPServer):
    content = CONTENT
    cut = 0  # break the connection off after so many bytes, once
    ranges: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/file")
            self.end_headers()
            return
        if self.path == "/absent":
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self.server.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cut:
            body, self.server.cut = body[: self.server.cut], 0
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Keeps the test output quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.ranges = []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def _source(server: Server, path: str = "/file", **download: Any) -> Source:
    url = f"http://127.0.0.1:{server.server_address[1]}{path}"
    options = {"sha256": DIGEST, "bytes": len(CONTENT), **download}
    file = SourceFile("toy.bin", DIGEST, len(CONTENT), Download(url, **options))
    return Source("toy", "sentences", "toy", "none", "none", "toy", [file])


def _downloader(folder: Path) -> Downloader:
    return Downloader(folder / "parts", timeout=5, schemes=("http", "https"))


def test_a_broken_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut = 300_000
    fetch(_source(server), CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    assert hash_path(tmp_path / "raw" / "toy.bin") == DIGEST
    assert server.ranges[0] is None
    assert server.ranges[1] is not None
    assert server.ranges[1].startswith("bytes=")
    assert not list((tmp_path / "parts").iterdir())


def test_a_second_run_continues_what_the_first_left(server: Server, tmp_path: Path) -> None:
    server.cut = 300_000
    once = Downloader(tmp_path / "parts", timeout=5, attempts=1, schemes=("http",))
    with pytest.raises(UsageError, match="it continues where it stopped"):
        fetch(_source(server), CONFIG, tmp_path / "raw", None, once)
    assert not (tmp_path / "raw" / "toy.bin").exists()
    fetch(_source(server), CONFIG, tmp_path / "raw", None, once)
    assert hash_path(tmp_path / "raw" / "toy.bin") == DIGEST
    assert server.ranges[1] is not None


def test_a_wrong_sha256_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    server.content = b"x" * len(CONTENT)
    with pytest.raises(UsageError, match=f"wrong sha256: expected {DIGEST}, found"):
        fetch(_source(server), CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    assert not list(tmp_path.rglob("*.bin"))
    assert not list((tmp_path / "parts").iterdir())


def test_a_file_larger_than_announced_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than the 1000 expected"):
        fetch(_source(server, bytes=1000), CONFIG, tmp_path / "raw", None, _downloader(tmp_path))


def test_only_https_is_downloaded_and_redirects_are_checked(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only https addresses"):
        fetch(_source(server), CONFIG, tmp_path / "raw", None, Downloader(tmp_path / "parts"))
    with pytest.raises(UsageError, match=r"ftp://.*only http or https"):
        fetch(_source(server, "/moved"), CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    for source in SOURCES.values():
        assert all(f.download is None or f.download.url.startswith("https:") for f in source.files)


def test_no_network_says_to_set_the_mirror(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"set LDEBM_DATA_MIRROR to a folder .* toy/toy\.bin"):
        fetch(_source(server, "/absent"), CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    closed = _source(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(UsageError, match="cannot be downloaded"):
        fetch(closed, CONFIG, tmp_path / "raw", tmp_path, _downloader(tmp_path))


def test_without_a_known_sha256_the_parameters_must_give_one(
    server: Server, tmp_path: Path
) -> None:
    source = _source(server, sha256=None)
    with pytest.raises(UsageError, match=r"checksums: \{toy\.bin: SHA256\}"):
        fetch(source, CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    assert not server.ranges
    known = CONFIG.model_copy(update={"checksums": {"toy.bin": DIGEST}})
    fetch(source, known, tmp_path / "raw", None, _downloader(tmp_path))
    assert hash_path(tmp_path / "raw" / "toy.bin") == DIGEST


def test_members_of_an_archive_are_checked_and_the_archive_is_loaded_once(
    server: Server, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside/a.txt", "alpha")
        archive.writestr("inside/b.txt", "beta")
    server.content = packed.getvalue()
    url = f"http://127.0.0.1:{server.server_address[1]}/file"
    files = [
        SourceFile(name, digest, None, Download(url, digest, member=f"inside/{name}"))
        for name, text in (("a.txt", b"alpha"), ("b.txt", b"beta"))
        for digest in [hashlib.sha256(text).hexdigest()]
    ]
    source = Source("toy", "sentences", "toy", "none", "none", "toy", files)
    fetch(source, CONFIG, tmp_path / "raw", None, _downloader(tmp_path))
    assert (tmp_path / "raw" / "b.txt").read_text() == "beta"
    assert len(server.ranges) == 1


def test_the_mirror_is_used_before_the_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "toy.bin").write_bytes(CONTENT)
    fetch(_source(server), CONFIG, tmp_path / "raw", tmp_path / "mirror")
    assert hash_path(tmp_path / "raw" / "toy.bin") == DIGEST
    assert not server.ranges
    (tmp_path / "mirror" / "toy" / "toy.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match="wrong sha256"):
        fetch(_source(server), CONFIG, tmp_path / "again", tmp_path / "mirror")
    assert not list(tmp_path.glob("again/*"))


def test_a_missing_mirror_file_without_download_says_what_to_supply(tmp_path: Path) -> None:
    config = DataConfig(kind="dialogues", source="daily_dialog")
    with pytest.raises(
        UsageError, match=r"daily_dialog/train/dialogues\.txt is not in the mirror .*; .*supply"
    ):
        fetch(SOURCES["daily_dialog"], config, tmp_path / "raw", tmp_path)
    config = DataConfig(kind="sentences", source="jericho")
    with pytest.raises(UsageError, match=r"no file to fetch: .*train\.json and test\.json"):
        fetch(SOURCES["jericho"], config, tmp_path / "raw", tmp_path)


def test_archives_write_only_where_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("../../evil", b"evil"), ("good", b"good")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    extract_member(path, "../../evil", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"evil"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.tar.gz", "out"]
    for member in ("link", "absent"):
        with pytest.raises(UsageError, match="holds no file"):
            extract_member(path, member, tmp_path / "out")
    with pytest.raises(UsageError, match="more than the 3 bytes"):
        extract_member(path, "good", tmp_path / "out", limit=3)
    path.write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(UsageError, match="damaged archive"):
        extract_member(path, "good", tmp_path / "out")


@pytest.mark.parametrize("name", ["gaussians16", "pinwheel10", "chatter", "digits"])
def test_generators_write_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    kind = "dialogues" if name == "chatter" else "points"
    config = DataConfig(kind=kind, source=name, train=200, valid=20, test=20)
    for folder in ("one", "two"):
        fetch(SOURCES[name], config, tmp_path / folder)
    assert hash_path(tmp_path / "one") == hash_path(tmp_path / "two")


def test_a_users_file_is_copied_and_checked(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a b c\n")
    config = DataConfig(kind="sentences", source="file", path=str(tmp_path / "mine.txt"))
    fetch(None, config, tmp_path / "raw")
    assert (tmp_path / "raw" / "mine.txt").read_text() == "a b c\n"
    wrong = config.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UsageError, match="wrong sha256"):
        fetch(None, wrong, tmp_path / "raw2")
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="the file is empty"):
        fetch(None, config, tmp_path / "raw2")
    gone = config.model_copy(update={"path": str(tmp_path / "gone.txt")})
    with pytest.raises(UsageError, match="no such file"):
        fetch(None, gone, tmp_path / "raw2")


def test_the_registry_knows_every_data_set_of_the_papers() -> None:
    names = (
        "gaussians16 pinwheel10 chatter digits ptb jericho daily_dialog kvret yelp_li yelp_shen "
        "sst2 agnews rt_polarity wikitext2 mnist cifar10 celeba64 celebahq256 lsun_church "
        "svhn glove"
    )
    assert set(names.split()) <= set(SOURCES)
    for source in SOURCES.values():
        assert source.generator or source.files or source.supply
        assert source.licence
        assert source.citation
        assert all(f.sha256 is None or len(f.sha256) == 64 for f in source.files)
    with pytest.raises(UsageError, match="did you mean 'gaussians16'"):
        find_source("gausians16")
