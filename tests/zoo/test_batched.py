"""The batched builder against the plain loop: same seeds, same nets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from metanet.zoo.architecture import (
    ACTIVATIONS,
    Activation,
    Add,
    Architecture,
    BatchNorm,
    Conv,
    Dropout,
    Linear,
    MaxPool,
    MeanPool,
    Shift,
)
from metanet.zoo.batched import blocking
from metanet.zoo.batched.blocking import blocks, part_size
from metanet.zoo.batched.evaluate import evaluate_block
from metanet.zoo.batched.network import Network
from metanet.zoo.batched.slots import pack, unpack
from metanet.zoo.batched.train import train_block
from metanet.zoo.draws import NetStream, plan_net
from metanet.zoo.fields import fields_of, move_images
from metanet.zoo.images import load_images
from metanet.zoo.initial import initial_weights
from metanet.zoo.loop import evaluate_net, train_net
from metanet.zoo.plain import SmallCNN
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
        out.append(
            replace(plan, hyperparameters=hyper, architecture=recipe.architecture.draw(np.random.default_rng(0), hyper))
        )
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


@pytest.mark.parametrize("fn", ["relu", "leaky_relu", "tanh", "gelu"])
def test_dropout_after_activations_equals_the_plain_loop(images, monkeypatch, fn):
    """Dropout may work in the memory of the activation, and that in the memory of the convolution; by halves here."""
    monkeypatch.setattr(blocking, "CACHE", 1)
    monkeypatch.setattr(blocking, "FEWEST", BATCH)
    act = Activation(fn)
    layers = (
        Conv(4, 3, 2),
        act,
        Dropout(),
        Conv(5, 2),
        act,
        Dropout(),
        MeanPool(),
        Linear(6),
        act,
        Dropout(),
        Linear(10),
    )
    plans = [replace(p, architecture=Architecture((1, 8, 8), layers)) for p in plans_of("sgd", fn, 8)[:2]]
    assert part_size(plans[0].architecture, 2, BATCH) == BATCH // 2
    tensors = train_block(plans, images, BATCH, torch.float64)
    for i, plan in enumerate(plans):
        for name, value in train_net(plan, images, BATCH, torch.float64).state_dict().items():
            torch.testing.assert_close(tensors[name][i], value, rtol=1e-8, atol=1e-9)


CHANGES = {
    "augmentation": {"flip": 0.5, "shift": 2},
    "label noise": {"label_noise": 0.4},
    "cosine": {"schedule": "cosine"},
    "linear, decay of weights alone": {"schedule": "linear", "weight_decay": 0.3, "decay_biases": "no"},
    "constants of rmsprop": {"optimizer": "rmsprop", "smoothing": 0.9, "epsilon": 1e-3, "init": "normal"},
    "truncated": {"init": "truncated_normal", "init_std": 0.2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_hyperparameters_mean_the_same_in_the_plain_loop(images, name):
    plans = [replace(p, hyperparameters=p.hyperparameters | CHANGES[name]) for p in plans_of("adam", "tanh", 9)]
    tensors = train_block(plans, images, BATCH, torch.float64)
    labels = evaluate_block(plans, tensors, images, (40, 50))
    for i, plan in enumerate(plans):
        module = train_net(plan, images, BATCH, torch.float64)
        for key, value in module.state_dict().items():
            torch.testing.assert_close(tensors[key][i], value, rtol=1e-8, atol=1e-9)
        assert labels[i] == pytest.approx(evaluate_net(plan, module, images, (40, 50)), rel=1e-7)
    plain = train_block(plans_of("adam", "tanh", 9), images, BATCH, torch.float64)
    assert not torch.allclose(tensors["conv1.weight"], plain["conv1.weight"], atol=1e-6)


def test_parts_of_a_batch_add_up(images, monkeypatch):
    moved = {"flip": 0.5, "shift": 1}
    plans = [replace(p, hyperparameters=p.hyperparameters | moved) for p in plans_of("adam", "tanh", 6)]
    whole = train_block(plans, images, BATCH, torch.float64)
    monkeypatch.setattr(blocking, "CACHE", 1)
    monkeypatch.setattr(blocking, "FEWEST", 1)
    assert part_size(plans[0].architecture, 4, BATCH) == 1
    assert [len(block) for block in blocks(plans, BATCH)] == [1, 1, 1, 1]
    parts = train_block(plans, images, BATCH, torch.float64)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-11)


def test_checkpoints_are_the_nets_of_shorter_trainings(images):
    plans = [replace(plan, checkpoints=(0, 3, 11)) for plan in plans_of("adam", "relu", 12)]
    assert [plan.kept for plan in plans] == [(0, 3, 11, 12), (0, 3, 11, 12), (0, 3, 11), (0, 3, 11)]
    tensors = train_block(plans, images, BATCH, torch.float64)
    labels = evaluate_block(plans, tensors, images)
    rows = [(plan, step) for plan in plans for step in plan.kept]
    assert [label["step"] for label in labels] == [step for _, step in rows]
    first = initial_weights(plans[0])["conv1.weight"]
    assert torch.equal(tensors["conv1.weight"][0], torch.from_numpy(first))
    for row, (plan, step) in enumerate(rows):
        if step:
            short = replace(plan, hyperparameters=plan.hyperparameters | {"steps": step}, checkpoints=())
            alone = train_block([short], images, BATCH, torch.float64)
            torch.testing.assert_close(tensors["linear.weight"][row], alone["linear.weight"][0], rtol=1e-9, atol=1e-11)
    kept = {}
    train_net(plans[2], images, BATCH, torch.float64, keep=lambda step, m: kept.update({step: m.conv2.bias.clone()}))
    assert sorted(kept) == [0, 3, 11]
    torch.testing.assert_close(tensors["conv2.bias"][9], kept[3].detach(), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("batch_size", [64, 16])
@pytest.mark.parametrize("recipe", ["digits-inr", "cifar10-inr-nfn"])
def test_nets_that_fit_images_equal_the_plain_loop(images, recipe, batch_size):
    recipe = load_recipe(recipe).with_(max_steps=12)
    coordinates, span = recipe.coordinates, 1.0 if recipe.name == "digits-inr" else 2.0
    colours = replace(images, pixels=np.repeat(images.pixels, recipe.architecture.draw(None, {}).shapes()[-1][0], 1))
    fields = fields_of(colours, span, coordinates)
    plans = [plan_net(recipe, net) for net in range(3)]
    tensors = train_block(plans, fields, batch_size, torch.float64)
    labels = evaluate_block(plans, tensors, fields)
    assert len({label["image"] for label in labels}) == 3
    for i, plan in enumerate(plans):
        module = train_net(plan, fields, batch_size, torch.float64)
        for key, value in module.state_dict().items():
            torch.testing.assert_close(tensors[key][i], value, rtol=1e-7, atol=1e-9)
        assert labels[i] == pytest.approx(evaluate_net(plan, module, fields), rel=1e-6)
        assert labels[i]["psnr"] == pytest.approx(10 * np.log10(span**2 / labels[i]["mse"]))


def test_fields_are_the_images_as_functions(images):
    fields = fields_of(images, 1.0, "xy")
    assert fields.points[0].tolist() == [-1, -1]
    assert fields.points[7].tolist() == [1, -1]  # the end of the first row: column first
    assert fields_of(images, 1.0, "ij").points[7].tolist() == [-1, 1]
    assert fields.values[5, 0, 8 * 2 + 3] == images.pixels[5, 0, 2, 3]


def test_moved_images():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    assert torch.equal(move_images(image, torch.tensor([[1, 0, 0]])), image.flip(3))
    moved = move_images(image, torch.tensor([[0, 1, -1]]))[0, 0]
    assert moved.tolist() == [[3, 3, 4], [6, 6, 7], [6, 6, 7]]


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
    "max pooling, rows left over": (Conv(4, 3), RELU, MaxPool(2), Conv(3, 2), TANH, MaxPool(2), Linear(10)),
    "max pooling first": (MaxPool(2), Conv(4, 3), MeanPool(), Linear(10)),
    "norms": (Conv(4, 3), BatchNorm(), RELU, Conv(3, 3), TANH, BatchNorm(), Linear(6), BatchNorm(), TANH, Linear(10)),
    "residual to more channels": (Conv(3, 3, 1, 1), TANH, Conv(5, 3, 1, 1), Add(1), TANH, MeanPool(), Linear(10)),
    "residual to fewer channels, twice": (
        *(Conv(6, 3, 1, 1), Activation("gelu"), Conv(4, 5, 1, 2), Add(1), Activation("none"), Conv(3, 3, 1, 1)),
        *(Add(1), Activation("silu"), Conv(5, 3, 1, 1), Add(4), RELU, Conv(5, 3, 1, 1), Add(7), MeanPool(), Linear(10)),
    ),
    "residual from a convolution and after an activation": (
        *(Conv(4, 3, 1, 1), TANH, Conv(4, 3, 1, 1), TANH, Add(0), Activation("sin", 2.0), Conv(4, 3, 1, 1), Add(2)),
        *(Activation("sin", 3.0), MeanPool(), Linear(10)),
    ),
    "residual of features": (Linear(6), TANH, Linear(7), Add(1), Activation("gelu"), Linear(10), Shift(0.5)),
    "dropout of images": (Conv(3, 3), RELU, Dropout(), Conv(3, 3), Dropout(), MeanPool(), Linear(10)),
} | {f"{fn} twice": (Conv(3, 3), Activation(fn), Activation(fn, 2.5), MeanPool(), Linear(10)) for fn in ACTIVATIONS}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_any_architecture_equal_autograd(name):
    architecture = Architecture((2, 9, 9), ARCHITECTURES[name])
    torch.manual_seed(0)
    modules = [SmallCNN(architecture).double() for _ in range(3)]
    states = [{key: value.detach().numpy() for key, value in m.state_dict().items()} for m in modules]
    params = pack(architecture, states, torch.float64)
    network = Network(architecture, params, 5, training=True)
    x = torch.randn(3, 5, 2, 9, 9, dtype=torch.float64)
    weight = torch.randn(3, 10, 5, dtype=torch.float64)
    for _ in range(2):  # buffers are reused: the second pass must not see the first
        logits = network.forward(x.movedim(1, -1)).clone()
        network.backward(weight.clone())
        flat = network.gradients()
        grads = unpack(architecture, torch.cat([flat, flat.new_zeros(3, params.shape[1] - flat.shape[1])], 1))
    for i, module in enumerate(modules):
        module.train()
        out = module(x[i])
        torch.testing.assert_close(logits[i], out.T)
        module.zero_grad()
        (out.T * weight[i]).sum().backward()
        for key, value in module.named_parameters():
            torch.testing.assert_close(grads[key][i], value.grad)


@pytest.mark.parametrize("name", [name for name, layers in ARCHITECTURES.items() if isinstance(layers[0], Conv)])
def test_float32_takes_other_paths_to_the_same_gradients(name):
    architecture = Architecture((2, 9, 9), ARCHITECTURES[name])
    torch.manual_seed(0)
    states = [{key: value.numpy() for key, value in SmallCNN(architecture).state_dict().items()} for _ in range(3)]
    x, weight = torch.randn(3, 2, 9, 9, 5), torch.randn(3, 10, 5)
    grads = []
    for dtype in (torch.float32, torch.float64):
        network = Network(architecture, pack(architecture, states, dtype), 5, training=True)
        network.forward(x.to(dtype))
        network.backward(weight.to(dtype))
        grads.append(network.gradients())
    scale = float(grads[1].abs().max())
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3456789, 0.5, 0.999])
def test_kept_units_are_those_that_masks_keep(rate):
    """Also over calls that need an odd count of random numbers, which come in pairs."""
    plan = plan_net(load_recipe("digits-cnn"), 0)
    plan = replace(plan, hyperparameters=plan.hyperparameters | {"dropout": rate})
    plain, fast = (NetStream(plan, np.arange(50), 3) for _ in range(2))
    for steps in (1, 2, 3, 300):
        masks = plain.masks(steps, 5)
        kept = [np.empty(shape, dtype=bool) for shape in ((steps, 2, 1, 3), (steps, 3, 3, 1))]
        fast.kept_units(steps, kept)
        kept = np.concatenate([layer.reshape(steps, -1, 3) for layer in kept], axis=1)
        assert np.array_equal(masks, kept * plain.factor)


def test_running_statistics_and_evaluation_equal_pytorch():
    architecture = Architecture((2, 5, 5), (Conv(3, 3), BatchNorm(), TANH, Linear(4), BatchNorm(), Linear(2)))
    torch.manual_seed(0)
    modules = [SmallCNN(architecture).double() for _ in range(2)]
    params = pack(architecture, [{k: v.numpy() for k, v in m.state_dict().items()} for m in modules], torch.float64)
    x = torch.randn(2, 6, 2, 5, 5, dtype=torch.float64)
    Network(architecture, params, 6, training=True).forward(x.movedim(1, -1))
    outputs = Network(architecture, params, 6).forward(x.movedim(1, -1))
    for i, module in enumerate(modules):
        module.train()(x[i])
        for key, value in module.state_dict().items():
            torch.testing.assert_close(unpack(architecture, params)[key][i], value)
        torch.testing.assert_close(outputs[i], module.eval()(x[i]).T)
    assert "batch_norm1.running_var" in unpack(architecture, params)


def test_pack_and_unpack_are_inverse():
    architecture = Architecture((2, 9, 9), ARCHITECTURES["overlapping windows"])
    state = {k: v.numpy() for k, v in SmallCNN(architecture).state_dict().items()}
    back = unpack(architecture, pack(architecture, [state, state], torch.float32))
    assert back.keys() == state.keys()
    for name, value in back.items():
        assert np.array_equal(value[1].numpy(), state[name])
