"""Real limits of the system: writing stops with a clear message, nothing is broken, and goes on afterwards."""

import gzip
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from metanet.errors import ZooError
from metanet.zoo import import_zoo

# A build and a merge fail, their folders are looked at, and they are done again without the limit.
SCRIPT = """
import resource, shutil, subprocess, sys
from pathlib import Path
from metanet.errors import ZooError
from metanet.zoo import build_part, build_zoo, load_recipe, merge_zoos

folder, small = Path(sys.argv[1]), Path(sys.argv[1]) / "small"
recipe = load_recipe("digits-cnn").with_(nets=20, max_steps=6, shard_size=3)
parts = [build_part(recipe, (i, 2), folder / f"part{i}", workers=0) for i in (1, 2)]
SIZE, LEFT = 4 << 20, 200_000


def limit():
    if sys.argv[2] == "disk":
        (small / "other").write_bytes(bytes(SIZE - LEFT))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))


def unlimit():
    if sys.argv[2] == "disk":
        (small / "other").unlink()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


small.mkdir()
if sys.argv[2] == "disk":
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(small)], check=True)
works = {"build": lambda path: build_zoo(recipe, path, workers=0), "merge": lambda path: merge_zoos(path, parts)}
for name, work in works.items():
    limit()
    try:
        work(small / name)
    except ZooError as error:
        print(error)
    shards = len(list(small.glob(f"{name}.building/weights/*/*")))
    print(shards, len(list(small.rglob("*.tmp"))), (small / name).exists())
    unlimit()
    work(small / name)
    shutil.copytree(small / name, folder / name)
    shutil.rmtree(small / name)
"""


def run(folder, kind, prefix=()):
    """The message of the failed build and of the failed merge, each with what was left."""
    command = [*prefix, sys.executable, "-c", SCRIPT, str(folder), kind]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    return [(lines[i], *lines[i + 1].split()) for i in (0, 2)]


def test_a_file_that_grows_too_large(hashes, built, tmp_path):
    for message, _, halves, complete in run(tmp_path, "limit"):
        assert "Cannot write" in message
        assert "File too large" in message
        assert (halves, complete) == ("0", "False")
    assert hashes(tmp_path / "build") == hashes(tmp_path / "merge") == hashes(built)


def test_a_disk_that_is_full(hashes, built, tmp_path):
    prefix = ["unshare", "--mount", "--map-root-user"]
    try:
        subprocess.run([*prefix, "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system lets no test mount a small disk")
    for message, shards, halves, complete in run(tmp_path, "disk", prefix):
        assert "No space left on device" in message
        assert "free space is needed" in message
        assert int(shards) > 0  # what was finished before is kept
        assert (halves, complete) == ("0", "False")
    assert hashes(tmp_path / "build") == hashes(tmp_path / "merge") == hashes(built)


def test_an_import(tmp_path):
    weights = np.random.default_rng(0).normal(size=(200, 52)).astype(np.float32)
    layout = ["varname,start_idx,end_idx,size,shape", 'sequential/conv2d/bias:0,0,4,4,"(4,)"']
    layout += ['sequential/conv2d/kernel:0,4,40,36,"(3, 3, 1, 4)"', 'sequential/dense/bias:0,40,42,2,"(2,)"']
    layout += ['sequential/dense/kernel:0,42,50,8,"(4, 2)"']
    metrics = ["config.activation,modeldir,step,test_accuracy", *(f"relu,run{i},86,0.5" for i in range(200))]
    np.save(tmp_path / "weights.npy", weights[:, :50])
    (tmp_path / "layout.csv").write_text("\n".join(layout))
    (tmp_path / "metrics.csv.gz").write_bytes(gzip.compress("\n".join(metrics).encode()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ZooError, match=r"Cannot write .*File too large"):
            import_zoo("small-cnn-zoo", tmp_path, tmp_path / "out" / "zoo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").glob("zoo*"))
    assert len(import_zoo("small-cnn-zoo", tmp_path, tmp_path / "out" / "zoo")) == 200
