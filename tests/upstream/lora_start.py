"""Which start of LoRA is better, threestudio's or ours: the same pictures, noise and learning rate, two starts.

    python tests/upstream/lora_start.py [--steps 40] [--rates 5e-4]

The fake score learns pictures that are not the teacher's: an object of the built-in world from all around, blurred as
an early NeRF is. Prints the ε-error on fixed noise every ten updates; the first of our start is the teacher's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "custom"), str(ROOT / "portable")]

import torch  # noqa: E402  after the path
from torchvision.transforms.functional import gaussian_blur  # noqa: E402

from uni_instruct_3d.shapes_world.render import fit_distance, make_instance, render  # noqa: E402
from uni_instruct_guidance.core.fake_score import denoising_loss  # noqa: E402
from uni_instruct_guidance.teachers.stable_diffusion.camera import spherical  # noqa: E402
from uni_instruct_guidance.teachers.stable_diffusion.fake_score import INITS, FakeScore, FakeScoreConfig  # noqa: E402
from uni_instruct_guidance.teachers.stable_diffusion.teacher import Teacher  # noqa: E402
from uni_instruct_guidance.teachers.stable_diffusion.text import PromptConditions  # noqa: E402

OBJECTS = {"a red mug": ("mug", "red", "plain"), "a blue chair": ("chair", "blue", "plain")}
VIEWS, BATCH, HELD_OUT, BLUR = 16, 2, 24, 2.0
ELEVATION, FOVY = 20.0, 50.0


def pictures(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """[VIEWS, 3, 64, 64] blurred pictures, and their cameras as the fake score hears them."""
    azimuths = [360.0 * view / VIEWS for view in range(VIEWS)]
    instance = make_instance(*OBJECTS[name], seed=0)
    views = [torch.from_numpy(render(instance, azimuth, ELEVATION)["image"]) for azimuth in azimuths]
    cameras = {
        "elevation": torch.full((VIEWS,), ELEVATION), "azimuth": torch.tensor(azimuths),
        "camera_distances": torch.full((VIEWS,), fit_distance(FOVY)),
        "fovy": torch.full((VIEWS,), FOVY).deg2rad(),
    }  # fmt: skip
    return gaussian_blur(torch.stack(views).permute(0, 3, 1, 2), 9, BLUR), spherical(cameras)


def epsilon_error(teacher: Teacher, score, latents, cameras, text, generator) -> torch.Tensor:
    """ε-error of each latent at a random noise level."""
    t = torch.randint(20, 980, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    x_t = teacher.process.diffuse(latents, noise, t)
    x0, _ = score(x_t, t, text.expand(len(latents), -1, -1), cameras)
    return denoising_loss(x0, latents, *teacher.process.alpha_sigma(t))


def learn(teacher: Teacher, init: str, rate: float, data, text, steps: int) -> list[float]:
    """Held-out error after 0, 10, 20, … updates."""
    latents, cameras = data
    torch.manual_seed(0)
    cfg = FakeScoreConfig(
        rank=8, alpha=8.0, targets=["attention", "conv", "time"], camera_condition="spherical", init=init
    )
    score = FakeScore(teacher, "lora", cfg)
    optimizer = torch.optim.AdamW([p for p in score.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.99))
    generator, errors = torch.Generator().manual_seed(1), []
    held_out = torch.arange(HELD_OUT) % VIEWS
    for step in range(steps + 1):
        if step % 10 == 0:
            with torch.no_grad():
                fixed = torch.Generator().manual_seed(2)
                error = epsilon_error(teacher, score, latents[held_out], cameras[held_out], text, fixed)
                errors.append(error.mean().item())
        rows = torch.randint(VIEWS, (BATCH,), generator=generator)
        loss = epsilon_error(teacher, score, latents[rows], cameras[rows], text, generator).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4])
    args = parser.parse_args()
    teacher = Teacher.load(str(ROOT / "load" / "teachers" / "shapes"), torch.device("cpu"), False)
    texts = PromptConditions(teacher.name, list(OBJECTS))
    for number, name in enumerate(OBJECTS):
        images, cameras = pictures(name)
        with torch.no_grad():
            data = teacher.encode(images), cameras
        text = texts.of(torch.tensor([number]), "cpu")
        for rate in args.rates:
            for init in INITS:
                errors = learn(teacher, init, rate, data, text, args.steps)
                shares = " ".join(f"{error:.4f}" for error in errors)
                print(f"{name}  rate {rate:g}  {init:12s} every 10 updates: {shares}", flush=True)


if __name__ == "__main__":
    main()
