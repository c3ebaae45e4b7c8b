"""Anything a user may give: trials, frames, videos; and whatever is wrong with it, in one line that names it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf
from PIL import Image

import threestudio
import uni_instruct_guidance.systems  # noqa: F401
from threestudio.utils.misc import get_device
from uni_instruct_guidance.scoring.checkpoints import camera_batch, load_scene, render_checkpoint
from uni_instruct_guidance.scoring.frames import load_frames
from uni_instruct_guidance.scoring.meshes import coloured, load_mesh
from uni_instruct_guidance.scoring.protocols import Framing, get_protocol
from uni_instruct_guidance.scoring.sources import load_views

TINY = get_protocol("shapes-8").reduced(views=2, size=16)
SYSTEM = {
    "geometry_type": "implicit-volume",
    "geometry": {
        "radius": 0.62,
        "normal_type": None,
        "density_bias": "blob_magic3d",
        "density_blob_std": 0.35,
        "isosurface_resolution": 16,
        "isosurface_threshold": "auto",
        "pos_encoding_config": {"otype": "DenseGridPyramid", "n_levels": 2, "base_resolution": 4, "init_std": 0.3},
        "mlp_network_config": {"otype": "VanillaMLP", "activation": "ReLU", "output_activation": "none",
                               "n_neurons": 8, "n_hidden_layers": 1},
    },
    "material_type": "no-material",
    "background_type": "neural-environment-map-background",
    "renderer_type": "nerf-volume-renderer",
    # nothing was trained, so nothing marked the cells of an occupancy grid
    "renderer": {"radius": 0.62, "num_samples_per_ray": 16, "grid_prune": False},
    # never built: a finished scene is scored without its teacher
    "guidance_type": "uni-instruct-guidance",
    "guidance": {"pretrained_model_name_or_path": "no/such/teacher"},
    "prompt_processor_type": "stable-diffusion-prompt-processor",
    "prompt_processor": {"pretrained_model_name_or_path": "no/such/teacher", "prompt": "a red mug"},
    "loss": {"lambda_sparsity": 1.0},
}  # fmt: skip


def save_trial(folder: Path, system_type="uni-instruct-system", **changes):
    """A trial folder with random weights, as training leaves it."""
    own = {"guidance_type": "", "guidance": {}, "prompt_processor_type": "", "prompt_processor": {}}
    system = threestudio.find(system_type)(OmegaConf.create({**SYSTEM, **own}))
    state = system.state_dict() | {"guidance.lora": torch.zeros(3)}
    for name in ("ckpts", "configs"):
        (folder / name).mkdir(parents=True)
    OmegaConf.save({"system_type": system_type, "system": {**SYSTEM, **changes}}, folder / "configs" / "parsed.yaml")
    torch.save({"state_dict": state, "epoch": 0, "global_step": 7}, folder / "ckpts" / "last.ckpt")
    return system


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("trial")
    return folder, save_trial(folder)


def test_a_checkpoint_is_read_whatever_was_imported_first(trial):
    """In Python one begins with a scorer, which needs no host: its names are registered all the same."""
    code = (
        "import sys, uni_instruct_3d; from uni_instruct_guidance.scoring import get_protocol; "
        "from uni_instruct_guidance.scoring.sources import load_views; "
        "print(load_views(sys.argv[1], get_protocol('shapes-8').reduced(views=1, size=8)).pictures.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(trial[0])], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 8, 8, 3)", done.stderr[-2000:]


def test_a_checkpoint_is_rendered_by_its_own_renderer(trial):
    folder, system = trial
    pictures = render_checkpoint(folder, TINY)
    system = system.to(get_device()).eval()
    system.set_resume_status(0, 7)
    system.do_update_step(0, 7)
    for picture, c2w, fovy in zip(pictures, TINY.c2w, TINY.fovy_deg.tolist()):
        background = torch.tensor([TINY.background], device=get_device())
        batch = camera_batch(c2w[None].to(get_device()), fovy, 16, Framing())
        with torch.no_grad():
            expected = system.renderer(**batch, bg_color=background)["comp_rgb"][0]
        # 8 bits: half a level, and float32
        assert abs(picture / 255 - expected.cpu().numpy()).max() <= 0.5 / 255 + 1e-4
    assert pictures.std() > 1 and abs(pictures[0, 0, 0].astype(int) - 242).max() <= 1  # an object before the grey


def test_checkpoint_folder_and_file_are_the_same_views(trial):
    folder, _ = trial
    by_folder, by_file = (load_views(path, TINY) for path in (folder, folder / "ckpts" / "last.ckpt"))
    assert by_folder.kind == by_file.kind == "checkpoint" and by_folder.cameras == "shapes-8@1[views=2,size=16]"
    assert (by_folder.pictures == by_file.pictures).all()


def test_a_checkpoint_is_framed_by_its_surface(trial):
    """The same scene through its mesh: a protocol that normalises places both alike."""
    folder, _ = trial
    protocol = get_protocol("ring-8").reduced(views=2, size=32)
    pictures = render_checkpoint(folder, protocol)
    rows, columns = np.nonzero((pictures[0] > 40).any(-1))
    assert len(rows) > 50 and max(np.ptp(rows), np.ptp(columns)) > 14  # its longest side is near half of the picture


MESH = {"renderer_type": "nvdiff-rasterizer", "renderer": {"context_type": "cuda"}}


def test_a_mesh_stage_is_rendered_and_one_without_colours_is_refused(tmp_path):
    torch.manual_seed(1)
    save_trial(tmp_path / "texture", stage="texture", **MESH)
    protocol = get_protocol("ring-8").reduced(views=2, size=32)
    seen = (render_checkpoint(tmp_path / "texture", protocol) > 40).any(-1).mean((1, 2))
    assert (seen > 0.05).all() and (seen < 0.8).all()
    save_trial(tmp_path / "geometry", stage="geometry", **MESH)
    one_line(tmp_path / "geometry", r"this stage renders no colours \(.*comp_normal.*\); score its texture stage")


def test_the_scene_keeps_its_step_and_has_no_guidance(trial):
    system = load_scene(trial[0], (0.5, 0.5, 0.5))
    assert system.true_global_step == 7 and not hasattr(system, "guidance") and not system.training


# --- frames ---------------------------------------------------------------------------------------------------------


def frames(n=12, width=32, height=32):
    """Pictures that can be told apart after compression: frame i is grey i/n, with a dark corner."""
    out = np.empty((n, height, width, 3), np.uint8)
    out[:] = (np.arange(n) * 255 // n)[:, None, None, None]
    out[:, :4, :4] = 0
    return out


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for index, frame in enumerate(frames()):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    views = load_views(tmp_path, TINY)
    assert (views.kind, views.cameras) == ("frames", "as given")
    assert (views.pictures == frames()).all()


def test_of_panels_the_first_is_taken(tmp_path):
    wide = np.concatenate([frames(2), np.full((2, 32, 64, 3), 7, np.uint8)], axis=2)
    for index, frame in enumerate(wide):
        Image.fromarray(frame).save(tmp_path / f"it5-{index}.png")
    assert (load_frames(tmp_path, (1, 1, 1)) == frames(2)).all()


def test_transparent_pictures_lie_on_the_background(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 0, 0, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = load_frames(tmp_path, (0.0, 1.0, 0.0))[0]
    assert picture[0, 0].tolist() == [200, 0, 0] and picture[3, 3].tolist() == [0, 255, 0]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "turn.mp4"
    iio.imwrite(path, frames(), fps=12, codec="libx264", macro_block_size=2, plugin="FFMPEG")
    return path


def test_a_video_gives_all_its_frames(video):
    pictures = load_views(video, TINY).pictures
    assert pictures.shape == (12, 32, 32, 3)
    means = pictures[:, 16, 16].mean(-1)
    assert (np.diff(means) > 0).all() and abs(means - frames()[:, 16, 16].mean(-1)).max() < 8  # compressed


# --- what can be wrong ----------------------------------------------------------------------------------------------


def one_line(path, message, protocol=TINY):
    with pytest.raises(ValueError, match=message) as caught:
        load_views(path, protocol)
    text = str(caught.value)
    assert str(path.name) in text and "\n" not in text.strip()


TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
TEXTURED = "mtllib a.mtl\n" + TRIANGLE + "vt 0 0\nvt 1 0\nvt 0 1\nusemtl m\nf 1/1 2/2 3/3\n"
MATERIAL = "newmtl m\nmap_Kd colour.png\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.obj": "v 0 0 0\n"}, "the mesh is empty: no faces"),
        ({"a.obj": ""}, "the mesh is empty: no faces"),
        ({"a.obj": "v 1 1 1\n" * 3 + "f 1 2 3\n"}, "the mesh is empty: all vertices lie in one point"),
        ({"a.obj": TRIANGLE.replace("1 0 0", "nan 0 0") + "f 1 2 3\n"}, "1 vertices are not finite"),
        ({"a.obj": TEXTURED}, "its material file a.mtl is missing"),
        ({"a.obj": TEXTURED, "a.mtl": MATERIAL}, "its texture colour.png is missing"),
        ({"a.obj": TEXTURED, "a.mtl": MATERIAL, "colour.png": "x"}, "its texture colour.png cannot be read"),
        ({"a.glb": "glTF"}, "cannot be read as glTF"),
        ({"a.gltf": "{"}, "cannot be read as glTF"),
        ({"a.gltf": '{"images": [{"uri": "colour.png"}]}'}, "its texture colour.png is missing"),
        ({"a.gltf": '{"extensionsRequired": ["KHR_draco_mesh_compression"]}'}, "its geometry is compressed"),
        ({"a.ply": "ply\nformat ascii"}, "cannot be read as a mesh|the mesh is empty"),
        ({"a.stl": "x"}, r".stl cannot be scored; give a mesh \(.glb, .gltf, .obj, .ply\)"),
        ({"a": "x"}, "a file without suffix cannot be scored"),
        ({"a.mp4": "x"}, "cannot be read as a video"),
        ({"a.ckpt": "x"}, "no configuration at"),
    ],
)
def test_broken_files_are_named_in_one_line(files, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    one_line(tmp_path / next(iter(files)), message)


def test_missing_paths_and_empty_folders(tmp_path):
    one_line(tmp_path / "nothing.glb", "no such file or folder")
    one_line(tmp_path, "no pictures in this folder")
    Image.fromarray(frames(1)[0]).save(tmp_path / "0.png")
    Image.fromarray(frames(1, 16, 16)[0]).save(tmp_path / "1.png")
    one_line(tmp_path, "several sizes: 16x16, 32x32")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="1.png: cannot be read as a picture"):
        load_views(tmp_path, TINY)


def test_a_truncated_video_is_named(video, tmp_path):
    content = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    one_line(tmp_path / "cut.mp4", "cannot be read as a video, truncated")


def test_a_video_that_breaks_off_after_its_index_is_named(tmp_path):
    """With the index in front a player shows what there is; a score of half a turn would pass for a whole one."""
    whole = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    iio.imwrite(
        whole, noise, fps=12, codec="libx264", macro_block_size=2, plugin="FFMPEG",
        output_params=["-movflags", "+faststart"],
    )  # fmt: skip
    content = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: int(0.6 * len(content))])
    assert len(load_views(whole, TINY).pictures) == 24
    one_line(tmp_path / "cut.mp4", "truncated")


def test_a_truncated_glb_is_named(tmp_path):
    content = trimesh.creation.box().export(file_type="glb")
    (tmp_path / "cut.glb").write_bytes(content[:-40])
    one_line(tmp_path / "cut.glb", f"{len(content) - 40} bytes, its header promises {len(content)}: truncated")


def test_a_glb_whose_picture_is_broken_is_not_shown_white(tmp_path):
    box = trimesh.creation.box()
    uv = np.zeros((8, 2))
    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    box.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    content = box.export(file_type="glb")
    assert load_mesh_from(content, tmp_path / "whole.glb").textures
    broken = content.replace(b"\x89PNG", b"\x89XXX")
    assert broken != content
    (tmp_path / "broken.glb").write_bytes(broken)
    one_line(tmp_path / "broken.glb", "1 of 1 textured parts have lost their texture")


def load_mesh_from(content, path):
    path.write_bytes(content)
    return load_mesh(path)


def test_compressed_glb_is_refused(tmp_path):
    header = json.dumps({"asset": {"version": "2.0"}, "extensionsRequired": ["EXT_meshopt_compression"]}).encode()
    header += b" " * (-len(header) % 4)
    content = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(header), len(header), b"JSON") + header
    (tmp_path / "a.glb").write_bytes(content)
    one_line(tmp_path / "a.glb", r"compressed \(EXT_meshopt_compression\)")


def test_meshes_beyond_the_cameras_are_not_scored_as_background(tmp_path):
    far = trimesh.creation.box()
    far.apply_translation([500, 0, 0])
    far.export(tmp_path / "far.ply")
    one_line(tmp_path / "far.ply", "no camera of shapes-8@1.* sees anything of it")


def test_wrong_checkpoints(trial, tmp_path):
    for name in ("ckpts", "configs"):
        (tmp_path / name).mkdir()
    config, last = tmp_path / "configs" / "parsed.yaml", tmp_path / "ckpts" / "last.ckpt"
    config.write_text((trial[0] / "configs" / "parsed.yaml").read_text())
    one_line(tmp_path, "no checkpoint at")
    last.write_bytes(b"x")
    one_line(last, "cannot read checkpoint")
    torch.save({"weights": torch.zeros(2)}, last)
    one_line(last, "holds no state_dict; its entries: weights")
    torch.save({"state_dict": {"unet.conv.weight": torch.zeros(2)}}, last)
    one_line(last, "does not fit its configuration; it lacks geometry")
    state = torch.load(trial[0] / "ckpts" / "last.ckpt", weights_only=True)["state_dict"]
    key = next(key for key in state if key.startswith("geometry.") and state[key].ndim > 1)
    torch.save({"state_dict": state | {key: torch.zeros(1, 1)}}, last)
    one_line(last, "does not fit its configuration: .*size mismatch")
    config.write_text("system_type: fit-teacher\nsystem: {lr: 1.0}\n")
    one_line(last, "no checkpoint of a 3D scene; parsed.yaml has no system.geometry_type")


def test_surfaces_from_arrays_are_checked():
    with pytest.raises(ValueError, match="the mesh is empty: no faces"):
        coloured(np.zeros((3, 3)), np.zeros((0, 3), int), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="2 vertex colours for 3 vertices"):
        coloured(np.eye(3), [[0, 1, 2]], np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"not there \(0..2\)"):
        coloured(np.eye(3), [[0, 1, 3]], np.zeros((3, 3)))
