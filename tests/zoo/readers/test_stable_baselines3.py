"""Agents in the layout of Stable-Baselines3's zoo."""

import io
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch

from metanet.space import trace
from metanet.symmetry import certify
from metanet.zoo import import_zoo
from metanet.zoo.readers.policies import Policy

CONFIG = """!!python/object/apply:collections.OrderedDict
- - - learning_rate
    - lin_0.001
  - - n_timesteps
    - 1000.0
  - - policy_kwargs
    - dict(net_arch=[8, 8], activation_fn=nn.ReLU)
  - - train_freq
    - !!python/tuple [1, episode]
"""


def linear(name, read, written):
    return {f"{name}.weight": torch.randn(written, read), f"{name}.bias": torch.randn(written)}


def mlp(prefix, *sizes):
    return {k: v for i, pair in enumerate(pairwise(sizes)) for k, v in linear(f"{prefix}.{2 * i}", *pair).items()}


def on_policy(log_std):
    state = {"log_std": log_std} if log_std is not None else {}
    state |= mlp("mlp_extractor.policy_net", 3, 8, 8) | mlp("mlp_extractor.value_net", 3, 8, 6)
    return state | linear("action_net", 8, 2) | linear("value_net", 6, 1)


def soft(state_dependent):
    """Actor and two critics with their targets; with state-dependent exploration, actor.mu is a sequence."""
    state = {"actor.log_std": torch.randn(8, 2)} if state_dependent else linear("actor.log_std", 8, 2)
    state |= mlp("actor.latent_pi", 3, 8, 8) | linear("actor.mu.0" if state_dependent else "actor.mu", 8, 2)
    for critic in ("critic.qf0", "critic.qf1", "critic_target.qf0", "critic_target.qf1"):
        state |= mlp(critic, 5, 7, 1)
    return state


def pixels():
    conv = {}
    for i, (c, k, n) in enumerate([(4, 8, 6), (6, 4, 5), (5, 3, 5)]):
        conv |= {f"features_extractor.cnn.{2 * i}.weight": torch.randn(n, c, k, k),
                 f"features_extractor.cnn.{2 * i}.bias": torch.randn(n)}  # fmt: skip
    conv |= {
        "features_extractor.linear.0.weight": torch.randn(9, 5 * 49),
        "features_extractor.linear.0.bias": torch.randn(9),
    }
    again = {name.replace("features", "pi_features", 1): t for name, t in conv.items()}
    return conv | again | linear("action_net", 9, 2) | linear("value_net", 9, 1)


POLICIES = {
    "ppo": on_policy(torch.randn(2)),
    "a2c": on_policy(None),
    "trpo": on_policy(torch.randn(8, 2)),
    "sac": soft(False),
    "tqc": soft(True),
    "ars": {"action_net.weight": torch.randn(2, 3)},
    "dqn": mlp("q_net.q_net", 3, 8, 8, 4) | mlp("q_net_target.q_net", 3, 8, 8, 4),
    "qrdqn": mlp("quantile_net.quantile_net", 3, 8, 40),
    "ddpg": mlp("actor.mu", 3, 8, 2) | mlp("actor_target.mu", 3, 8, 2) | mlp("critic.qf0", 5, 8, 1),
}


def agent(folder, state, zipped=False):
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(CONFIG)
    (folder / "args.yml").write_text("!!python/object/apply:collections.OrderedDict\n- - - seed\n    - 7\n")
    np.savez(folder / "evaluations.npz", timesteps=[10, 20], results=[[[1.0], [5.0]], [[2.0], [2.0]]])
    if zipped:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with zipfile.ZipFile(folder / f"{folder.name.removesuffix('_1')}.zip", "w") as archive:
            archive.writestr("policy.pth", buffer.getvalue())
            archive.writestr("data", "{}")
    else:
        torch.save(state, folder / "policy.pth")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    path = tmp_path_factory.mktemp("agents")
    for algorithm, state in POLICIES.items():
        agent(path / algorithm / "Env-v0_1", state)
    agent(path / "ppo" / "Zipped-v0_2", POLICIES["ppo"])
    agent(path / "a2c" / "Zip-v1_1", POLICIES["a2c"], zipped=True)
    agent(path / "dqn" / "Odd-v0_1", POLICIES["dqn"] | {"q_net.gru.weight_ih": torch.randn(3, 3)})
    return import_zoo("stable-baselines3", path, path.parent / "out")


