"""Nothing in a run's checkpoint is executed, imported or deleted, whichever command reads it and wherever it hides."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metanet.audit import audit
from metanet.errors import CheckpointError, MetanetError
from metanet.prediction import load_run, predict
from metanet.training import main as train
from metanet.zoo import export_net

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits_accuracy.yaml")
SIZE = ["--model.metanet.init_args.width=16", "--model.metanet.init_args.heads=4", "--model.metanet.init_args.rounds=1"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),  # Lightning 2.6's own use of torch
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # a training goes on in another folder
]


@pytest.fixture(scope="module")
def run(tiny_zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fit(tiny_zoo, folder)
    return folder


@pytest.fixture(scope="module")
def net(tiny_zoo, tmp_path_factory):
    return export_net(tiny_zoo, 0, tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture
def content(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def fit(zoo, folder, *options, epochs=1):
    place = ["--trainer.default_root_dir", str(folder), "--data.zoo", str(zoo.path)]
    return train(["fit", "--config", CONFIG, f"--trainer.max_epochs={epochs}", *SIZE, *place, *options])


def use(command, zoo, net, file, folder):
    """Give a checkpoint to a command; the class of the error that it is refused with, or None."""
    options = ["--config", CONFIG, *SIZE, "--data.zoo", str(zoo.path), "--trainer.default_root_dir", str(folder)]
    epochs = ["--trainer.max_epochs=2"] if command == "fit" else []
    try:
        if command == "predict":
            predict(file, [net])
        elif command == "audit":
            audit(file, zoo, nets=4)
        else:
            train([command, *options, *epochs, "--ckpt_path", str(file)])
    except (MetanetError, SystemExit) as error:
        return type(error)
    return None


COMMANDS = ("predict", "audit", "fit", "test", "validate")


def shell(ran):
    """Touches a file when it is instantiated as a class path whose name begins with torch."""
    return {"class_path": "torch.utils.collect_env.run", "init_args": {"command": f"touch {ran}"}}


def in_optimizer(c, ran):
    c["hyper_parameters"]["optimizer"] = shell(ran)


def in_metanet(c, ran):
    c["hyper_parameters"]["metanet"] = shell(ran)


def in_an_argument(c, ran):
    c["hyper_parameters"]["metanet"]["init_args"]["width"] = shell(ran)


def in_a_layer(c, ran):
    networks = {"any": {"class_path": "metanet.models.probegen.Layers", "init_args": {"layers": {"a": shell(ran)}}}}
    arguments = {"networks": networks, "input_shape": [1, 8, 8]}
    c["hyper_parameters"]["metanet"] = {"class_path": "metanet.models.ProbeGenMetanet", "init_args": arguments}


def as_text(c, ran):
    c["hyper_parameters"]["optimizer"] = json.dumps(shell(ran))


def as_text_of_the_metanet(c, ran):
    c["hyper_parameters"]["metanet"] = json.dumps(shell(ran))


def with_keywords(c, ran):
    path, arguments = shell(ran).values()
    c["hyper_parameters"]["metanet"] = {"class_path": path, "dict_kwargs": arguments}


def below_an_old_key(key):
    def change(c, ran):
        c[key] = {"optimizer": shell(ran)}
        del c["hyper_parameters"]["optimizer"]

    change.__name__ = f"below_{key}"
    return change


def under_another_name(c, ran):
    c["hparams_name"] = "optimizer"
    c["hyper_parameters"] = c["hyper_parameters"] | shell(ran)


def as_the_class_of_the_task(c, ran):
    c["hyper_parameters"]["_class_path"] = "torch.utils.collect_env.run"
    c["hyper_parameters"]["command"] = f"touch {ran}"


def as_the_maker(c, ran):
    c["hyper_parameters"] |= {"_instantiator": "torch.utils.collect_env.run", "command": f"touch {ran}"}


def of_the_data(c, ran):
    c["datamodule_hyper_parameters"] = {"zoo": shell(ran)}
    c["ZooDataModule"] = {"zoo": shell(ran)}


PLACES = (
    in_optimizer, in_metanet, in_an_argument, in_a_layer, as_text, as_text_of_the_metanet, with_keywords,
    below_an_old_key("hparams"), below_an_old_key("module_arguments"), below_an_old_key("hparams_type"),
    under_another_name, as_the_class_of_the_task, as_the_maker, of_the_data,
)  # fmt: skip
HARMLESS = (in_optimizer, as_text)  # the optimiser of a file is read by nobody


@pytest.mark.parametrize("command", COMMANDS)
def test_no_setting_of_a_checkpoint_runs_a_command(tiny_zoo, net, run, tmp_path, command, capsys):
    for place in PLACES:
        changed, ran = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True), tmp_path / "RAN"
        place(changed, ran)
        torch.save(changed, tmp_path / "evil.ckpt")
        refused = use(command, tiny_zoo, net, tmp_path / "evil.ckpt", tmp_path / "run")
        assert not ran.exists(), place.__name__
        assert (refused is None) == (place in HARMLESS), place.__name__


class Touch:
    """Unpickled by Python itself, it touches a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("key", ["state_dict", "loops", "callbacks", "optimizer_states", "hyper_parameters", "extra"])
