"""Shards and weight spaces are compared with their checksums when a process first reads them."""

import hashlib
import json
import multiprocessing
import pickle
import shutil

import pytest

from metanet.errors import ZooError
from metanet.zoo import open_zoo, verify_zoo
from metanet.zoo.data import ZooDataModule


@pytest.fixture
def copy(tiny_zoo, tmp_path):
    return shutil.copytree(tiny_zoo.path, tmp_path / "zoo")


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that are hashed."""
    names = []
    digest = hashlib.file_digest

    def count(file, kind):
        names.append(file.name)
        return digest(file, kind)

    monkeypatch.setattr("metanet.zoo.shard_files.hashlib.file_digest", count)
    return names


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def first(path):
    return sorted(path.glob("weights/*/*"))[0]


def row_in(zoo, file):
    return next(i for i in range(len(zoo)) if file.match(f"{zoo.column('space')[i]}/{zoo.column('shard')[i]:05d}.*"))


def change_card(path, **changes):
    card = json.loads((path / "zoo.json").read_text()) | changes
    (path / "zoo.json").write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def test_a_flipped_bit_is_found_where_the_shard_is_first_read(copy):
    file = first(copy)
    row = row_in(open_zoo(copy), file)
    good = open_zoo(copy)[row].tensors
    flip(file)
    for read in (lambda z: z[row], lambda z: z.stack([row]), lambda z: z.graph([row]), lambda z: list(z.batches(4))):
        with pytest.raises(ZooError, match=rf"{file.name} is damaged: its SHA-256 is \w{{12}}..., zoo.json says"):
            read(open_zoo(copy))
    with pytest.raises(ZooError, match="is damaged: its SHA-256"):
        ZooDataModule(str(copy)).setup()
    unchecked = open_zoo(copy, verify_shards=False)
    assert all(t.shape == good[name].shape for name, t in unchecked[row].tensors.items())
    ZooDataModule(str(copy), verify_shards=False).setup()
    found = [line for line in verify_zoo(copy) if file.name in line]
    assert found == [f"{file.relative_to(copy).as_posix()}: the content is not that of the checksum in zoo.json"]


def test_a_changed_weight_space_is_found(copy):
    file = next(copy.glob("spaces/*"))
    data = json.loads(file.read_text())
    data["gauges"] = []  # no part of the digest
    file.write_text(json.dumps(data))
    with pytest.raises(ZooError, match="is damaged: its SHA-256"):
        open_zoo(copy).spaces[file.stem]
    assert open_zoo(copy, verify_shards=False).spaces[file.stem].gauges == ()


def test_zoos_without_checksums_open_and_partial_ones_do_not(copy):
    change_card(copy, sha256=None)
    flip(first(copy))
    zoo = open_zoo(copy)
    assert all(len(zoo[i].tensors) for i in range(len(zoo)))
    change_card(copy, sha256={})
    assert len(open_zoo(copy)[0].tensors)
    change_card(copy, sha256={"models.parquet": "0" * 64})
    with pytest.raises(ZooError, match=r"zoo.json has no checksum of it"):
        open_zoo(copy)[0]


def read_all(zoo, queue):
    for _ in zoo.batches(8):
        pass
    queue.put(len(queue_names))


queue_names: list[str] = []


def test_a_process_hashes_a_file_once_and_again_when_it_changes(copy, hashed, monkeypatch):
    monkeypatch.setattr("metanet.zoo.shard_files.MAPPED_FILES", 1)  # each shard is mapped anew for each net
    zoo = open_zoo(copy)
    for _ in range(3):
        for i in range(len(zoo)):
            zoo[i]
    files = len(list(copy.glob("weights/*/*"))) + len(list(copy.glob("spaces/*")))
    assert len(hashed) == len(set(hashed)) == files
    list(open_zoo(copy).batches(8))  # opened again, and as a worker process gets it
    list(pickle.loads(pickle.dumps(zoo)).batches(8))
    assert len(hashed) == files
    flip(first(copy))
    with pytest.raises(ZooError, match="is damaged: its SHA-256"):
        list(zoo.batches(8))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_forked_processes_know_what_was_hashed(copy, hashed, monkeypatch):
    list(open_zoo(copy).batches(8))
    before = len(hashed)
    monkeypatch.setitem(globals(), "queue_names", hashed)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_all, args=(open_zoo(copy), queue))
    child.start()
    assert queue.get(timeout=60) == before
    child.join()


def test_workers_of_a_data_loader_check_too(copy, monkeypatch):
    monkeypatch.setattr("metanet.zoo.data.IN_MEMORY", 0)
    data = ZooDataModule(str(copy), num_workers=1, seed=0)
    data.setup()
    loader = data.train_dataloader()
    for file in copy.glob("weights/*/*"):
        flip(file)
    with pytest.raises(ZooError, match="is damaged: its SHA-256"):
        list(loader)
