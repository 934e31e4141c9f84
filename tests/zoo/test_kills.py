"""Twenty kills, on two parts of a zoo at once; then the merge is killed too."""

import os
import subprocess
import sys

from metanet.zoo import merge_zoos

# Two supervisors at once, one a part. Each forks a build ten times and kills it. A build counts its steps (a net
# trained, a file written, flushed, renamed) and is killed at a random instant between the n-th and the (n + 2)-th,
# where it waits: kills fall everywhere in the work, and the work outlasts them, however fast or slow the machine is.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from metanet.zoo import build_part, build_zoo, load_recipe
from metanet.zoo.images import load_images
from metanet.zoo.shards import plan_shards, space_of

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
recipe = load_recipe("digits-cnn").with_(nets=48, max_steps=4, shard_size=2)
load_images("digits")  # kept for all children, as are the spaces
for shard in plan_shards(recipe):
    space_of(shard.architecture)


def build(part, stop, tell):
    steps = 0

    def step(*_):
        nonlocal steps
        steps += 1
        if steps == stop:
            os.write(tell, b"x")
        while steps == stop + 2:
            time.sleep(60)

    def watched(call):
        def run(*given):
            step()
            call(*given)
            step()
        return run

    os.fsync, os.replace = watched(os.fsync), watched(os.replace)
    build_part(recipe, (part, 2), folder / f"part{part}", workers=0, progress=step)


def supervise(part):
    rng = random.Random(seed + part)
    stops = list(range(1, 21, 2))
    rng.shuffle(stops)
    for stop in stops:
        hear, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                build(part, stop, tell)
            finally:
                os._exit(7)  # it was to be killed before its end
        os.close(tell)
        assert os.read(hear, 1) == b"x", "the build ended before its step"
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        os.close(hear)
        made = len(list(folder.glob(f"part{part}.building/weights/*/*.safetensors")))
        halves = len(list(folder.glob(f"part{part}.building/**/*.tmp")))
        os.write(1, f"{part} {stop} {made} {halves}\\n".encode())  # at once: two processes write to one pipe


supervisors = []
for part in (1, 2):
    supervisors.append(os.fork())
    if supervisors[-1] == 0:
        try:
            supervise(part)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
assert all(os.waitpid(child, 0)[1] == 0 for child in supervisors)
for part in (1, 2):
    build_part(recipe, (part, 2), folder / f"part{part}", workers=0)
build_zoo(recipe, folder / "whole", workers=0)
"""


def test_twenty_kills_on_two_parts_and_the_merge_has_the_same_bytes(hashes, tmp_path):
    script = [sys.executable, "-c", KILLS, str(tmp_path), "0"]
    done = subprocess.run(
        script, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    kills = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(kills) == 20
    for part in (1, 2):
        made = [shards for killed, _, shards, _ in kills if killed == part]
        assert made == sorted(made)  # no finished shard is lost
        assert 0 < made[-1] < 12  # kills fell into the work, none after it
    assert any(halves for *_, halves in kills)  # and into the writing of files
    merge_zoos(tmp_path / "merged", [tmp_path / "part2", tmp_path / "part1"])
    assert hashes(tmp_path / "merged") == hashes(tmp_path / "whole")
