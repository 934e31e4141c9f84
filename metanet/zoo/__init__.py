"""Model zoos: many trained nets with labels, on disk; built from recipes, read memory-mapped."""

from metanet.zoo.build import build_part, build_zoo
from metanet.zoo.catalogue import data_folder, open_zoo, zoos_folder
from metanet.zoo.export import export_net
from metanet.zoo.importing import import_zoo
from metanet.zoo.merge import merge_zoos
from metanet.zoo.progress import Progress
from metanet.zoo.readers import zoo_formats
from metanet.zoo.recipe import Recipe, load_recipe
from metanet.zoo.store import ModelZoo, Net
from metanet.zoo.verify import verify_zoo

__all__ = [
    "ModelZoo",
    "Net",
    "Progress",
    "Recipe",
    "build_part",
    "build_zoo",
    "data_folder",
    "export_net",
    "import_zoo",
    "load_recipe",
    "merge_zoos",
    "open_zoo",
    "verify_zoo",
    "zoo_formats",
    "zoos_folder",
]
