import copy

import pytest
import yaml

from metanet.errors import ZooError
from metanet.zoo.architecture import Activation, Add, Conv, parse_architecture
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
    assert [kinds.count(s) for s in ("train", "validation", "test")] == [1400, 200, 400]


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


def test_epochs_become_steps_and_checkpoints():
    recipe = load_recipe("cifar10-gs-cnn")
    plan = next(p for p in (plan_net(recipe, net) for net in range(50)) if p.hyperparameters["train_fraction"] == 0.1)
    assert plan.steps == 86 * 9  # 5,000 images, 512 a step
    assert plan.kept == (0, 9, 18, 27, 180, 360, 540, 720, 774)
    short = plan_net(recipe.with_(max_steps=18), plan.net)
    assert (short.hyperparameters["epochs"], short.kept) == (2, (0, 9, 18))


def test_architectures_are_drawn_as_in_cnn_wild_park():
    recipe = load_recipe("cifar10-wild")
    plans = [plan_net(recipe, net) for net in range(200)]
    layers = [layer for plan in plans for layer in plan.architecture.layers]
    convolutions = [layer for layer in layers if isinstance(layer, Conv)]
    assert {sum(isinstance(x, Conv) for x in p.architecture.layers) for p in plans} == set(range(2, 9))
    assert {c.out for c in convolutions} == {4, 8, 16, 32, 64}
    assert {(c.kernel, c.padding) for c in convolutions} == {(3, 1), (5, 2), (7, 3)}
    assert {x.fn for x in layers if isinstance(x, Activation)} == {
        "relu",
        "gelu",
        "tanh",
        "sigmoid",
        "leaky_relu",
        "none",
    }
    for plan in plans:
        ends = [i for i, x in enumerate(plan.architecture.layers) if isinstance(x, Activation)]
        for i, layer in enumerate(plan.architecture.layers):
            if isinstance(layer, Add):  # an earlier turn's output, but not that of the turn before
                assert layer.source in ends[1 : sum(end < i for end in ends) - 1]
    assert any(isinstance(layer, Add) for layer in layers)
    assert plans[0].architecture.named[-1] == "fc"
    assert parse_architecture(plans[3].architecture.to_dict()) == plans[3].architecture


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("architecture", "layers"), [{"repeat": {"times": 2}}], "Accepted keys, both needed: times, layers"),
        (("architecture", "layers"), [{"repeat": {"times": "two", "layers": []}}], "whole number >= 0"),
        (("architecture", "layers"), [{"linear": {"out": {"choice": [3, 0]}}}], "out': got 0"),
        (("architecture", "layers"), [{"activation": {"fn": "swish"}}, {"linear": {"out": 2}}], "got 'swish'"),
        (("architecture", "names"), ["a"], "Accepted: 4 different names"),
        (("architecture", "names"), {"conv": "a"}, "Accepted: a list of names"),
        (("task",), "play", "Accepted: classify, fit"),
        (("images",), {"pool": "two"}, "Accepted: grayscale"),
        (("checkpoints",), [3, 1], "whole numbers >= 0, rising"),
        (("measure",), {"train": 3}, "Accepted: train and test"),
        (("hyperparameters", "epochs"), 3, "'steps' or 'epochs'"),
    ],
)
def test_bad_values_of_drawn_architectures_and_tasks(given, path, value, message):
    inner = given
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ZooError, match=message):
        parse_recipe(given)


@pytest.mark.parametrize("path", sorted(recipes_folder().glob("*/recipe.yaml")), ids=lambda path: path.parent.name)
def test_every_recipe_reads_back_and_has_a_card(path):
    recipe = load_recipe(path.parent.name)
    assert parse_recipe(recipe.to_dict()) == recipe
    assert recipe.name == path.parent.name
    assert (path.parent / "README.md").read_text().startswith(f"# {recipe.name}\n")
