"""The batched builder against the plain loop: same seeds, same nets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metanet.zoo.architecture import Activation, Architecture, Conv, Dropout, Linear, MeanPool, SmallCNN
from metanet.zoo.batched.network import Network, pack, unpack
from metanet.zoo.batched.train import blocks, evaluate_block, train_block
from metanet.zoo.draws import plan_net
from metanet.zoo.images import load_images
from metanet.zoo.loop import evaluate_net, train_net
from metanet.zoo.recipe import load_recipe

BATCH = 16
STEPS = {"sgd": 30, "adam": 30, "rmsprop": 5}  # rmsprop starts with sign steps: rounding grows with each


@pytest.fixture(scope="module")
def images():
    return load_images("digits")


def plans_of(optimizer, activation, steps, dropout=0.3):
    recipe = load_recipe("digits-cnn")
    plans = [plan_net(recipe, net) for net in range(4)]
    out = []
    for i, plan in enumerate(plans):
        changes = {"optimizer": optimizer, "learning_rate": 0.002 * (i + 1), "dropout": dropout * (i + 1) / 4}
        hyper = plan.hyperparameters | changes | {"activation": activation, "steps": steps - i // 2}
        out.append(replace(plan, hyperparameters=hyper, architecture=recipe.architecture.resolve(hyper)))
    return out


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_equals_the_plain_loop(images, optimizer, activation):
    plans = plans_of(optimizer, activation, STEPS[optimizer])
    (block,) = blocks(plans, BATCH)
    tensors = train_block(block, images, BATCH, torch.float64)
    labels = evaluate_block(block, tensors, images)
    for i, plan in enumerate(block):
        module = train_net(plan, images, BATCH, torch.float64)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(tensors[name][i], value, rtol=1e-8, atol=1e-9)
        assert labels[i] == pytest.approx(evaluate_net(plan, module, images), rel=1e-7)
    assert not torch.equal(tensors["conv2.weight"][0], tensors["conv2.weight"][1])


def test_dropout_and_length_matter(images):
    """The comparison above would not notice if both sides ignored a hyperparameter."""
    base = plans_of("adam", "relu", 12)[0]
    weights = train_block([base], images, BATCH)["linear.weight"]
    changes = [("dropout", 0.0), ("steps", 11), ("learning_rate", 0.1), ("weight_decay", 0.5), ("init_gain", 1.1)]
    for name, value in [*changes, ("train_fraction", 0.31), ("init", "kaiming_normal")]:
        other = replace(base, hyperparameters=base.hyperparameters | {name: value})
        assert not torch.allclose(train_block([other], images, BATCH)["linear.weight"], weights, atol=1e-6), name


def test_block_composition_does_not_matter(images):
    plans = plans_of("adam", "tanh", 8)
    together = train_block(plans, images, BATCH, torch.float64)
    for i, plan in enumerate(plans):
        alone = train_block([plan], images, BATCH, torch.float64)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value[0], rtol=1e-10, atol=1e-12)


def test_blocks_hold_every_net_once_and_one_optimiser_each():
    recipe = load_recipe("digits-cnn")
    plans = [plan_net(recipe, net) for net in range(60)]
    made = blocks(plans, 32)
    assert sorted(plan.net for block in made for plan in block) == list(range(60))
    for block in made:
        assert len({(p.hyperparameters["optimizer"], p.architecture) for p in block}) == 1
        assert [p.steps for p in block] == sorted((p.steps for p in block), reverse=True)
    assert max(len(block) for block in made) == 4


RELU, TANH = Activation("relu"), Activation("tanh")
ARCHITECTURES = {
    "overlapping windows": (Conv(3, 3), RELU, Conv(4, 5, 1, 2), TANH, MeanPool(), Linear(10)),
    "no padding, stride 3": (Conv(3, 2, 3), TANH, Linear(10)),
    "stride above kernel": (Conv(3, 3, 1, 1), RELU, Conv(4, 1, 2), RELU, Linear(10)),
    "stride 2 kernel 5": (Conv(2, 3, 1, 1), TANH, Conv(3, 5, 2, 1), TANH, MeanPool(), Dropout(), Linear(10)),
    "no activation between": (Conv(2, 3), Conv(3, 3), Linear(5), Linear(10)),
    "activations in a row": (TANH, Conv(2, 3), RELU, TANH, Linear(6), TANH, TANH, Dropout(), Linear(10)),
    "linear only": (Linear(10),),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_any_architecture_equal_autograd(name):
    architecture = Architecture((2, 9, 9), ARCHITECTURES[name])
    torch.manual_seed(0)
    modules = [SmallCNN(architecture).double() for _ in range(3)]
    states = [{key: value.detach().numpy() for key, value in m.state_dict().items()} for m in modules]
    params = pack(architecture, states, torch.float64)
    network = Network(architecture, params, 5)
    x = torch.randn(3, 5, 2, 9, 9, dtype=torch.float64)
    weight = torch.randn(3, 10, 5, dtype=torch.float64)
    for _ in range(2):  # buffers are reused: the second pass must not see the first
        logits = network.forward(x.flatten(0, 1).flatten(1)).clone()
        grads = unpack(architecture, network.backward(weight.clone()))
    for i, module in enumerate(modules):
        module.eval()
        out = module(x[i])
        torch.testing.assert_close(logits[i], out.T)
        module.zero_grad()
        (out.T * weight[i]).sum().backward()
        for key, value in module.named_parameters():
            torch.testing.assert_close(grads[key][i], value.grad)


def test_pack_and_unpack_are_inverse():
    architecture = Architecture((2, 9, 9), ARCHITECTURES["overlapping windows"])
    state = {k: v.numpy() for k, v in SmallCNN(architecture).state_dict().items()}
    back = unpack(architecture, pack(architecture, [state, state], torch.float32))
    assert back.keys() == state.keys()
    for name, value in back.items():
        assert np.array_equal(value[1].numpy(), state[name])