def test_every_policy_is_read_and_certified_and_foreign_ones_are_listed(zoo):
    assert len(zoo) == len(POLICIES) + 2
    assert [entry["id"] for entry in zoo.unreadable] == ["dqn/Odd-v0_1"]
    assert "'q_net.gru.weight_ih'" in zoo.unreadable[0]["reason"]
    assert all(space.certified for space in zoo.spaces.values())
    for net in zoo:
        assert not any("target" in name for name in net.tensors)
        want = POLICIES[net.id.split("/")[0]]
        assert all(torch.equal(value, want[name]) for name, value in net.tensors.items())


def test_labels_come_from_the_files_of_an_agent(zoo):
    labels = zoo[int(zoo.rows(id="dqn/Env-v0_1")[0])].labels
    assert (labels["algorithm"], labels["environment"], labels["activation"]) == ("dqn", "Env-v0", "relu")
    assert (labels["learning_rate"], labels["schedule"], labels["seed"]) == (1e-3, "linear", 7)
    assert (labels["final_mean_reward"], labels["best_mean_reward"]) == (2.0, 3.0)
    assert (labels["evaluation_episodes"], labels["timesteps"]) == (2, 20)


def test_the_forward_pass_is_that_of_the_policy():
    state = POLICIES["sac"]
    kept = {k: v for k, v in state.items() if "target" not in k}
    policy = Policy(tuple((k, tuple(v.shape)) for k, v in kept.items()), "relu")
    policy.load_state_dict(kept)
    observation, action = torch.randn(2, 3), torch.randn(2, 2)
    latent = torch.relu(observation @ state["actor.latent_pi.0.weight"].T + state["actor.latent_pi.0.bias"])
    latent = torch.relu(latent @ state["actor.latent_pi.2.weight"].T + state["actor.latent_pi.2.bias"])
    mean, _, first, _ = policy(observation, action)
    torch.testing.assert_close(mean, latent @ state["actor.mu.weight"].T + state["actor.mu.bias"])
    hidden = torch.relu(
        torch.cat([observation, action], 1) @ state["critic.qf0.0.weight"].T + state["critic.qf0.0.bias"]
    )
    torch.testing.assert_close(first, hidden @ state["critic.qf0.2.weight"].T + state["critic.qf0.2.bias"])


def test_policies_on_pixels(tmp_path):
    agent(tmp_path / "agents" / "ppo" / "Pong_1", pixels())
    zoo = import_zoo("stable-baselines3", tmp_path / "agents", tmp_path / "out")
    assert len(zoo) == 1
    assert "pi_features_extractor.cnn.0.weight" not in zoo[0].tensors
    (space,) = zoo.spaces.values()
    assert {a.size for a in space.free_axes} == {6, 5, 9}


def test_an_index_may_name_a_file_twice(tmp_path):
    agent(tmp_path / "agents" / "ppo" / "A_1", POLICIES["ppo"])
    index = "algorithm\tenvironment\tfolder\tfinal_mean_reward\nppo\tA\tppo/A_1\t2.0\nppo\tbest_model\tppo/A_1\t2.0\n"
    (tmp_path / "agents" / "agents.tsv").write_text(index)
    zoo = import_zoo("stable-baselines3", tmp_path / "agents", tmp_path / "out")
    assert list(zoo.column("id")) == ["ppo/A_1", "ppo/A_1#2"]
    assert list(zoo.column("environment")) == ["A", "A"]
    assert list(zoo.column("best_model")) == [False, True]
    assert len(set(zoo.column("run"))) == len(set(zoo.column("split"))) == 1


def test_a_policy_that_reads_its_neurons_in_an_order_loses_the_certificate(monkeypatch):
    policy = Policy(tuple((k, tuple(v.shape)) for k, v in POLICIES["a2c"].items()), "tanh")
    space, through = trace(policy, policy.example()), policy._through
    assert certify(policy, space, policy.example()).ok
    monkeypatch.setattr(Policy, "_through", lambda _, path, x: through(path, x).cumsum(1))
    assert not certify(policy, space, policy.example()).ok
