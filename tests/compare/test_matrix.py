"""What there is to run, and when two runs are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import compare
import pytest
from omegaconf import OmegaConf

from uni_instruct_3d.comparison import matrix
from uni_instruct_3d.comparison.matrix import Cell, Plan, cells, parse_column, parse_columns, presets

ROOT = Path(__file__).parents[2]
PLAN = Plan(out=Path("out"), preset="compare-cpu")


def test_overrides_behind_a_colon():
    column = parse_column("uni_instruct_rkl:gradient=exact,kappa=1,trainer.max_steps=7,fake_score.targets=[a,b]")
    assert column.method == "uni_instruct_rkl"
    assert column.overrides == (
        "system.guidance.gradient=exact", "system.guidance.kappa=1", "trainer.max_steps=7",
        "system.guidance.fake_score.targets=[a,b]",
    )  # fmt: skip
    assert parse_column("vsd").title == "VSD (ProlificDreamer)"
    assert parse_column("uni_instruct_rkl:kappa=1").title == "Uni-Instruct RKL, kappa=1"
    scheduled = parse_column("uni_instruct_rkl:schedule={9: {jacobian: full, kappa: 1}}")
    assert scheduled.title == "Uni-Instruct RKL, schedule={9: {jacobian: full, kappa: 1}}"
    assert scheduled.overrides == ("system.guidance.schedule={9: {jacobian: full, kappa: 1}}",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["dream"], "'dream' is no overlay of configs/methods; choices: di_pp"),
        (["ground_truth:kappa=1"], "ground_truth trains nothing, so that it has no settings"),
        (["vsd:kappa"], "'kappa' is not of the form key=value"),
        (["vsd", "sds", "vsd"], "--methods: 'vsd' given twice"),
        (["vsd@shapes-vm"], r"--methods 'vsd@shapes-vm': no config set 'shapes-vm'; choices: shapes,.*shapes-mv"),
        (["vsd@"], "no config set ''"),
        (["ground_truth@shapes"], "ground_truth trains nothing, so that it has no settings"),
    ],
)
def test_wrong_columns_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        parse_columns(labels)


def test_a_column_may_have_a_teacher_of_its_own():
    plain, other = parse_columns(["uni_instruct_rkl", "uni_instruct_rkl@shapes-mv:kappa=1"])
    assert other.title == "Uni-Instruct RKL, shapes-mv, kappa=1" and other.overrides == ("system.guidance.kappa=1",)
    plan = replace(PLAN, preset="compare-cpu")
    nerf, geometry, texture = plan.stages_of(other)
    names = [path.name for path in plan.configs(nerf, other)]
    assert names == ["shapes-mv-nerf.yaml", "uni_instruct_rkl.yaml", "shapes-mv-nerf.yaml"]
    assert [path.name for path in plan.configs(nerf, plain)] == [
        "shapes-nerf.yaml", "uni_instruct_rkl.yaml", "nerf.yaml",
    ]  # fmt: skip
    # mesh and texture by the single-view teacher of that size, under the preset of all
    assert [path.name for path in plan.configs(geometry, other)] == ["shapes128-geometry.yaml", "geometry.yaml"]
    assert plan.configs(texture, other)[0].name == "shapes128-texture.yaml"
    keys = [plan.key(Cell(column, "a mug", 0), "teacher") for column in (plain, other)]
    assert keys[0] != keys[1]


def test_digests_are_of_the_teachers_of_each_set(tmp_path, monkeypatch):
    teachers = {}

    def read(path):
        return OmegaConf.from_dotlist([f"{compare.TEACHER}={teachers[path.name]}"])

    monkeypatch.setattr(OmegaConf, "load", read)
    for name in ("single", "several"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "x.safetensors").write_bytes(name.encode())
    for prefix, stages in {"shapes128": ("nerf", "geometry", "texture"), "shapes-mv": ("nerf",)}.items():
        for stage in stages:
            teachers[f"{prefix}-{stage}.yaml"] = str(tmp_path / ("single" if prefix == "shapes128" else "several"))
    columns = parse_columns(["vsd", "vsd@shapes-mv"])
    plan = replace(PLAN, config_set="shapes128")
    before = compare.teacher_digests(plan, columns)
    assert list(before) == ["shapes128", "shapes-mv"] and len(set(before.values())) == 2
    (tmp_path / "several" / "unet" / "x.safetensors").write_bytes(b"new")
    after = compare.teacher_digests(plan, columns)
    assert after["shapes128"] == before["shapes128"] and after["shapes-mv"] != before["shapes-mv"]


def test_all_methods_of_a_prompt_and_seed_come_together():
    columns = parse_columns(["sds", "vsd"])
    order = [(c.seed, c.prompt, c.column.label) for c in cells(columns, ["a", "b"], [1, 0])]
    assert order[:3] == [(1, "a", "sds"), (1, "a", "vsd"), (1, "b", "sds")] and order[4][0] == 0 and len(order) == 8


def test_folders_are_different():
    columns = parse_columns(["vsd", "vsd:kappa=1", "vsd:kappa=-1"])
    assert len({cell.folder for cell in cells(columns, ["a mug", "A mug.."], [0, 1])}) == 12


def test_key_follows_what_decides_a_result(tmp_path, monkeypatch):
    """Another seed, prompt, override, preset, score or teacher is another run; another comment in a file is not."""
    cell = Cell(parse_column("vsd"), "a mug", 0)
    key = PLAN.key(cell, "teacher")
    assert key == replace(PLAN, out=Path("elsewhere"), threads=4, keep=True).key(cell, "teacher")
    others = [
        PLAN.key(replace(cell, seed=1), "teacher"), PLAN.key(replace(cell, prompt="a cat"), "teacher"),
        PLAN.key(replace(cell, column=parse_column("vsd:guidance_scale=9")), "teacher"), PLAN.key(cell, "other"),
        *(replace(PLAN, **change).key(cell, "teacher") for change in (
            {"preset": None}, {"overrides": ("trainer.max_steps=1",)}, {"backbones": ("nerf",)}, {"clip": "ViT-B-32"},
        )),
    ]  # fmt: skip
    assert len({key, *others}) == 1 + len(others)
    folder = tmp_path / "compare-cpu"
    folder.mkdir()
    for path in (ROOT / "configs" / "presets" / "compare-cpu").iterdir():
        (folder / path.name).write_text("# another comment\n" + path.read_text())
    monkeypatch.setattr(matrix, "PRESETS", tmp_path)
    assert PLAN.key(cell, "teacher") == key
    (folder / "nerf.yaml").write_text("trainer: {max_steps: 3}\n")
    assert PLAN.key(cell, "teacher") != key


@pytest.mark.parametrize("preset", presets())
def test_presets_hold_for_every_method(preset):
    """A preset says nothing that a method stands for, and trains all columns equally long."""
    for stage in PLAN.stages:
        path = ROOT / "configs" / "presets" / preset / f"{stage.name}.yaml"
        content = OmegaConf.load(path)
        assert content.trainer.max_steps > 0
        guidance = content.get("system", {}).get("guidance", {})
        assert not {"method", "divergence", "gradient", "kappa", "guidance_scale", "auxiliary"} & set(guidance)


def test_overrides_may_stand_behind_the_columns():
    """`--methods` takes all words that follow; what is no column there is an override."""
    words = ["--methods", "vsd", "sds:kappa=1", "data.width=8", "system.guidance.schedule={9: {kappa: 1}}"]
    args = compare.parse_arguments([*words, "--cpu", "seed=3"])
    assert args.methods == ["vsd", "sds:kappa=1"]
    assert args.overrides == [*words[3:], "seed=3"]
    with pytest.raises(SystemExit):
        compare.parse_arguments(["--methods", "data.width=8"])


def test_fantasia3d_has_stages_of_its_own():
    """No NeRF, no overlay, its own preset; for the shape as many steps as the others' NeRF and geometry together."""
    column = parse_column("fantasia3d:system.geometry.isosurface_resolution=64")
    assert column.title == "Fantasia3D, system.geometry.isosurface_resolution=64"
    geometry, texture = PLAN.stages_of(column)
    names = [path.relative_to(ROOT / "configs").as_posix() for path in PLAN.configs(geometry, column)]
    assert names == ["shapes-fantasia3d.yaml", "presets/compare-cpu/fantasia3d-geometry.yaml"]
    assert texture.after == "geometry" and PLAN.configs(texture, column)[0].is_file()
    assert replace(PLAN, backbones=("nerf",)).stages_of(column) == []
    steps = {path.stem: OmegaConf.load(path).trainer.max_steps
             for path in (ROOT / "configs" / "presets" / "compare-cpu").iterdir()}  # fmt: skip
    assert steps["fantasia3d-geometry"] == steps["nerf"] + steps["geometry"]
    assert replace(PLAN, config_set="sd21").configs(geometry, column)[0].name == "uni-instruct-fantasia3d.yaml"


