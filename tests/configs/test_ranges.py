"""Values that make no sense are refused before anything is built, in one sentence: key, value, what is allowed."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.systems  # noqa: F401
from threestudio.utils.blocks import check_blocks
from threestudio.utils.config import load_config
from uni_instruct_guidance.core import ranges
from uni_instruct_guidance.core.ranges import Allowed, argument, check
from uni_instruct_guidance.distill2d.config import RANGES, DistillConfig, EDMConfig
from uni_instruct_guidance.guidance.config import BLOCKS
from uni_instruct_guidance.systems.ranges import CONFIG, SYSTEM, check_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
GUIDANCE = "system.guidance."


def load(tmp_path, *files, args=()):
    given = ["system.prompt_processor.prompt=a red mug", f"exp_root_dir={tmp_path / 'out'}"]
    if "convert_from: ???" in Path(files[0]).read_text():
        given.append("system.geometry_convert_from=x.ckpt")
    return load_config(*map(str, files), cli_args=[*given, *args], n_gpus=1, checks=[check_config, check_blocks])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_pass(path, tmp_path):
    load(tmp_path, path)


def test_shipped_methods_pass(tmp_path):
    base = load(tmp_path, ROOT / "configs" / "shapes-nerf.yaml")
    for overlay in OVERLAYS:
        check_config(OmegaConf.merge(base, OmegaConf.load(overlay)))


#: Every one of them trained to status 0 once, or ended in a traceback or in a sentence without the key.
REFUSED = {
    f"{GUIDANCE}guidance_scale": ["nan", ".inf", "-1", "abc", "[1,2]", "{a: 1}", "[0,1,.nan,5]"],
    f"{GUIDANCE}pretrained_model_name_or_path": ["3", "[a]", "null"],
    f"{GUIDANCE}bank_dir": ["3", "{a: 1}"],
    "system.prompt_processor.pretrained_model_name_or_path": ["3", "null"],
    f"{GUIDANCE}kappa": ["nan", ".nan", "-.inf", "abc", "[1]", "true"],
    f"{GUIDANCE}huber_c": ["0", "-1", ".nan"],
    f"{GUIDANCE}grad_clip": ["0", "-1", ".inf", "abc"],
    f"{GUIDANCE}auxiliary.gan": ["-1", ".nan", "abc"],
    f"{GUIDANCE}fake_score.alpha": ["0", "-2", ".inf"],
    f"{GUIDANCE}fake_score.batch": ["0", "-1", "1.5"],
    f"{GUIDANCE}discriminator.width": ["0", "-8"],
    f"{GUIDANCE}warmup.steps": ["-1", ".inf", "abc"],
    f"{GUIDANCE}warmup.guidance_scale": ["-1", ".nan"],
    f"{GUIDANCE}warmup": ["3"],
    f"{GUIDANCE}schedule": ["3", "{a: {kappa: 1}}", "{5: 3}"],
    f"{GUIDANCE}max_step_percent": ["1.5", "-0.1", ".nan", "[0,0.9,2,10]"],
    f"{GUIDANCE}gradient_size.target": ["0", ".nan"],
    "system.loss.lambda_sparsity": ["-1", ".nan", ".inf", "abc", "[1,2]", "[5,1,1,5]"],
    "system.optimizer.args.lr": ["0", "-1", ".nan"],
    "system.optimizer.params.guidance.lr": ["-1", ".inf", "abc"],
    "system.geometry.radius": ["0", "-1", ".nan", ".inf"],
    "system.geometry.isosurface_resolution": ["0", "-1", "1", "64.5"],
    "system.geometry.pos_encoding_config.n_levels": ["0", "-1"],
    "system.geometry.pos_encoding_config.base_resolution": ["0", "-1", "abc"],
    "system.geometry.mlp_network_config.n_neurons": ["0", "-4", "1.5"],
    "system.renderer.num_samples_per_ray": ["0", "99999999999", "-1", ".nan"],
    "system.exporter.texture_size": ["0", "-1", "999999"],
    "system.exporter.save_name": ["../x", "/x"],
    "system.max_skipped_steps": ["0"],
    "data.width": ["null", "0", "1000000", "[64,0]", "-1", "1.5", "abc", "[]"],
    "data.fovy_range": ["[a,b]", "[0,0]", "[50,40]", "[50,190]", "[.nan,50]", "[50]", "3"],
    "data.camera_distance_range": ["[2]", "[1,2,3]", "[0,1]", "[-1,1]", "[2,1]", "[1,.inf]"],
    "data.eval_fovy_deg": ["0", "180", ".nan"],
    "data.n_test_views": ["0"],
    "trainer.max_steps": ["abc", "0", "-5", ".nan", ".inf", "null"],
    "trainer.val_check_interval": ["0", "-1", "1.5"],
    "trainer.accumulate_grad_batches": ["0", "-1", "abc"],
    "trainer.logger": ["abc", "3"],
    "trainer.devices": ["0", "abc", "[]"],
    "checkpoint.filename": ["../x", "a/../../x", "/x"],
    "seed": ["-1"],
}
CASES = [(key, value) for key, values in REFUSED.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda part: part)
def test_what_makes_no_sense_is_refused_by_name(key, value, tmp_path):
    with pytest.raises(ValueError, match="must be") as caught:
        load(tmp_path, ROOT / "configs" / "shapes-nerf.yaml", args=[f"{key}={value}"])
    assert str(caught.value).startswith(f"{key}=")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists(), "refused before a folder is made"


UNKNOWN = {
    "system.geometry.pos_encoding_config.n_levls=3": "system.geometry.pos_encoding_config has no key n_levls",
    "system.geometry.pos_encoding_config.otype=Hash": "system.geometry.pos_encoding_config.otype=Hash is unknown",
    "system.geometry.mlp_network_config.neurons=3": "system.geometry.mlp_network_config has no key neurons",
    "system.geometry.mlp_network_config.otype=MLP": "system.geometry.mlp_network_config.otype=MLP is unknown",
    "system.exporter.fmtt=glb": "system.exporter: UniInstructMeshExporter has no key fmtt (did you mean fmt?)",
    "system.exporter.fmt=xyz": "exporter.fmt=xyz: unknown format 'xyz'",
    "system.exporter.save_uv=perhaps": "system.exporter.save_uv: Value 'perhaps'",
    "system.geometry_type=implicit-volum": "system.geometry_type: unknown name 'implicit-volum'; did you mean",
    "system.guidance_type=sds": "system.guidance_type: unknown name 'sds'",
    "system.guidance_type=[a]": "system.guidance_type=['a'] must be a registered name",
    "data_type=cameras": "data_type: unknown name 'cameras'",
    "data.hight=3": "data: RandomCameraDataModuleConfig has no key hight",
    "system.renderer.sampels=3": "system.renderer: NeRFVolumeRenderer has no key sampels",
    f"{GUIDANCE}warmup.stps=3": "system.guidance.warmup: WarmupConfig has no key stps",
    f"{GUIDANCE}kapa=3": "system.guidance: UniInstructGuidance has no key kapa (did you mean kappa?)",
    f"{GUIDANCE}method=sdss": "system.guidance.method='sdss' is not known",
    f"{GUIDANCE}divergence=kl": "system.guidance.divergence='kl' is not known",
    f"{GUIDANCE}auxiliary={{gun: 1}}": "system.guidance.auxiliary has no option 'gun'",
    f"{GUIDANCE}time_sampler=often": "system.guidance.time_sampler='often' must be one of uniform_t, ",
    f"{GUIDANCE}warmup.method=sdss": "system.guidance.warmup.method='sdss' must be one of sds, ",
    f"{GUIDANCE}gradient_size.scale=big": "system.guidance.gradient_size.scale='big' must be one of none, ",
    f"{GUIDANCE}bank.solver=euler": "system.guidance.bank.solver='euler' must be one of dpm++, ",
    f"{GUIDANCE}discriminator.backbone=x": "system.guidance.discriminator.backbone='x' must be one of fake, ",
    f"{GUIDANCE}fake_score.init=loud": "system.guidance.fake_score.init='loud' must be one of quiet, ",
    f"{GUIDANCE}fake_score.camera_condition=x": "system.guidance.fake_score.camera_condition='x' must be one of none, ",
    "system.material.color_activation=linear": "system.material.color_activation='linear' must be one of none, ",
    "system.geometry.mlp_network_config.output_activation=x": "mlp_network_config.output_activation='x' must be one of",
    "system.exporter.texture_format=doc": "system.exporter.texture_format='doc' must be one of jpg, ",
    "system.exporter.context_type=x": "system.exporter.context_type='x' must be one of gl, cuda",
}


@pytest.mark.parametrize("override", UNKNOWN)
def test_unknown_names_are_refused_at_the_start(override, tmp_path):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, ROOT / "configs" / "shapes-nerf.yaml", args=[override])
    assert UNKNOWN[override] in str(caught.value)
    assert not (tmp_path / "out").exists()


def numeric_fields(fields) -> list[str]:
    """Fields whose values are numbers: by their type, or by their default where the type is left open."""
    types = {field.name: str(field.type) for field in dataclasses.fields(fields)}
    return [name for name, kind in types.items() if any(word in kind for word in ("int", "float"))]


SLOTS = ("geometry", "material", "background", "renderer", "guidance", "prompt_processor", "exporter")


def test_every_number_of_every_registered_class_has_a_row():
    rows = {key for slot in SLOTS for key in SYSTEM[slot]}
    patterns = {key for key in rows if "*" in key}
    lacking = []
    for name, cls in threestudio.__modules__.items():
        fields = getattr(cls, "Config", None)
        if fields is None or name.endswith(("-system", "-reward")):
            continue
        for key in numeric_fields(fields):
            if key not in rows and not any(ranges._row({pattern: 1}, key) for pattern in patterns):
                lacking.append(f"{name}.{key}")
    data = threestudio.find("random-camera-datamodule").__annotations__
    assert data, "the data module says what its cfg is"
    from threestudio.data.uncond import RandomCameraDataModuleConfig
    from uni_instruct_guidance.data.random_multiview import RandomMultiviewCameraDataModuleConfig as Groups

    for cameras in (RandomCameraDataModuleConfig, Groups):
        lacking += [f"data.{key}" for key in numeric_fields(cameras) if key not in CONFIG["data"]]
    for block, fields in BLOCKS.items():
        lacking += [f"{block}.{k}" for k in numeric_fields(fields) if k not in SYSTEM["guidance"][block]]
    for fields in (DistillConfig, EDMConfig):
        lacking += [key for key in numeric_fields(fields) if key not in RANGES]
    assert not lacking


def test_every_row_is_a_field_of_some_class():
    """A row whose key was mistyped would check nothing."""
    known = {slot: set() for slot in SLOTS}
    for cls in threestudio.__modules__.values():
        fields = getattr(cls, "Config", None)
        if dataclasses.is_dataclass(fields):
            for slot in SLOTS:
                known[slot] |= {field.name for field in dataclasses.fields(fields)}
    # options of the core's table that the guidance takes inside `schedule` only
    inner = {"boundary", "fake_updates", "guidance_teacher", "guidance_fake", "guidance_fake_train"}
    for slot in SLOTS:
        assert {key for key in SYSTEM[slot] if "*" not in key} - inner <= known[slot], slot


def test_defaults_are_allowed():
    for cls in threestudio.__modules__.values():
        fields = getattr(cls, "Config", None)
        if not dataclasses.is_dataclass(fields):
            continue
        plain = OmegaConf.to_container(OmegaConf.structured(fields))
        for slot in SLOTS:
            if slot.replace("_", "") in cls.__module__.replace("_", ""):
                check(SYSTEM[slot], plain, f"{slot}.")
    check(RANGES, DistillConfig())
    check(RANGES, EDMConfig())


def test_rows_say_what_they_allow():
    with pytest.raises(ValueError, match=r"a\.b=-1 must be at least 0 \(a whole number\)"):
        check({"a": {"b": ranges.whole(least=0)}}, {"a": {"b": -1}})
    with pytest.raises(ValueError, match="a=3 must be a mapping of b"):
        check({"a": {"b": ranges.whole()}}, {"a": 3})
    check({"a": {"b": ranges.whole()}}, {"a": None, "c": "whatever", "b": "???"})
    with pytest.raises(argparse.ArgumentTypeError, match=r"0 must be at least 1 \(a whole number\)"):
        argument(ranges.whole(least=1))("0")
    with pytest.raises(argparse.ArgumentTypeError, match="'two' must be at least 1"):
        argument(ranges.whole(least=1))("two")
    assert argument(ranges.number(above=0), float)("2.5") == 2.5


@pytest.mark.parametrize("row", [ranges.number(), ranges.whole(0), ranges.ascending(ranges.number()),
                                 ranges.scheduled(ranges.number()), ranges.several(ranges.whole(), 2),
                                 ranges.file_name(), ranges.choice(1, "a"), ranges.TRAINER["devices"]])  # fmt: skip
@pytest.mark.parametrize("value", [None, "abc", float("nan"), {}, [], [None], {"a": 1}, [[1, 2], 3], b"x", object()])
def test_no_value_breaks_a_row(row: Allowed, value):
    assert row.holds(value) in (True, False)