@pytest.mark.parametrize("command", ["predict", "fit", "test"])
def test_no_object_in_a_checkpoint_is_made(tiny_zoo, net, content, tmp_path, monkeypatch, command, key, capsys):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what Lightning's own reading falls for
    content[key] = {"a": Touch(tmp_path / "RAN")}
    torch.save(content, tmp_path / "evil.ckpt")
    assert use(command, tiny_zoo, net, tmp_path / "evil.ckpt", tmp_path / "run") is not None
    assert not (tmp_path / "RAN").exists()


def test_the_word_last_and_the_option_weights_only_open_nothing(tiny_zoo, run, content, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content | {"loops": Touch(tmp_path / "RAN")}, folder / "checkpoints" / "last.ckpt")
    with pytest.raises(SystemExit) as stop:
        fit(tiny_zoo, folder, "--ckpt_path=last", "--weights_only=false", epochs=2)
    assert stop.value.code == 2
    assert "not imported" in capsys.readouterr().err
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("key", ["best_model_path", "kth_best_model_path", "last_model_path"])
def test_resuming_deletes_no_file_that_a_checkpoint_names(tiny_zoo, run, content, tmp_path, key, capsys):
    folder, precious = tmp_path / "run", tmp_path / "precious"
    precious.write_text("mine")
    where = folder / "checkpoints"
    where.mkdir(parents=True)
    path = str(where / ".." / ".." / "precious")
    for state in content["callbacks"].values():
        state |= {"dirpath": str(where), key: path}
        if state["monitor"]:  # worse than any score, so that the next one replaces it
            state |= {"best_k_models": {path: torch.tensor(-2.0)}, "kth_value": torch.tensor(-2.0)}
    torch.save(content, where / "last.ckpt")
    with pytest.raises(SystemExit) as stop:
        fit(tiny_zoo, folder, "--ckpt_path", str(where / "last.ckpt"), epochs=2)
    assert stop.value.code == 2
    assert "'callbacks'" in capsys.readouterr().err
    assert precious.read_text() == "mine"


def damaged(content):
    """Changes to the state of a training, each of which ends in one line."""
    state = content["optimizer_states"][0]
    moments = dict(state["state"][0])
    loop = content["loops"]["fit_loop"]
    group = state["param_groups"][0]
    schedule = content["lr_schedulers"][0]
    with_group = lambda **new: [{"state": state["state"], "param_groups": [group | new]}]  # noqa: E731
    return {
        "no loops": content | {"loops": None},
        "a loop's counter": content | {"loops": {"fit_loop": loop | {"epoch_progress": {"total": 3}}}},
        "a method overwritten": content | {"loops": {"fit_loop": loop | {"epoch_progress": {"reset": 1}}}},
        "an epoch too far": content | {"loops": {"fit_loop": loop | {"epoch_progress": 2**70}}},
        "a rate of text": content | {"optimizer_states": with_group(lr="x")},
        "a group of another optimiser": content | {"optimizer_states": with_group(momentum=0.9)},
        "a moment of another shape": content
        | {"optimizer_states": [{"state": {0: moments | {"exp_avg": torch.ones(3)}}, "param_groups": [group]}]},
        "no optimiser": content | {"optimizer_states": []},
        "a schedule's method": content | {"lr_schedulers": [schedule | {"step": 1}]},
        "callbacks of text": content | {"callbacks": {key: {"best_model_path": 3} for key in content["callbacks"]}},
        "an old version": content | {"pytorch-lightning_version": "0.9.0"},
        "a version of text": content | {"pytorch-lightning_version": "x"},
        "another task": content | {"metanet_task": "classification"},
        "no task": content | {"metanet_task": ["x"]},
        "another target": content | {"hyper_parameters": content["hyper_parameters"] | {"target": "train_loss"}},
        "a loss that there is not": content | {"hyper_parameters": content["hyper_parameters"] | {"loss": "l1"}},
        "no spaces": {key: value for key, value in content.items() if key != "metanet_spaces"},
        "a space of text": content | {"metanet_spaces": ["x"]},
        "weights of text": content | {"state_dict": {"mean": "x"}},
        "no weights": content | {"state_dict": {}},
        "one epoch of numbers": content | {"state_dict": {**content["state_dict"], "mean": torch.ones(4)}},
    }