def test_table7_stands_for_the_papers_rows():
    titles = [column.title for column in matrix.parse_columns(["ground_truth", "table7"])]
    assert titles == [
        "Ground truth", "SDS (DreamFusion)", "Fantasia3D", "VSD (ProlificDreamer)", "Uni-Instruct FKL",
        "Uni-Instruct RKL",
    ]  # fmt: skip


def test_rungs_say_how_far_a_cell_is_trained():
    """The ladder: stages up to the last rung that is asked for, for every kind of column."""
    plan = Plan(out=Path("x"), backbones=("nerf",))
    names = lambda plan, text: [stage.name for stage in plan.stages_of(parse_column(text))]  # noqa: E731
    assert names(plan, "vsd") == ["nerf"] and names(plan, "fantasia3d") == []
    plan = replace(plan, backbones=("converted",))
    assert names(plan, "vsd") == ["nerf", "geometry"] and names(plan, "fantasia3d") == ["geometry"]
    plan = replace(plan, backbones=("nerf", "refined", "mesh"))
    assert names(plan, "fitted") == ["nerf", "geometry", "texture"]
    assert names(plan, "ground_truth") == []


def test_the_fitted_column_keeps_the_common_geometry_stage():
    plan = Plan(out=Path("x"), preset="compare-cpu")
    column = parse_column("fitted")
    files = {stage.name: [path.name for path in plan.configs(stage, column)] for stage in matrix.STAGES}
    assert files["nerf"] == ["shapes-nerf.yaml", "fitted.yaml", "nerf.yaml"]
    assert files["geometry"] == ["shapes-geometry.yaml", "geometry.yaml"]
    assert files["texture"] == ["shapes-texture.yaml", "fitted.yaml", "texture.yaml"]
