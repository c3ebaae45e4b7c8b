"""`uni-instruct-system` under Lightning: it trains, resumes exactly, skips bad steps, and names mistakes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from uni_instruct_guidance.systems.finite_steps import all_finite

DATA = {
    "batch_size": 2, "width": 8, "height": 8, "eval_width": 8, "eval_height": 8, "n_val_views": 2, "n_test_views": 2,
    "camera_distance_range": [1.5, 1.8], "fovy_range": [45, 60],
}  # fmt: skip


def fit(config, folder, steps, resume=None, callbacks=(), validate_every=None):
    pl.seed_everything(0, verbose=False)
    system = threestudio.find("uni-instruct-system")(copy.deepcopy(config), resumed=resume is not None)
    system.set_save_dir(str(folder / "save"))
    data = threestudio.find("random-camera-datamodule")(DATA)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=1 if validate_every else 0, val_check_interval=validate_every,
        inference_mode=False,
        callbacks=[ModelCheckpoint(folder / "ckpts", save_last=True, every_n_train_steps=2), *callbacks],
    )  # fmt: skip
    trainer.fit(system, datamodule=data, ckpt_path=resume)
    return system, trainer, data


def state_of(system):
    return {name: value.clone() for name, value in system.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_trains_geometry_fake_score_and_discriminator(tiny_system_config, tmp_path):
    before, told = {}, []

    class Keep(Callback):
        def on_train_start(self, trainer, system):
            before.update(state_of(system))
            trainer.log_every_n_steps = 2

        def on_train_batch_end(self, trainer, *_):
            told.append(set(trainer.callback_metrics))

    system, _, _ = fit(tiny_system_config, tmp_path, 3, callbacks=[Keep()])
    after = state_of(system)
    moved = {
        name.split(".")[0] + "." + name.split(".")[1] for name in after if not torch.equal(after[name], before[name])
    }
    assert {"geometry.encoding", "guidance.networks"} <= moved
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert any("lora_" in name for name in changed) and any("networks.head" in name for name in changed)
    # what the terminal shows at every step, the rest where the loggers write
    shown = ("loss_uni_instruct", "loss_fake_score", "loss_discriminator", "rejected_steps")
    assert {f"train/{name}" for name in shown} <= told[0]
    assert not {"train/grad_norm", "train_params/lambda_fake_score"} & told[0]
    assert {"train/grad_norm", "train_params/lambda_fake_score", "train/guidance_scale"} <= told[1]


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_any_entry_that_is_not_finite_is_found(bad):
    # the last one's sum is more than a float holds
    gradients = [torch.ones(3), torch.full((2, 2), -1e30), torch.zeros(0), torch.full((4,), 3e38)]
    if bad is not None:
        gradients[1][1, 0] = bad
    assert all_finite(gradients) == (bad is None) and all_finite([])


def test_resuming_gives_the_same_weights_as_not_stopping(tiny_system_config, tmp_path):
    """Bit for bit: weights, LoRA, head, running scale; steps that share a pass and steps that do not; the bank, of
    which a part is there, is drawn anew from its seed."""
    config = copy.deepcopy(tiny_system_config)
    config["guidance"] |= {
        "gradient_size": {"scale": "running"}, "auxiliary": {"gan": 0.1}, "fake_score": {"shared_pass": "mixed"},
        "bank": {"size": 4, "steps": 2, "batch_size": 4, "spread": 4, "refresh_every": 3},
    }  # fmt: skip
    whole, _, _ = fit(config, tmp_path / "a", 4)
    fit(config, tmp_path / "b", 2)
    config["guidance"]["bank_dir"] = str(tmp_path / "another_bank")
    resumed, _, _ = fit(config, tmp_path / "b", 4, resume=str(tmp_path / "b" / "ckpts" / "last.ckpt"))
    assert_same(state_of(whole), state_of(resumed))


def test_resuming_after_a_validation_gives_the_same_weights(tiny_system_config, tmp_path):
    """Lightning puts modules back into training mode without calling ``train()``: nothing may hang on that call."""
    whole, _, _ = fit(tiny_system_config, tmp_path / "a", 6, validate_every=2)
    fit(tiny_system_config, tmp_path / "b", 4, validate_every=2)
    last = str(tmp_path / "b" / "ckpts" / "last.ckpt")
    resumed, _, _ = fit(tiny_system_config, tmp_path / "b", 6, resume=last, validate_every=2)
    assert_same(state_of(whole), state_of(resumed))


class NaNTeacher(Callback):
    """The teacher answers NaN from one step to another; renderings and everything learned stay finite."""

    def __init__(self, first, last):
        self.first, self.last, self.shown = first, last, []

    def on_train_start(self, trainer, system):
        networks = system.guidance.networks
        ask = networks.answer

        def answer(*args, **kwargs):
            poison = float("nan") if self.first <= trainer.global_step < self.last else 1.0
            found = ask(*args, **kwargs)
            return dataclasses.replace(found, x0_teacher=found.x0_teacher * poison)

        networks.answer = answer

    def on_train_batch_end(self, trainer, system, *_):
        self.shown.append(int(trainer.callback_metrics["train/rejected_steps"]))


def test_a_teacher_that_always_answers_nan_stops_the_run(tiny_system_config, tmp_path, monkeypatch):
    config, said = copy.deepcopy(tiny_system_config), []
    config["guidance"] |= {"method": "sds", "max_rejected_steps": 3}
    monkeypatch.setattr(threestudio, "warn", said.append)
    with pytest.raises(ValueError, match=r"stopped at step 4: teacher.* 3 steps in a row .*max_rejected_steps"):
        fit(config, tmp_path, 9, callbacks=[NaNTeacher(2, 99)])
    assert len([line for line in said if line.startswith("step 2: teacher")]) == 1


def test_steps_without_a_finite_sample_are_counted(tiny_system_config, tmp_path):
    config, teacher = copy.deepcopy(tiny_system_config), NaNTeacher(1, 3)
    config["guidance"] |= {"method": "sds", "max_rejected_steps": 3}
    system, _, _ = fit(config, tmp_path, 5, callbacks=[teacher])
    assert teacher.shown == [0, 1, 2, 2, 2] and system.skipped_steps == 0


def test_extra_updates_move_only_what_the_guidance_learns(tiny_system_config, tmp_path):
    config = copy.deepcopy(tiny_system_config)
    config["guidance"]["fake_score"] = {"updates_per_step": 3}
    counts = {}

    class Count(Callback):
        def on_train_end(self, trainer, system):
            state = trainer.optimizers[0].state
            lora = next(p for n, p in system.named_parameters() if "lora_B" in n)
            grid = next(p for n, p in system.named_parameters() if n.startswith("geometry.encoding"))
            counts.update(lora=int(state[lora]["step"]), grid=int(state[grid]["step"]))

    fit(config, tmp_path, 2, callbacks=[Count()])
    assert counts == {"lora": 6, "grid": 2}


def test_non_finite_gradient_skips_the_step_and_is_counted(tiny_system_config, tmp_path):
    seen = []

    class Poison(Callback):
        def on_after_backward(self, trainer, system):
            if trainer.global_step == 1:
                system.geometry.encoding.encoding.levels[0].grad[0, 0, 0, 0] = float("nan")

        def on_train_batch_end(self, trainer, system, *_):
            seen.append(state_of(system)["geometry.encoding.encoding.levels.0"])

    system, _, _ = fit(tiny_system_config, tmp_path, 3, callbacks=[Poison()])
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert system.skipped_steps == 1


def test_pictures_and_turntable_without_the_teacher(tiny_system_config, tmp_path):
    config = copy.deepcopy(tiny_system_config)
    _, _trainer, data = fit(config, tmp_path, 2)
    config["guidance"]["pretrained_model_name_or_path"] = ""  # gone since
    system = threestudio.find("uni-instruct-system")(config, resumed=True)
    system.set_save_dir(str(tmp_path / "save"))
    evaluator = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, inference_mode=False)
    evaluator.test(system, datamodule=data, ckpt_path=str(tmp_path / "ckpts" / "last.ckpt"), verbose=False)
    names = {path.name for path in (tmp_path / "save").rglob("*")}
    assert {"0.png", "1.png"} <= names and any(name.endswith("-test.mp4") for name in names)


def test_visualised_samples(tiny_system_config, tmp_path):
    config = copy.deepcopy(tiny_system_config)
    config["visualize_samples"] = True
    config["guidance"]["method"] = "vsd"
    system, trainer, data = fit(config, tmp_path, 1)
    trainer.limit_val_batches = 1.0
    trainer.validate(system, datamodule=data, verbose=False)
    names = {path.name for path in (tmp_path / "save").rglob("*.png")}
    assert {"it1-0-sample.png", "it1-0-sample_lora.png"} <= names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "fine"}, "system.stage 'fine'.*coarse"),
        ({"guidance": {"pretrained_model_name_or_path": "nowhere/at/all"}}, "teacher 'nowhere/at/all'"),
        ({"loss": {"lambda_fake_score": 1.0, "lambda_discriminator": 1.0}}, "lambda_uni_instruct"),
        ({"loss": {"lambda_oriet": 1.0}}, "system.loss has no 'lambda_oriet'; choices:.*lambda_orient"),
        ({"guidance": {"guidance_scale": "big", "warmup": {"steps": 5}}}, "guidance_scale='big' must be"),
        ({"loss": {"lambda_normal_consistency": 1.0}}, r"lambda_normal_consistency needs \['mesh'\]"),
    ],
)
def test_mistakes_are_named(change, message, tiny_system_config, tmp_path):
    config = copy.deepcopy(tiny_system_config)
    for key, value in change.items():
        if key == "loss" and "lambda_uni_instruct" not in str(message):
            value = {**config["loss"], **value}
        config[key] = {**config[key], **value} if key == "guidance" else value
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fit(config, tmp_path, 1)
