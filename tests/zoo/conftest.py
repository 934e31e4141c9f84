"""A tiny zoo that the tests of the store read, and its recipe."""

import hashlib
import shutil

import pytest

from metanet.zoo import build_zoo, load_recipe


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("digits-cnn").with_(nets=20, max_steps=6, shard_size=3)


@pytest.fixture(scope="session")
def built(recipe, tmp_path_factory):
    """Path of a zoo that no test changes."""
    path = tmp_path_factory.mktemp("zoos") / "tiny"
    build_zoo(recipe, path, workers=0)
    return path


@pytest.fixture(scope="session")
def hashes():
    """Function from a folder to the checksum of every file below it."""

    def of(folder):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return of


@pytest.fixture
def zoo_copy(built, tmp_path):
    """Path of a zoo to damage."""
    return shutil.copytree(built, tmp_path / "copy")