def test_a_damaged_training_is_one_line(tiny_zoo, net, content, tmp_path, capsys):
    for name, changed in damaged(content).items():
        torch.save(changed, tmp_path / "bad.ckpt")
        assert use("fit", tiny_zoo, net, tmp_path / "bad.ckpt", tmp_path / "run") is SystemExit, name
        error = capsys.readouterr().err
        assert "error: " in error, name
        assert "bad.ckpt" in error, name


def test_a_file_that_is_none(tiny_zoo, run, tmp_path, capsys):
    (tmp_path / "folder.ckpt").mkdir()
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "loop.ckpt").symlink_to(tmp_path / "loop.ckpt")
    with open(tmp_path / "pickle.ckpt", "wb") as file:
        pickle.dump({"hyper_parameters": {}}, file)
    for name in ("folder.ckpt", "pipe.ckpt", "loop.ckpt", "pickle.ckpt", "nowhere.ckpt"):
        with pytest.raises(CheckpointError):
            load_run(tmp_path / name)
        for command in ("fit", "test"):
            assert use(command, tiny_zoo, None, tmp_path / name, tmp_path / "run") is SystemExit, name
    for word in ("best", "hpc", "registry:x", "http://127.0.0.1:9/x.ckpt"):
        assert use("fit", tiny_zoo, None, word, tmp_path / "run") is SystemExit, word
        assert "Accepted: last, or a .ckpt file" in capsys.readouterr().err


def test_a_metanet_larger_than_its_weights_takes_no_memory(net, content, tmp_path):
    for name, value in {"width": 2**20, "rounds": 10**9}.items():
        content["hyper_parameters"]["metanet"]["init_args"][name] = value
        torch.save(content, tmp_path / "huge.ckpt")
        with pytest.raises(CheckpointError, match="larger metanet than its weights"):
            load_run(tmp_path / "huge.ckpt")


def test_a_run_predicts_with_the_weights_of_its_file(tiny_zoo, run, net, content):
    from metanet.models import OperatorMetanet
    from metanet.tasks import PropertyRegression

    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    task = PropertyRegression(OperatorMetanet(width=16, heads=4, rounds=1), loss="huber")
    task.load_state_dict(state)
    with torch.no_grad():
        expected = task.double().eval()(tiny_zoo.graph([0]).to(torch.float64)).item()
    assert predict(run, [net])[0].value == pytest.approx(expected, rel=1e-12)


def test_a_metanet_of_ones_own_is_imported_only_when_trusted(tiny_zoo, net, tmp_path):
    (tmp_path / "own.py").write_text(
        "import pathlib, torch\nfrom metanet.models import Metanet\npathlib.Path('RAN').touch()\n"
        "class Own(Metanet):\n"
        "    def __init__(self, scale: float = 1.0):\n"
        "        super().__init__()\n"
        "        self.out_features, self.head = 1, torch.nn.Linear(1, 1)\n"
        "        self.scale = scale\n"
        "    def forward(self, graph):\n"
        "        return self.head(self.scale * next(iter(graph.tensors.values())).flatten(1).mean(1, keepdim=True))\n"
    )
    script = (
        "import sys\nfrom pathlib import Path\nfrom metanet.prediction import load_run\n"
        "from metanet.errors import MetanetError\n"
        "from metanet.training import main\n"
        "if sys.argv[1] == 'fit': main(sys.argv[1:])\n"
        "else:\n"
        "    try: load_run('run'); print('loaded')\n"
        "    except MetanetError as error: print('--trust' in str(error), Path('RAN').exists())\n"
        "    print(load_run('run', trust=True).metanet.scale)\n"
    )
    arguments = ["fit", "--trainer.max_epochs=1", "--trainer.default_root_dir=run", "--data.zoo", str(tiny_zoo.path)]
    arguments += ["--model.metanet=own.Own", "--model.metanet.init_args.scale=3"]
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])

    def python(*words):
        done = subprocess.run(
            [sys.executable, "-c", script, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    python(*arguments)
    (tmp_path / "RAN").unlink()
    assert python("load") == ["True", "False", "3.0"]
    assert python(*[a.replace("epochs=1", "epochs=2") for a in arguments], "--ckpt_path=run/checkpoints/last.ckpt")
