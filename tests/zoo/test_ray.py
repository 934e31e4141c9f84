"""The same bytes from a Ray cluster, here one on this machine that all tests share."""

import os

import pytest

from metanet.errors import ZooError
from metanet.zoo import build_part, build_zoo, merge_zoos
from metanet.zoo import ray as backend

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'torch-metanet[ray]'")


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    backend._connect(ray, "local", 2)
    yield
    ray.shutdown()


def test_interrupted_and_taken_up_again_the_bytes_are_those_of_a_local_build(cluster, hashes, recipe, built, tmp_path):
    def stop(state):
        if state.trained >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_zoo(recipe, tmp_path / "zoo", progress=stop, ray="local")
    assert list(tmp_path.glob("zoo.building/weights/*/*"))
    seen = []
    build_zoo(recipe, tmp_path / "zoo", progress=seen.append, ray="local")
    assert 0 < seen[0].done < seen[-1].done == seen[-1].total == 20
    assert hashes(tmp_path / "zoo") == hashes(built)
    assert ray.is_initialized()  # a connection that was open stays open


def test_a_part_from_ray_merges_with_a_part_from_workers(cluster, hashes, recipe, built, tmp_path):
    parts = [
        build_part(recipe, (1, 2), tmp_path / "one", ray="local"),
        build_part(recipe, (2, 2), tmp_path / "two", workers=0),
    ]
    assert hashes(merge_zoos(tmp_path / "zoo", parts).path) == hashes(built)


def test_a_failing_task_is_reported_with_its_cause(cluster, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("metanet.zoo.build.prepare_images", lambda *_: None)  # they vanish before the tasks look
    with pytest.raises(ZooError, match=r"task of the zoo build failed: .*Images of MNIST .* are missing"):
        build_zoo(recipe.with_(source="mnist"), tmp_path / "zoo", images=tmp_path, ray="local")


def test_machines_with_other_versions_are_refused(cluster, recipe, tmp_path, monkeypatch):
    made_with = {"torch": "1.0"}
    monkeypatch.setattr(backend, "note_of", lambda *_: {"made_with": made_with})
    with pytest.raises(ZooError, match=r"a machine of the cluster has .*install the same versions"):
        build_zoo(recipe, tmp_path / "zoo", ray="local")
