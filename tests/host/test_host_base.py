"""Updates, weights, optimisers and text-to-3D systems of the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from contract_values import close
from omegaconf import OmegaConf

import threestudio
from threestudio.systems.losses import REGULARISERS, regulariser
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import BaseModule, BaseObject, Updateable
from threestudio.utils.misc import load_module_weights


# --------------------------------------------------------------------------------------------------------- updates
class Recorder(Updateable):
    def __init__(self, name, log):
        self.name, self.log = name, log

    def update_step(self, epoch, global_step, on_load_weights=False):
        self.log.append((self.name, epoch, global_step, on_load_weights))

    def update_step_end(self, epoch, global_step):
        self.log.append((self.name, "end", global_step))


def test_updates_reach_owned_parts_once_and_before_their_owner():
    log = []
    shared = Recorder("shared", log)

    class Owner(Recorder):
        def __init__(self):
            super().__init__("owner", log)
            self.part = shared
            self.same_part_again = shared
            self._private = Recorder("private", log)

        @property
        def alias(self):
            raise AssertionError("properties are not evaluated")

    owner = Owner()
    owner.do_update_step(1, 7, on_load_weights=True)
    owner.do_update_step_end(1, 7)
    assert log == [("shared", 1, 7, True), ("owner", 1, 7, True), ("shared", "end", 7), ("owner", "end", 7)]


class Part(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        width: int = 2

    cfg: Config

    def configure(self, scale=1.0):
        self.linear = torch.nn.Linear(self.cfg.width, 1, bias=False)
        self.scale = scale
        self.loaded_at = None

    def update_step(self, epoch, global_step, on_load_weights=False):
        if on_load_weights:
            self.loaded_at = (epoch, global_step)


def test_updates_reach_submodules():
    class Whole(BaseModule):
        def configure(self):
            self.part = Part({})

    whole = Whole({})
    whole.do_update_step(2, 9, on_load_weights=True)
    assert whole.part.loaded_at == (2, 9)


def test_configure_receives_further_arguments():
    assert Part({}, scale=3.0).scale == 3.0
    assert "_dummy" not in Part({}).state_dict()

    class Thing(BaseObject):
        def configure(self, value):
            self.value = value

    assert Thing({}, 4).value == 4


# --------------------------------------------------------------------------------------------------------- weights
@pytest.fixture
def checkpoint(tmp_path):
    state = {"part.linear.weight": torch.tensor([[3.0, 4.0]]), "part_b.x": torch.zeros(1), "other.y": torch.ones(1)}
    path = tmp_path / "c.ckpt"
    torch.save({"state_dict": state, "epoch": 1, "global_step": 40}, path)
    return path


def test_weights_of_one_module(checkpoint):
    part = Part({"weights": f"{checkpoint}:part"})
    close(part.linear.weight, [[3.0, 4.0]])
    assert part.loaded_at == (1, 40)


def test_module_weights_are_taken_by_exact_name(checkpoint):
    weights, epoch, step = load_module_weights(checkpoint, module_name="part")
    assert list(weights) == ["linear.weight"] and (epoch, step) == (1, 40)
    assert list(load_module_weights(checkpoint, ignore_modules=["part", "other"])[0]) == ["part_b.x"]
    with pytest.raises(ValueError, match="no weights of module 'prt'; its modules: other, part, part_b"):
        load_module_weights(checkpoint, module_name="prt")
    with pytest.raises(ValueError, match="exclude each other"):
        load_module_weights(checkpoint, module_name="part", ignore_modules=["other"])
    with pytest.raises(ValueError, match="write checkpoint:module"):
        Part({"weights": str(checkpoint)})


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {}, "x": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot read checkpoint"):
        load_module_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------ optimisers
def model() -> torch.nn.Module:
    return torch.nn.ModuleDict({"geometry": torch.nn.Linear(2, 2), "guidance": torch.nn.Linear(2, 1)})


def optimizer_config(**keys):
    return OmegaConf.create({"name": "AdamW", "args": {"lr": 0.1, "betas": [0.9, 0.99]}, **keys})


def test_optimizer_groups_have_their_own_arguments(caplog):
    net = model()
    params = {"geometry": {"lr": 0.01}, "guidance.bias": {"lr": 1e-4, "weight_decay": 0.0}}
    with caplog.at_level("WARNING", logger="threestudio"):
        optimizer = parse_optimizer(optimizer_config(params=params), net)
    assert [group["name"] for group in optimizer.param_groups] == ["geometry", "guidance.bias"]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 1e-4]
    assert list(optimizer.param_groups[0]["betas"]) == [0.9, 0.99]
    assert optimizer.param_groups[1]["params"] == [net["guidance"].bias]
    assert "not trained, because system.optimizer.params lacks them: guidance" in caplog.text


def test_optimizer_without_groups_takes_everything():
    assert len(parse_optimizer(optimizer_config(), model()).param_groups[0]["params"]) == 4


def test_optimizer_mistakes_are_named():
    with pytest.raises(ValueError, match=r"params\.geomtry: no such module; modules with parameters: geometry, guid"):
        parse_optimizer(optimizer_config(params={"geomtry": {}}), model())
    with pytest.raises(ValueError, match=r"params\.geometry has no argument lrr"):
        parse_optimizer(optimizer_config(params={"geometry": {"lrr": 1}}), model())
    with pytest.raises(ValueError, match="unknown system.optimizer.name 'None'"):
        parse_optimizer(OmegaConf.create({}), model())


def test_sequential_schedule():
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    config = OmegaConf.create(
        {
            "name": "SequentialLR",
            "interval": "step",
            "milestones": [2],
            "schedulers": [
                {"name": "LinearLR", "args": {"start_factor": 0.5, "end_factor": 1.0, "total_iters": 2}},
                {"name": "ExponentialLR", "args": {"gamma": 0.5}},
            ],
        }
    )
    schedule = parse_scheduler(config, optimizer)
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    # a linear warm-up over two steps, then halved each step
    assert rates == pytest.approx([0.5, 0.75, 1.0, 0.5, 0.25])


def test_chained_schedules_multiply():
    optimizer = torch.optim.SGD(model().parameters(), lr=1.0)
    part = {"name": "ExponentialLR", "args": {"gamma": 0.5}}
    schedule = parse_scheduler(OmegaConf.create({"name": "ChainedScheduler", "schedulers": [part, part]}), optimizer)
    optimizer.step()
    schedule["scheduler"].step()
    assert schedule["interval"] == "epoch"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "config,message",
    [
        ({"name": "Exp"}, "unknown system.scheduler.name 'Exp'"),
        ({"name": "ExponentialLR", "interval": "week"}, "interval 'week'; choices: epoch, step"),
        ({"name": "ExponentialLR", "args": {"gama": 1}}, "system.scheduler.args has no argument gama"),
    ],
)
def test_schedule_mistakes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        parse_scheduler(OmegaConf.create(config), torch.optim.SGD(model().parameters(), lr=1.0))


# ---------------------------------------------------------------------------------------------------- regularisers
def test_regularisers_by_hand():
    out = {
        "opacity": torch.tensor([0.0, 0.6, 1.0]).reshape(1, 1, 3, 1),
        "z_variance": torch.tensor([9.0, 0.2, 0.4]).reshape(1, 1, 3, 1),
        "normal": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]),
        "t_dirs": torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.6, 0.8]]),
        "weights": torch.tensor([[0.5], [0.25]]),
        "sdf_grad": torch.tensor([[0.0, 0.0, 3.0], [0.0, 1.0, 0.0]]),
        "mesh": SimpleNamespace(normal_consistency=lambda: torch.tensor(2.0), laplacian=lambda: torch.tensor(3.0)),
    }
    entropy = -2 * (0.001 * torch.tensor(0.001).log() + 0.999 * torch.tensor(0.999).log())
    entropy = entropy - (0.6 * torch.tensor(0.6).log() + 0.4 * torch.tensor(0.4).log())
    expected = {
        "orient": 0.5 * 0.8**2 / 2,  # only the first sample faces away; two rays hit something
        "sparsity": (0.01**0.5 + 0.37**0.5 + 1.01**0.5) / 3,
        "opaque": entropy.item() / 3,
        "z_variance": 0.3,
        "eikonal": 2.0,
        "normal_consistency": 2.0,
        "laplacian_smoothness": 3.0,
    }
    assert expected.keys() == REGULARISERS.keys()
    for name, value in expected.items():
        close(regulariser(name, out), torch.tensor(value))


def test_nothing_hit_is_not_a_division_by_zero():
    out = {"opacity": torch.zeros(1, 2, 2, 1), "z_variance": torch.zeros(1, 2, 2, 1)}
    assert regulariser("z_variance", out).item() == 0.0


def test_a_missing_output_is_named():
    with pytest.raises(ValueError, match="lambda_orient needs normal, t_dirs, weights, which this renderer does not"):
        regulariser("orient", {"opacity": torch.ones(1)})


# --------------------------------------------------------------------------------------------------------- systems
class Scene(BaseModule):
    """Stands for geometry, material and background."""

    def configure(self):
        self.colour = torch.nn.Parameter(torch.full((3,), 0.5))


class Renderer(BaseModule):
    """One colour for every pixel."""

    def configure(self, geometry, material, background):
        self.shared = SimpleNamespace(geometry=geometry)

    def forward(self, rays_o, render_rgb=True, **kwargs):
        colour = self.shared.geometry.colour.expand(*rays_o.shape)
        out = {"comp_normal": colour, "opacity": colour[..., :1].clamp(0, 1)}
        return {**out, "comp_rgb": colour} if render_rgb else out


class Guidance(BaseModule):
    """Pulls the image towards black; the number of each call is kept."""

    def configure(self):
        self.calls = []

    def forward(self, rgb, prompt_utils, rgb_as_latents=False, **batch):
        self.calls.append((rgb.detach().clone(), prompt_utils, batch))
        return {"loss_pull": rgb.square().sum(), "grad_norm": 1.0, "picture": torch.zeros(2, 2)}

    def sample(self, prompt_utils, seed=0, **batch):
        return torch.full((1, 4, 4, 3), 0.25)

    sample_lora = sample


class Exporter(BaseObject):
    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    def configure(self, geometry, material, background):
        self.colour = geometry.colour

    def __call__(self):
        return [SimpleNamespace(save_name="c.json", save_type="json", params={"payload": self.colour.tolist()})]


@dataclass
class Words:
    cfg: dict = field(default_factory=dict)

    def __call__(self):
        return "the prompt"


PARTS = {"toy-scene": Scene, "toy-renderer": Renderer, "toy-guidance": Guidance, "toy-exporter": Exporter}
SYSTEM = {
    **{f"{part}_type": "toy-scene" for part in ("geometry", "material", "background")},
    "renderer_type": "toy-renderer",
    "guidance_type": "toy-guidance",
    "prompt_processor_type": "toy-words",
    "exporter_type": "toy-exporter",
    "loss": {"lambda_pull": 2.0, "lambda_sparsity": [0, 0.0, 1.0, 10]},
    "optimizer": {"name": "SGD", "args": {"lr": 0.1}, "params": {"geometry": {}}},
}


@pytest.fixture
def parts(monkeypatch, tmp_path):
    registry = {**threestudio.__modules__, **PARTS, "toy-words": Words}
    monkeypatch.setattr(threestudio, "__modules__", registry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trainer_for(tmp_path, **kwargs):
    import pytorch_lightning as pl

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return pl.Trainer(
        **{**quiet, "enable_checkpointing": False, "num_sanity_val_steps": 0, "inference_mode": False, **kwargs}
    )


def datamodule():
    sizes = {"height": 4, "width": 4, "eval_height": 16, "eval_width": 16, "n_test_views": 2}
    return threestudio.find("random-camera-datamodule")(sizes)


@pytest.mark.parametrize("name", ["dreamfusion-system", "prolificdreamer-system"])
def test_stock_systems_train_and_save(name, parts):
    system = threestudio.find(name)(SYSTEM)
    system.set_save_dir(str(parts / "save"))
    trainer = trainer_for(parts, max_steps=2)
    trainer.fit(system, datamodule=datamodule())
    trainer.test(system, datamodule=datamodule(), verbose=False)
    # d/dc of 2 * 16 pixels * 3 c^2 per channel: c <- c - 0.1 * 64 c, twice; the sparsity term starts at weight 0
    assert len(system.guidance.calls) == 2 and system.guidance.calls[0][1] == "the prompt"
    assert {"elevation", "azimuth", "c2w", "mvp_mtx", "camera_distances"} <= set(system.guidance.calls[0][2])
    first, second = (call[0].mean().item() for call in system.guidance.calls)
    assert second == pytest.approx(first * (1 - 0.1 * 64), rel=1e-5)
    assert (parts / "save" / "it2-test.mp4").is_file()
    assert (parts / "save" / "it2-0.png").is_file() or not trainer.val_check_batch < float("inf")


def test_prolificdreamer_stages_show_the_guidance_different_things(parts):
    system = threestudio.find("prolificdreamer-system")({**SYSTEM, "stage": "geometry"})
    assert system.guided_output == "comp_normal"
    assert "comp_rgb" not in system({"rays_o": torch.zeros(1, 2, 2, 3)})
    with pytest.raises(ValueError, match="unknown system.stage 'middle'; choices: coarse, geometry, texture"):
        threestudio.find("prolificdreamer-system")({**SYSTEM, "stage": "middle"})


def test_prolificdreamer_saves_samples(parts):
    system = threestudio.find("prolificdreamer-system")({**SYSTEM, "visualize_samples": True})
    system.set_save_dir(str(parts / "save"))
    system.setup("fit")
    trainer_for(parts).validate(system, datamodule=datamodule(), verbose=False)
    names = {path.name for path in (parts / "save").iterdir()}
    assert names == {"it0-0.png", "it0-0-sample.png", "it0-0-sample_lora.png"}


def test_a_loss_without_a_weight_is_named(parts):
    system = threestudio.find("dreamfusion-system")({**SYSTEM, "loss": {}})
    with pytest.raises(ValueError, match="system.loss has no lambda_pull, the weight of the guidance's loss_pull"):
        trainer_for(parts, max_steps=1).fit(system, datamodule=datamodule())


def test_an_asset_is_exported_without_its_guidance(parts):
    system = threestudio.find("dreamfusion-system")(SYSTEM)
    system.set_save_dir(str(parts / "save"))
    trainer = trainer_for(parts, max_steps=1)
    trainer.fit(system, datamodule=datamodule())
    trainer.save_checkpoint("asset.ckpt")
    finished = threestudio.find("dreamfusion-system")(SYSTEM, resumed=True)
    finished.set_save_dir(str(parts / "save"))
    finished.set_resume_status(0, 1)
    trainer_for(parts).predict(finished, datamodule=datamodule(), ckpt_path="asset.ckpt")
    assert not hasattr(finished, "guidance")
    assert (parts / "save" / "it1-export" / "c.json").is_file()


def test_geometry_is_converted_from_another_run(parts):
    class Converted(Scene):
        @staticmethod
        def create_from(other, cfg, copy_net):
            made = Converted(cfg)
            made.colour.data = other.colour.data * (2 if copy_net else 1)
            return made

    threestudio.__modules__["toy-converted"] = Converted
    (parts / "run" / "ckpts").mkdir(parents=True)
    (parts / "run" / "configs").mkdir()
    OmegaConf.save({"system": SYSTEM}, parts / "run" / "configs" / "parsed.yaml")
    path = parts / "run" / "ckpts" / "last.ckpt"
    torch.save({"state_dict": {"geometry.colour": torch.full((3,), 0.25)}, "epoch": 0, "global_step": 5}, path)
    cfg = {**SYSTEM, "geometry_type": "toy-converted", "geometry_convert_from": str(path)}
    find = threestudio.find("dreamfusion-system")
    close(find(cfg).geometry.colour, [0.25, 0.25, 0.25])
    close(find({**cfg, "geometry_convert_inherit_texture": True}).geometry.colour, [0.5, 0.5, 0.5])
    # a resumed run has its own geometry already
    close(find(cfg, resumed=True).geometry.colour, [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="no configuration at"):
        find({**cfg, "geometry_convert_from": "elsewhere/ckpts/last.ckpt"})
