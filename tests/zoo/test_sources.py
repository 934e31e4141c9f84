"""Images from folders and from addresses; the server is local and misbehaves on request."""

import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from metanet.errors import ZooError
from metanet.zoo import images, sources
from metanet.zoo.download import download
from metanet.zoo.image_files import read_cifar, read_idx
from metanet.zoo.images import load_images
from metanet.zoo.sources import SOURCES, Source, fetch_images

REAL = os.environ.get("METANET_IMAGES")


def sha(content):
    return hashlib.sha256(content).hexdigest()


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Server:
    """Serves ``files``; ``broken`` connections first end after half of what is left; ``ranges`` says whether it can."""

    def __init__(self, files):
        self.files, self.broken, self.ranges, self.asked = files, 0, True, []
        state = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                state.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request):
        content, wanted = self.files.get(request.path[1:]), request.headers.get("Range")
        self.asked.append((request.path[1:], wanted))
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if content is None or (start and start >= len(content)):
            request.send_error(404 if content is None else 416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        body = content[start:]
        if self.broken:
            self.broken, body = self.broken - 1, body[: len(body) // 2]
        request.wfile.write(body)

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def make_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []
    yield lambda files: servers.append(Server(files)) or servers[-1]
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server):
    return make_server({"file": bytes(range(256)) * 2000})


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("METANET_IMAGES", raising=False)
    images._load.cache_clear()
    yield
    images._load.cache_clear()


@pytest.fixture
def grey(make_server, monkeypatch):
    """A source in the layout of MNIST: 6 + 3 images of 4x4."""
    rng, contents = np.random.default_rng(0), {}
    for part, n in (("train", 6), ("t10k", 3)):
        contents[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, n, dtype=np.uint8))
    packed = {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}
    server = make_server(packed)
    source = Source(
        title="Tiny greys",
        addresses=(server.address,),
        archives={name: sha(content) for name, content in packed.items()},
        files={name: sha(content) for name, content in contents.items()},
        folders=("Tiny/raw", ""),
    )
    monkeypatch.setitem(SOURCES, "grey", source)
    return server, contents


@pytest.fixture
def colour(make_server, monkeypatch):
    """A source in the layout of CIFAR-10: batches of 3, 3 and 2 images in one archive."""
    rng, contents = np.random.default_rng(1), {}
    for name, n in (("data_batch_1.bin", 3), ("data_batch_2.bin", 3), ("test_batch.bin", 2)):
        pixels, classes = rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, (n, 1), dtype=np.uint8)
        contents[name] = np.concatenate([classes, pixels], axis=1).tobytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed = {"binary.tar.gz": buffer.getvalue()}
    source = Source(
        title="Tiny colours",
        addresses=(make_server(packed).address,),
        archives={name: sha(content) for name, content in packed.items()},
        files={name: sha(content) for name, content in contents.items()},
        folders=("batches-bin", ""),
        refused=("batches-py", "holds Python pickles"),
    )
    monkeypatch.setitem(SOURCES, "colour", source)
    return packed, contents


def test_what_is_published_is_declared_completely():
    for name, source in SOURCES.items():
        assert all(len(digest) == 64 for digest in (*source.archives.values(), *source.files.values()))
        packed = {archive.removesuffix(".gz") for archive in source.archives}
        assert packed == set(source.files) or name == "cifar10"
        assert all(address.endswith("/") for address in source.addresses)


