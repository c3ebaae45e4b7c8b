"""Every key and value of every shipped YAML against upstream threestudio's own Config classes, not only against ours.

``tests/data/upstream_configs.json`` holds the fields, types and defaults of those classes and the values that
upstream's code compares them with. Names that the extension registers are checked against the extension's classes:
upstream loads them from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

import threestudio
import uni_instruct_guidance.guidance
import uni_instruct_guidance.models
import uni_instruct_guidance.systems  # noqa: F401
from threestudio.runner import _known
from uni_instruct_guidance.data.random_multiview import RandomMultiviewCameraDataModuleConfig

ROOT = Path(__file__).parents[2]
UPSTREAM = json.loads((Path(__file__).parents[1] / "data" / "upstream_configs.json").read_text())
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "configs" / "methods").glob("*.yaml"))
#: configuration key of a part -> key of its block.
PARTS = ("geometry", "material", "background", "renderer", "guidance", "prompt_processor", "exporter")
#: types of upstream's fields -> what a YAML value may be. Sequences are OmegaConf lists.
KINDS = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "dict": (dict,), "Any": (object,),
    "Optional[str]": (str, type(None)), "Optional[Any]": (object,), "Optional[dict]": (dict, type(None)),
    "Optional[float]": (int, float, type(None)), "Optional[List[str]]": (list, type(None)),
    "Union[float, str]": (int, float, str), "Union[int, float]": (int, float), "List[int]": (list,),
    "Tuple[float, float]": (list,), "Tuple[float, float, float]": (list,), "Tuple": (list,), "Optional[Tuple]": (list,),
    "Tuple[int, int, int]": (list,), "Optional[List[int]]": (list, type(None)),
    "Optional[Tuple[int, int]]": (list, type(None)),
}  # fmt: skip


def faults_of_block(name: str, block: dict[str, Any]) -> list[str]:
    """What upstream would refuse in the block of the registered ``name``; empty if nothing."""
    if name.startswith("uni-instruct-"):
        fields = threestudio.find(name).Config.__dataclass_fields__
        return [f"{name}: no field {key}" for key in block if key not in fields]
    if name == "random-multiview-camera-datamodule":  # the extension's own
        fields = RandomMultiviewCameraDataModuleConfig.__dataclass_fields__
        return [f"{name}: no field {key}" for key in block if key not in fields]
    if name not in UPSTREAM["registered"]:
        return [f"{name}: not registered upstream"]
    fields, faults = UPSTREAM["registered"][name], []
    for key, value in block.items():
        if key not in fields:
            faults.append(f"{name}: no field {key}")
            continue
        # threestudio's schedules are lists in number fields of guidances, whose configuration upstream does not type
        scheduled = name.endswith("-guidance") and isinstance(value, list)
        if not scheduled and not isinstance(value, KINDS[fields[key]["type"]]):
            faults.append(f"{name}.{key}: {value!r} is no {fields[key]['type']}")
        accepted = UPSTREAM["accepted"].get(f"{name}.{key}")
        number = isinstance(value, float) and "float" in fields[key]["type"]
        if accepted is not None and value not in accepted and not number:
            faults.append(f"{name}.{key}: {value!r} is not one of {accepted}")
        if key in ("pos_encoding_config", "mlp_network_config"):
            accepted = UPSTREAM["accepted"][f"{key}.otype"]
            if value["otype"] not in accepted:
                faults.append(f"{name}.{key}.otype: {value['otype']} is not one of {accepted}")
    return faults


def faults_of(config: dict[str, Any]) -> list[str]:
    """What upstream would refuse in a whole configuration."""
    faults = [f"no key {key}" for key in config if key not in UPSTREAM["experiment"]]
    faults += faults_of_block(config["data_type"], config["data"])
    system = dict(config["system"])
    for part in PARTS:
        if f"{part}_type" in system:
            faults += faults_of_block(system[f"{part}_type"], system.get(part, {}))
    override = system.get("geometry_convert_override", {})
    if override:  # of the geometry that is converted: the one of the stage before
        faults += [fault for fault in faults_of_block(_stage_before(config), override)]
    faults += faults_of_block(config["system_type"], system)
    if not hasattr(torch.optim, system["optimizer"]["name"]):
        faults.append(f"optimizer {system['optimizer']['name']}")
    return faults


def _stage_before(config: dict[str, Any]) -> str:
    before = config["name"].replace("geometry", "nerf").replace("texture", "geometry").removesuffix("-refine")
    return OmegaConf.load(ROOT / "configs" / f"{before}.yaml").system.geometry_type


def plain(*files: Path) -> dict[str, Any]:
    """Merged files as upstream sees them, with what a user must give."""
    prompt = {"system": {"prompt_processor": {"prompt": "mug"}}}
    merged = OmegaConf.merge(*[OmegaConf.load(file) for file in files], prompt)
    if OmegaConf.is_missing(merged.system, "geometry_convert_from"):
        merged.system.geometry_convert_from = "last.ckpt"
    return OmegaConf.to_container(merged, resolve=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_upstream_knows_every_key_and_takes_every_value(path):
    config = plain(path)
    assert faults_of(config) == []
    _known(Trainer, config["trainer"], "trainer")
    _known(ModelCheckpoint, config["checkpoint"], "checkpoint")


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlays_name_fields_of_the_guidance_only(path):
    assert faults_of(plain(ROOT / "configs" / "shapes-nerf.yaml", path)) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"system": {"geometry": {"pos_encoding_config": {"otype": "DenseGridPyramid"}}}}, "DenseGridPyramid is not"),
        ({"system": {"geometry": {"isosurface_threshold": "opacity"}}}, "'opacity' is not one of"),
        ({"system": {"geometry": {"isosurface_resolution": 48}}}, "48 is not one of"),
        ({"system": {"exporter_type": "mesh-exporter", "exporter": {"fmt": "glb"}}}, "'glb' is not one of"),
        ({"system": {"renderer": {"supersample": 2}}}, "no field supersample"),
        ({"system": {"material": {"n_output_dims": "three"}}}, "'three' is no int"),
        ({"data": {"eval_widht": 8}}, "no field eval_widht"),
        ({"colour": 1}, "no key colour"),
    ],
)
def test_the_check_finds_what_upstream_refuses(changes, fault):
    config = plain(ROOT / "configs" / "prolificdreamer.yaml")
    faults = faults_of(OmegaConf.to_container(OmegaConf.merge(config, changes)))
    assert len(faults) == 1 and fault in faults[0]


def test_resolutions_of_our_own_tetrahedra_have_a_grid_upstream():
    grids = UPSTREAM["accepted"]["tetrahedra-sdf-grid.isosurface_resolution"]
    for path in CONFIGS:
        geometry = OmegaConf.load(path).system.geometry
        assert geometry.get("isosurface_resolution", 128) in grids, path.name
