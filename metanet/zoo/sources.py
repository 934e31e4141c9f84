"""Sources of images: which files they are, where they come from, where they may lie.

A file is known by the SHA-256 of its unpacked content, so that it may lie packed or unpacked, and from whichever
address or package it came. Nothing is unpickled: CIFAR-10 is read from its binary version.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metanet.errors import ZooError
from metanet.zoo.catalogue import data_folder
from metanet.zoo.download import download

FOLDER_VARIABLE = "METANET_IMAGES"


@dataclass(frozen=True)
class Source:
    """A published set of images.

    Attributes:
        title: Name, for messages.
        addresses: Folders on the network that hold the archives, the authors' own first.
        archives: SHA-256 of each archive as published.
        files: SHA-256 of the content of each file.
        folders: Where the files may lie below a folder of images, in the order of looking.
        refused: A folder of another version that is not read, and why.
    """

    title: str
    addresses: tuple[str, ...]
    archives: dict[str, str]
    files: dict[str, str]
    folders: tuple[str, ...]
    refused: tuple[str, str] = ("", "")


SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST (Y. LeCun, C. Cortes, C. Burges)",
        # the authors' own address answers only now and then; the second is the mirror that PyTorch keeps
        addresses=("https://yann.lecun.com/exdb/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        archives={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        files={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        folders=("MNIST/raw", "MNIST", "mnist", ""),
    ),
    "fashion_mnist": Source(
        title="Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf; Zalando)",
        addresses=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        archives={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        files={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        folders=("FashionMNIST/raw", "FashionMNIST", "fashion_mnist", "fashion-mnist", ""),
    ),
    "cifar10": Source(
        title="CIFAR-10, binary version (A. Krizhevsky)",
        addresses=("https://www.cs.toronto.edu/~kriz/",),
        archives={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        files={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        folders=("cifar-10-batches-bin", "cifar10", ""),
        refused=("cifar-10-batches-py", "holds Python pickles, which could run code and are not read"),
    ),
}


def images_folder(given: str | Path | None = None) -> Path | None:
    """Return the folder of images that the user named: ``given``, or the variable ``METANET_IMAGES``, or ``None``."""
    named = given or os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else None


def fetch_images(
    name: str, folder: str | Path | None = None, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Path]:
    """Find the files of a source, downloading them first if the user named no folder and they are not there.

    Args:
        name: One of ``SOURCES``.
        folder: Folder of images; by default the variable ``METANET_IMAGES``. If neither is given,
            ``<data folder>/images``, into which missing files are downloaded.
        progress: Called with archive, bytes so far and bytes in all while one is downloaded.

    Returns:
        For each file, the path that holds it: itself, packed as ``.gz``, or an archive with it inside.

    Raises:
        ZooError: The source is unknown, a file is missing, or a download failed; the message lists what to put where.
    """
    source = find_source(name)
    named = images_folder(folder)
    root = named or data_folder() / "images" / name
    found = _look(source, root)
    if len(found) < len(source.files) and named is None:
        for archive, digest in source.archives.items():
            addresses = [address + archive for address in source.addresses]
            download(addresses, digest, root / archive, progress, advice=_advice(source, root, named=False))
        found = _look(source, root)
    if len(found) < len(source.files):
        raise ZooError(_missing(source, root, found))
    return found


def read_content(source: Source, name: str, path: Path) -> bytes:
    """Return the unpacked content of one file of a source, checked.

    Raises:
        ZooError: It cannot be read, or is not the published content.
    """
    try:
        if path.name.endswith(".tar.gz"):
            content = _member(path, name)
        else:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ZooError(f"Cannot read {path}: {error or 'it ends too early'}. {_REPLACE}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.files[name]:
        raise ZooError(
            f"{path} does not hold '{name}' of {source.title}: got {len(content)} bytes with SHA-256 {digest[:16]}..., "
            f"expected {source.files[name][:16]}.... {_REPLACE}"
        )
    return content


_REPLACE = "Delete that file and fetch it again: it is damaged, or not the published one."


def find_source(name: str) -> Source:
    """Return a source by name.

    Raises:
        ZooError: It is unknown.
    """
    if name not in SOURCES:
        raise ZooError(f"Unknown source of images: got {name!r}. Accepted: digits, {', '.join(SOURCES)}.")
    return SOURCES[name]


def _look(source: Source, root: Path) -> dict[str, Path]:
    """Return the files that are there; all from one folder, so that two copies do not mix."""
    best: dict[str, Path] = {}
    for folder in source.folders:
        place = root / folder
        packed = [place / name for name in source.archives if name.endswith(".tar.gz") and (place / name).is_file()]
        found = {}
        for name in source.files:
            there = [path for path in (place / name, place / f"{name}.gz", *packed) if path.is_file()]
            if there:
                found[name] = there[0]
        if len(found) > len(best):
            best = found
    return best


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            if member.isfile() and member.name.rsplit("/", 1)[-1] == name:
                file = opened.extractfile(member)
                return file.read() if file is not None else b""
    raise tarfile.TarError(f"'{name}' is not in it")


def _missing(source: Source, root: Path, found: dict[str, Path]) -> str:
    lacking = [name for name in source.files if name not in found]
    text = f"Images of {source.title} are missing in {root}: {', '.join(lacking)} (each as it is, or packed). "
    refused, why = source.refused
    if refused and (root / refused).exists():
        text += f"The folder {root / refused} {why}. "
    return text + _advice(source, root, named=True)


def _advice(source: Source, root: Path, named: bool) -> str:
    place = root / source.folders[0] if named else root
    archives = ", ".join(source.archives)
    put = f"Put {archives} from {source.addresses[0]} into {place}"
    other = f"unset {FOLDER_VARIABLE}, and they are downloaded" if named else f"name their folder in {FOLDER_VARIABLE}"
    return f"{put}, or {other}."