def test_downloaded_once_and_read(grey, tmp_path):
    server, contents = grey
    seen = []
    paths = fetch_images("grey", progress=lambda *state: seen.append(state))
    assert {path.parent for path in paths.values()} == {tmp_path / "data" / "images" / "grey"}
    assert [done for name, done, _ in seen if name == "train-images-idx3-ubyte.gz"][-1] == seen[0][2]
    found = load_images("grey", scale="unit")
    want = np.frombuffer(contents["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(3, 1, 4, 4) / 255
    np.testing.assert_allclose(found.pixels[found.test], want, rtol=1e-6)
    assert list(found.classes[found.train]) == list(contents["train-labels-idx1-ubyte"][8:])
    assert len(server.asked) == 4


def test_archive_downloaded_and_read_in_the_order_of_its_batches(colour):
    _, contents = colour
    found = load_images("colour", scale="unit")
    rows = np.frombuffer(b"".join(contents.values()), np.uint8).reshape(8, 3073)
    np.testing.assert_allclose(found.pixels, rows[:, 1:].reshape(8, 3, 32, 32) / 255, rtol=1e-6)
    assert list(found.classes) == list(rows[:, 0])
    assert (list(found.train), list(found.test)) == ([0, 1, 2, 3, 4, 5], [6, 7])


def test_a_broken_connection_is_taken_up_again(server, tmp_path):
    server.broken = 2
    content = server.files["file"]
    download([server.address + "file"], sha(content), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.asked]
    assert starts == sorted(starts)
    assert 0 == starts[0] < starts[1] < starts[2]


def test_a_later_run_goes_on_with_what_has_arrived(server, tmp_path):
    server.broken = 3
    content = server.files["file"]
    with pytest.raises(ZooError, match=r"Cannot download file: http.*put it there"):
        download([server.address + "file"], sha(content), tmp_path / "file", advice="Or put it there.")
    assert not (tmp_path / "file").exists()
    arrived = (tmp_path / "file.part").read_bytes()
    assert len(arrived) > len(content) // 2
    download([server.address + "file"], sha(content), tmp_path / "file")
    assert server.asked[-1] == ("file", f"bytes={len(arrived)}-")
    assert (tmp_path / "file").read_bytes() == content
    assert not (tmp_path / "file.part").exists()


def test_a_server_that_cannot_go_on_sends_everything_again(server, tmp_path):
    server.broken, server.ranges = 1, False
    content = server.files["file"]
    download([server.address + "file"], sha(content), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("left", [b"all", b"another file's beginning"])
def test_what_was_left_is_not_trusted(server, tmp_path, left):
    """A part that is already whole is taken, one of something else is thrown away."""
    content = server.files["file"]
    (tmp_path / "file.part").write_bytes(content if left == b"all" else left)
    download([server.address + "file"], sha(content), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert len(server.asked) == (1 if left == b"all" else 2)


def test_wrong_content_is_not_kept_and_the_next_address_is_tried(make_server, tmp_path):
    good, bad = make_server({"file": b"right"}), make_server({"file": b"wrong"})
    with pytest.raises(ZooError, match=r"Cannot download file: http.*its SHA-256 is not"):
        download([bad.address + "file"], sha(b"right"), tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == []
    download([bad.address + "file", good.address + "file"], sha(b"right"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"right"


def test_a_damaged_file_that_lies_there_is_replaced(server, tmp_path):
    (tmp_path / "file").write_bytes(b"damaged")
    download([server.address + "file"], sha(server.files["file"]), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == server.files["file"]


def test_no_network_says_which_files_to_put_where(grey, tmp_path, monkeypatch):
    server, _ = grey
    server.files.clear()
    where = tmp_path / "data" / "images" / "grey"
    with pytest.raises(ZooError, match=rf"got HTTP 404.*Put train-images-idx3-ubyte.gz, .* into {where}, or .*IMAGES"):
        load_images("grey")
    server.close()
    with pytest.raises(ZooError, match=r"Cannot download train-images-idx3-ubyte.gz: .*(refused|Failed to establish)"):
        load_images("grey")


@pytest.mark.parametrize("layout", ["unpacked", "packed", "flat"])
@pytest.mark.parametrize("named", ["argument", "variable"])
def test_files_in_a_named_folder(grey, tmp_path, monkeypatch, layout, named):
    server, contents = grey
    place = tmp_path / "mine" / ("" if layout == "flat" else "Tiny/raw")
    place.mkdir(parents=True)
    for name, content in contents.items():
        packed = gzip.compress(content, 1)  # not the bytes of the published archive: only the content counts
        (place / (name + (".gz" if layout == "packed" else ""))).write_bytes(packed if layout == "packed" else content)
    if named == "variable":
        monkeypatch.setenv("METANET_IMAGES", str(tmp_path / "mine"))
    found = load_images("grey", folder=tmp_path / "mine" if named == "argument" else None)
    assert found.pixels.shape == (9, 1, 4, 4)
    assert server.asked == []


def test_archive_in_a_named_folder(colour, tmp_path):
    (tmp_path / "binary.tar.gz").write_bytes(colour[0]["binary.tar.gz"])
    assert load_images("colour", folder=tmp_path).pixels.shape == (8, 3, 32, 32)


def test_missing_files_are_named_with_their_place(grey, colour, tmp_path):
    place = tmp_path / "Tiny" / "raw"
    place.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (place / name).write_bytes(grey[1][name])
    with pytest.raises(ZooError, match=rf"missing in {tmp_path}: t10k-images-idx3-ubyte, t10k-labels.*into {place}"):
        load_images("grey", folder=tmp_path)
    (tmp_path / "batches-py").mkdir()
    with pytest.raises(ZooError, match=r"batches-py holds Python pickles.*Put binary.tar.gz"):
        load_images("colour", folder=tmp_path)
    assert grey[0].asked == []  # a named folder is never filled by a download


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_files_in_a_named_folder(grey, colour, tmp_path, damage):
    def broken(content):
        half = len(content) // 2
        return {"flip": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :], "truncate": content[:half]}

    for name, content in grey[1].items():
        content = gzip.compress(content) if name.startswith("t10k") else content
        content = broken(content).get(damage, b"") if "t10k-images" in name else content
        (tmp_path / (name + (".gz" if name.startswith("t10k") else ""))).write_bytes(content)
    with pytest.raises(ZooError, match=r"t10k-images-idx3-ubyte.gz.*fetch it again"):
        load_images("grey", folder=tmp_path)
    (tmp_path / "binary.tar.gz").write_bytes(broken(colour[0]["binary.tar.gz"]).get(damage, b""))
    with pytest.raises(ZooError, match=r"binary.tar.gz.*fetch it again"):
        load_images("colour", folder=tmp_path)


def test_grey_pooled_and_scaled_as_asked(colour):
    raw = load_images("colour", scale="unit").pixels.astype(float)
    pooled = raw.mean(axis=1, keepdims=True).reshape(8, 1, 16, 2, 16, 2).mean(axis=(3, 5))
    found = load_images("colour", grayscale=True, pool=2, scale="signed")
    np.testing.assert_allclose(found.pixels, 2 * pooled - 1, atol=1e-6)
    assert found.pixels.dtype == np.float32
    standard = load_images("colour").pixels.astype(float)
    mean, deviation = (f(raw[:6], axis=(0, 2, 3), keepdims=True).round(3) for f in (np.mean, np.std))
    np.testing.assert_allclose(standard, (raw - mean) / deviation, atol=1e-5)


def test_unacceptable_values_are_refused():
    with pytest.raises(ZooError, match=r"Unknown source of images: got 'nothing'. Accepted: digits, mnist"):
        load_images("nothing")
    with pytest.raises(ZooError, match=r"got scale 'odd'. Accepted: standard, signed, unit"):
        load_images("digits", scale="odd")
    with pytest.raises(ZooError, match=r"got pool 3. Accepted: a divisor of 8 and 8"):
        load_images("digits", pool=3)


def test_files_of_another_format_are_refused(tmp_path):
    good = idx(np.zeros((2, 3, 3), np.uint8))
    assert read_idx(good, tmp_path, 3).shape == (2, 3, 3)
    for content, problem in (
        (good[:-1], "damaged: got 33 bytes"),
        (b"", "no IDX file"),
        (b"\x89PNG" + good, "89504e47"),
    ):
        with pytest.raises(ZooError, match=problem):
            read_idx(content, tmp_path, 3)
    with pytest.raises(ZooError, match="no IDX file of 1 dimensions"):
        read_idx(good, tmp_path, 1)
    with pytest.raises(ZooError, match="3072 bytes, not a multiple of 3073"):
        read_cifar(bytes(3072), tmp_path)
    with pytest.raises(ZooError, match=r"class 200, accepted are 0\.\.9"):
        read_cifar(bytes([200]) * 3073, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_the_published_files_if_there(name):
    if not REAL or not sources._look(SOURCES[name], sources.images_folder(REAL)):
        pytest.skip(f"no files of {name}: METANET_IMAGES names no folder with them")
    found = load_images(name, folder=REAL, scale="unit")
    counts = np.bincount(found.classes[found.test])
    assert counts.sum() == 10_000
    assert len(found.train) == (50_000 if name == "cifar10" else 60_000)
    assert name == "mnist" or set(counts) == {1000}
