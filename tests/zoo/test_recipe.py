import copy

import pytest
import yaml

from metanet.errors import ZooError
from metanet.zoo.draws import plan_net, splits
from metanet.zoo.recipe import load_recipe, parse_recipe, recipes_folder


@pytest.fixture
def given():
    return yaml.safe_load((recipes_folder() / "digits-cnn" / "recipe.yaml").read_text())


def test_round_trip_and_digest():
    recipe = load_recipe("digits-cnn")
    again = parse_recipe(recipe.to_dict())
    assert again == recipe
    assert again.digest == recipe.digest
    small = recipe.with_(nets=24, max_steps=20)
    assert small.digest != recipe.digest
    assert parse_recipe(small.to_dict()) == small
    assert hash(small) != hash(recipe)
    assert max(plan_net(small, net).steps for net in range(24)) == 20


def test_draws_depend_on_seed_and_net_alone_and_vary():
    recipe = load_recipe("digits-cnn")
    assert plan_net(recipe, 7) == plan_net(recipe.with_(nets=8), 7)
    assert plan_net(recipe, 7).hyperparameters != plan_net(recipe.with_(seed=1), 7).hyperparameters
    plans = [plan_net(recipe, net).hyperparameters for net in range(200)]
    for name, distribution in recipe.hyperparameters:
        assert (len({plan[name] for plan in plans}) > 1) == (name != "momentum"), distribution
    assert all(0.002 <= p["learning_rate"] <= 0.5 for p in plans if p["optimizer"] == "sgd")
    assert all(0.0003 <= p["learning_rate"] <= 0.05 for p in plans if p["optimizer"] == "adam")
    kinds = splits(recipe)
    assert [kinds.count(s) for s in ("train", "validation", "test")] == [1050, 150, 300]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("neets",), 3, "Unknown key 'neets' in recipe. Accepted: name, version"),
        (("nets",), None, "'nets': got None"),
        (("nets",), 0, "'nets': got 0"),
        (("seed",), -1, "'seed': got -1"),
        (("split",), {"train": 0.5, "validation": 0.1, "test": 0.2}, "fractions that sum to 1"),
        (("hyperparameters", "lr"), 0.1, "Unknown key 'lr' in hyperparameters. Accepted: activation, optimizer"),
        (("hyperparameters", "optimizer"), "lion", "got 'lion'. Accepted: sgd, adam, rmsprop"),
        (("hyperparameters", "activation"), {"choice": ["relu", "swish"]}, "got 'swish'. Accepted: relu, leaky_relu"),
        (("hyperparameters", "weight_decay"), {"loguniform": [0, 1]}, "0 < low <= high"),
        (("hyperparameters", "weight_decay"), {"normal": [0, 1]}, "Accepted: a plain value"),
        (("hyperparameters", "weight_decay"), "1e-3", "write 1.0e-3"),
        (("architecture", "layers"), [{"conv": {"out": 8, "strides": 2}}], "unknown option 'strides'"),
        (("architecture", "layers"), [{"conv": {"kernel": 3}}], "option 'out' is missing"),
        (("architecture", "layers"), ["attention"], "Accepted layers: conv, linear"),
        (("architecture", "layers"), ["activation"], "not classes"),
        (("architecture", "layers"), [{"conv": {"out": 8, "kernel": 9}}], "leaves nothing"),
        (("architecture", "input"), [8, 8], r"Accepted: \[channels, height, width\]"),
    ],
)
def test_bad_values_are_named(given, path, value, message):
    bad = copy.deepcopy(given)
    inner = bad
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ZooError, match=message):
        parse_recipe(bad)


def test_missing_key_missing_recipe_and_broken_yaml(given, tmp_path):
    del given["seed"]
    with pytest.raises(ZooError, match="Key 'seed' is missing in recipe"):
        parse_recipe(given)
    with pytest.raises(ZooError, match=r"Known recipes: .*digits-cnn"):
        load_recipe("digits-cmm")
    (tmp_path / "r.yaml").write_text("a: [")
    with pytest.raises(ZooError, match=r"Cannot read the recipe .*r\.yaml"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(ZooError, match="no field 'net'"):
        load_recipe("digits-cnn").with_(net=3)


def test_by_needs_the_other_value_first(given):
    given["hyperparameters"]["learning_rate"] = {"by": "optimizer", "sgd": 0.1}
    recipe = parse_recipe(given)
    with pytest.raises(ZooError, match=r"depends on 'optimizer'.*cases given: sgd"):
        [plan_net(recipe, net) for net in range(20)]
