import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from safetensors.numpy import load_file

from metanet.errors import ZooError
from metanet.zoo import build_zoo, crew, load_recipe, open_zoo
from metanet.zoo.store import read_zoo

# A script without a main guard, as a user's may be.
BUILD = """
import sys
from metanet.zoo import build_zoo, load_recipe
recipe = load_recipe("digits-cnn").with_(nets=20, max_steps=6, shard_size=3)
build_zoo(recipe, sys.argv[1], workers=2, progress=lambda p: print(p.done, flush=True) if p.trained else None)
"""


def test_workers_do_not_matter_and_progress_counts_all_nets(hashes, recipe, built, tmp_path):
    seen = []
    zoo = build_zoo(recipe, tmp_path / "two", workers=2, progress=seen.append)
    assert hashes(tmp_path / "two") == hashes(built)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert (seen[0].done, seen[0].trained) == (0, 0)
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (20, 20, 0)
    assert seen[-1].rate > 0
    assert len(zoo) == 20


def test_killed_with_workers_goes_on_and_leaves_no_orphans(hashes, recipe, built, tmp_path):
    script = [sys.executable, "-c", BUILD, str(tmp_path / "zoo")]
    build = subprocess.Popen(script, stdout=subprocess.PIPE)
    assert build.stdout.readline() != b""
    children = Path(f"/proc/{build.pid}/task/{build.pid}/children")
    workers = children.read_text().split() if children.is_file() else []
    build.kill()
    assert build.wait() == -signal.SIGKILL
    build.stdout.close()
    assert not (tmp_path / "zoo").exists()
    until = time.monotonic() + 20
    while any(_lives(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(_lives(pid) for pid in workers)
    build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert hashes(tmp_path / "zoo") == hashes(built)


def _lives(pid):
    """Whether a process runs (one that waits for its new parent to notice does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("writes", [1, 2, 3, 6, 11, 12, 13, 14, 15])
def test_stopped_before_any_write_goes_on_to_the_same_bytes(hashes, recipe, built, tmp_path, monkeypatch, writes):
    """Every kind of file is once the one that is not written; half of it is left behind."""
    from metanet.zoo import building, finish, write

    count = 0

    def failing(path, content):
        nonlocal count
        count += 1
        if count == writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + write.TEMPORARY).write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt
        write.write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_file", failing)
        patch.setattr(finish, "write_file", failing)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert not (tmp_path / "zoo").exists()
    with pytest.raises(ZooError, match="half-built"):
        read_zoo(tmp_path / "zoo")
    build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert hashes(tmp_path / "zoo") == hashes(built)
    assert count >= writes


def test_shards_of_another_recipe_or_version_are_neither_mixed_in_nor_lost(hashes, recipe, tmp_path, monkeypatch):
    other = recipe.with_(seed=1, nets=4, max_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr("metanet.zoo.building.write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build_zoo(other, tmp_path / "zoo", workers=0)
    before = hashes(tmp_path)
    with pytest.raises(ZooError, match=r"zoo.building holds an unfinished build of another recipe.*Delete that folder"):
        build_zoo(recipe, tmp_path / "zoo", workers=0)
    with monkeypatch.context() as patch:
        patch.setattr("metanet.zoo.building.np.__version__", "1.0")
        with pytest.raises(ZooError, match=r"unfinished build of numpy \d.*, not 1.0.*finish it as it was begun"):
            build_zoo(other, tmp_path / "zoo", workers=0)
    assert hashes(tmp_path) == before
    assert len(build_zoo(other, tmp_path / "zoo", workers=0)) == 4


def test_a_folder_that_is_no_zoo_is_left_alone(recipe, tmp_path):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "thesis.txt").write_text("mine")
    with pytest.raises(ZooError, match=r"something else is there. Move it away"):
        build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert (tmp_path / "zoo" / "thesis.txt").read_text() == "mine"


def test_progress_goes_on_where_it_stopped(recipe, tmp_path):
    def stop_after_nine(state):
        if state.done >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_zoo(recipe, tmp_path / "zoo", workers=0, progress=stop_after_nine)
    kept = sum(len(load_file(path)["conv1.bias"]) for path in tmp_path.glob("zoo.building/weights/*/*"))
    seen = []
    build_zoo(recipe, tmp_path / "zoo", workers=0, progress=seen.append)
    assert 0 < kept < 9
    assert (seen[0].done, seen[0].trained, seen[0].total) == (kept, 0, 20)
    assert seen[0].seconds_left == float("inf")
    assert (seen[-1].done, seen[-1].trained) == (20, 20 - kept)
    assert seen[-1].rate == pytest.approx((20 - kept) / seen[-1].seconds)


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_finished_zoo_is_opened_and_another_recipe_refused(hashes, recipe, built):
    before = hashes(built)
    assert len(build_zoo(recipe, built, workers=0)) == 20
    assert hashes(built) == before
    with pytest.raises(ZooError, match=r"zoo of another recipe .* Delete that folder"):
        build_zoo(recipe.with_(seed=1), built, workers=0)


def test_two_builds_at_once_are_refused_and_a_stale_lock_is_not_in_the_way(recipe, tmp_path):
    tiny = recipe.with_(nets=2, max_steps=1)
    (tmp_path / ".zoo.lock").write_text("left by a dead process")
    with (
        filelock.FileLock(tmp_path / ".zoo.lock"),
        pytest.raises(ZooError, match=r"Another process is building .*zoo"),
    ):
        build_zoo(tiny, tmp_path / "zoo", workers=0)
    assert len(build_zoo(tiny, tmp_path / "zoo", workers=0)) == 2


def test_folder_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZooError, match=r"Cannot write .*METANET_DATA"):
        build_zoo(recipe, tmp_path / "file" / "zoos" / "zoo", workers=0)


def test_folder_without_permission(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # tests may run as root, who may write anywhere
    with pytest.raises(ZooError, match=r"Cannot write .*Permission denied"):
        build_zoo(recipe, tmp_path / "zoo", workers=0)


def test_full_disk_stops_with_a_message_and_can_be_resumed(hashes, recipe, built, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ZooError, match="No space left on device"):
            build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert not list(tmp_path.rglob("*.tmp"))
    build_zoo(recipe, tmp_path / "zoo", workers=0)
    assert hashes(tmp_path / "zoo") == hashes(built)


def test_a_failing_worker_is_reported_with_its_cause_and_none_is_left(recipe, tmp_path, monkeypatch):
    started = []
    original = subprocess.Popen
    monkeypatch.setattr(crew.subprocess, "Popen", lambda *a, **k: started.append(original(*a, **k)) or started[-1])
    monkeypatch.setattr("metanet.zoo.build.prepare_images", lambda *_: None)  # they vanish before the workers look
    with pytest.raises(ZooError, match=r"worker .* failed: ZooError: Images of MNIST .* are missing") as caught:
        build_zoo(recipe.with_(source="mnist"), tmp_path / "zoo", workers=2, images=tmp_path)
    assert "load_images" in str(caught.value.__cause__)
    assert len(started) == 2
    assert all(worker.returncode is not None for worker in started)


@pytest.mark.parametrize("source", ["nothing", "mnist"])
def test_missing_images_are_noticed_before_any_worker_starts(recipe, tmp_path, monkeypatch, source):
    monkeypatch.setattr(crew.subprocess, "Popen", interrupt)
    with pytest.raises(ZooError, match=r"Unknown source of images: got 'nothing'|Images of MNIST .* are missing"):
        build_zoo(recipe.with_(source=source), tmp_path / "zoo", workers=2, images=tmp_path)


@pytest.mark.parametrize("device", ["nonsense", "cuda:77"])
def test_a_device_that_is_not_there_is_refused(recipe, tmp_path, device):
    with pytest.raises(ZooError, match=rf"Cannot train on device '{device}'.*Accepted: cpu"):
        build_zoo(recipe, tmp_path / "zoo", workers=0, device=device)
    assert not list(tmp_path.glob("zoo*"))


def test_a_worker_that_dies_is_reported(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(crew.sys, "executable", "/bin/false")
    with pytest.raises(ZooError, match=r"died \(exit status 1\).*Finished shards are kept"):
        build_zoo(recipe, tmp_path / "zoo", workers=1)


def test_open_by_name_builds_on_first_use(tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("METANET_DATA", str(tmp_path))
    with pytest.raises(ZooError, match=r"No zoo at .*digits-cnn.*build=True"):
        open_zoo("digits-cnn")
    monkeypatch.setattr("metanet.zoo.build.load_recipe", lambda name: load_recipe(name).with_(nets=2, max_steps=1))
    assert len(open_zoo("digits-cnn", build=True, workers=0)) == 2
    assert open_zoo("digits-cnn").path == tmp_path / "zoos" / "digits-cnn"


def test_diverged_nets_are_kept_marked_and_in_no_split(recipe, tmp_path):
    from metanet.zoo.recipe import parse_recipe

    given = recipe.to_dict()
    given["hyperparameters"] |= {"learning_rate": 1e30, "optimizer": "sgd", "activation": "relu"}
    zoo = build_zoo(parse_recipe(given | {"nets": 3}), tmp_path / "zoo", workers=0)
    assert zoo.column("diverged").all()
    assert set(zoo.column("split")) == {"none"}
    assert zoo[0].labels["test_loss"] is None
    assert [len(zoo.rows(split)) for split in ("train", "validation", "test")] == [0, 0, 0]


def test_without_ray_the_message_says_how_to_install_it(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ZooError, match=r"Ray is not installed.*torch-metanet\[ray\]"):
        build_zoo(recipe, tmp_path / "zoo", ray="local")
