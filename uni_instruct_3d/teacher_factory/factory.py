"""The phases in order, with their files: what ``scripts/train_teacher.py`` runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm
from transformers import CLIPTokenizer

from uni_instruct_guidance.core.camera_words import AZIMUTHS, ELEVATIONS
from uni_instruct_guidance.teachers.stable_diffusion.multi_view import Mark, make_multi_view, write_mark

from .. import ROOT
from . import clip as clip_module
from . import data, diffusion, multi_view, report, text
from . import judge as judge_module
from . import vae as vae_module
from .export import load_pipeline, save_pipeline
from .loop import Trainer, atomic_save, step_generator
from .presets import Preset
from .tokenizer import write_tokenizer
from .warm_start import bridge_latents, start_judge, start_text_encoder, start_unet, start_vae

#: The shipped teachers and judges, by name.
TEACHERS = ROOT / "load" / "teachers"
JUDGES = ROOT / "load" / "judge"


class Factory:
    """One run of the teacher's making.

    ``work`` holds renders, checkpoints and sample grids; ``teacher``, ``clip`` (folders) and ``judge`` (file) receive
    what ships. ``world`` defaults to the procedural world; any object with its interface will do.
    """

    def __init__(
        self, preset: Preset, *, work: Path, teacher: Path, clip: Path, judge: Path, seed: int = 0,
        device: str | torch.device = "cpu", workers: int = 1, world: data.World | None = None,
        multi_view: Path | None = None,
    ):  # fmt: skip
        self.preset, self.seed, self.workers, self.device = preset, seed, workers, torch.device(device)
        self.work, self.teacher, self.clip, self.judge = Path(work), Path(teacher), Path(clip), Path(judge)
        self.multi_view_teacher = Path(multi_view or self.work / "multi_view")
        self._foreign_world = world
        if world is None:
            from .. import shapes_world as world
        self.world = world

    def run(self, phase: str) -> None:
        """Run one phase by name, see :data:`PHASES`."""
        PHASES[phase](self)

    # ---- renders -----------------------------------------------------------------------------------------------

    def data(self) -> None:
        """Render three sets: the teacher's, the judge's (all combinations), and held-out combinations."""
        config = self.preset.data
        sets = {
            "train": (config.train_images, "train", config.seed + self.seed),
            "judge": (config.judge_images, "all", config.seed + self.seed + 500_000),
            "check": (config.held_out_images, "all", config.seed + self.seed + 600_000),
            "held_out": (config.held_out_images, "held_out", config.seed + self.seed + 700_000),
        }
        for name, (images, split, seed) in sets.items():
            data.generate(
                self.work / name, images, size=config.size, split=split, seed=seed, group=config.group,
                shard=config.shard, style=config.style, world=self._foreign_world, workers=self.workers,
            )  # fmt: skip

    def renders(self, name: str, images: int | None = None) -> data.Renders:
        """One of the rendered sets (``train``, ``judge``, ``check`` or ``held_out``), or its first ``images``."""
        return data.load(self.work / name, images, cutout=self.preset.data.style == "cutout")

    @property
    def _start(self) -> Path | None:
        """The shipped teacher this run starts from."""
        return TEACHERS / self.preset.start_from if self.preset.start_from else None

    def _trainer(self, phase: str, model: torch.nn.Module, optim) -> Trainer:
        return Trainer(
            phase, model, optim, self.work / f"{phase}.pt", seed=self.seed, save_minutes=self.preset.save_minutes,
            device=self.device,
        )  # fmt: skip

    # ---- VAE ---------------------------------------------------------------------------------------------------

    def vae(self) -> None:
        """Train the autoencoder and whiten its latents."""
        torch.manual_seed(self.seed)
        config = self.preset.vae
        renders = self.renders("train", config.images)
        model = vae_module.build_vae(config, self.preset.data.size)
        if self._start is not None:
            start_vae(model, self._start)
        trainer = self._trainer("vae", model, config.optim)
        step = vae_module.vae_step(trainer.model, renders, config, self.device, self.preset.bf16)
        trained = trainer.train(step, on_save=lambda: self._reconstructions(trainer.ema, renders))
        sample = vae_module.encode_means(trained, renders.part(0, 4_000), self.device)
        vae_module.fold_whitening(trained, *vae_module.whitening(sample))
        staging = self.work / "vae.partial"
        shutil.rmtree(staging, ignore_errors=True)
        trained.to("cpu").save_pretrained(staging)
        shutil.rmtree(self.work / "vae_model", ignore_errors=True)
        for copy in self._copies():
            self._latents(copy).unlink(missing_ok=True)
        staging.rename(self.work / "vae_model")

    def latents(self) -> None:
        """Encode every training render, cut-outs several times on different backgrounds; copies already there stay."""
        if not (self.work / "vae_model").exists():
            raise FileNotFoundError(f"no {self.work / 'vae_model'}: run the phase 'vae' first")
        model = AutoencoderKL.from_pretrained(self.work / "vae_model").to(self.device).eval()
        renders = self.renders("train")
        for copy in self._copies():
            if not self._latents(copy).exists():
                latents = vae_module.encode_means(
                    model, renders, self.device, bf16=self.preset.bf16, seed=copy, group=self.preset.data.group
                )
                atomic_save(latents, self._latents(copy))

    def _copies(self) -> range:
        return range(self.preset.vae.copies if self.preset.data.style == "cutout" else 1)

    def _latents(self, copy: int) -> Path:
        return self.work / ("latents.pt" if copy == 0 else f"latents_{copy}.pt")

    @torch.no_grad()
    def _reconstructions(self, model: AutoencoderKL, renders: data.Renders) -> None:
        image = renders.pictures(torch.arange(32), step_generator(self.seed, "shown", 0)).to(self.device)
        output = model.decode(model.encode(image).latent_dist.mean).sample.clamp(-1, 1).cpu()
        psnr = -10 * ((output - image.cpu()).square().mean() / 4).log10()
        tqdm.write(f"vae: PSNR of 32 renders {psnr:.2f} dB")
        both = ((torch.stack([image.cpu(), output]) + 1) * 127.5).round().byte().permute(0, 1, 3, 4, 2).numpy()
        pictures, decoded = both
        pairs = [row for i in range(0, len(pictures), 8) for row in (*pictures[i : i + 8], *decoded[i : i + 8])]
        report.grid(np.stack(pairs), 8).save(self.work / "vae.png")

    # ---- U-Net and text encoder --------------------------------------------------------------------------------

    def _denoiser(self, captions: text.Captions) -> tuple[diffusion.Denoiser, CLIPTokenizer]:
        """U-Net and text encoder of this run as they start, and the tokenizer of its captions."""
        torch.manual_seed(self.seed)
        config, vae = self.preset.unet, self.preset.vae
        tokenizer = write_tokenizer(self.work / "tokenizer", captions.vocabulary(), config.context)
        latent_size = self.preset.data.size // 2 ** (len(vae.channels) - 1)
        unet = diffusion.build_unet(config, latent_size, vae.latent_channels)
        model = diffusion.Denoiser(unet, diffusion.build_text_encoder(config, tokenizer))
        if self._start is not None:
            start_text_encoder(model.text_encoder, tokenizer, self._start)
            start_unet(model.unet, self._start)
        return model, tokenizer

    def _reader(self, model: diffusion.Denoiser) -> text.TextReader:
        answers = {"class_id": self.world.CLASSES, "color_id": self.world.COLORS, "pattern_id": self.world.PATTERNS,
                   "view_id": self.world.VIEWS, "kind": range(3)}  # fmt: skip
        if self.preset.unet.camera_words:
            answers |= {"azimuth": AZIMUTHS, "elevation": ELEVATIONS}
        width = model.unet.time_embedding.linear_2.out_features
        counts = {name: len(values) for name, values in answers.items()}
        return text.TextReader(model.text_encoder, model.unet.add_embedding, width, counts)

    def text(self) -> None:
        """Teach the text encoder to read captions before the U-Net needs it."""
        config, renders = self.preset.unet, self.renders("train")
        captions = text.Captions(renders, config)
        model, tokenizer = self._denoiser(captions)
        reader = self._reader(model)
        reference = None if self._start is None else deepcopy(reader).to(self.device).eval().requires_grad_(False)
        trainer = self._trainer("text", reader, config.text_optim)
        labels = {name: torch.from_numpy(getattr(renders, name)) for name in data.LABELS}
        step = text.text_step(trainer.model, tokenizer, captions, labels, config, self.device, reference)
        trainer.train(step)

    def unet(self) -> None:
        """Train the U-Net on the frozen text encoder; the pipeline folder follows every checkpoint."""
        config = self.preset.unet
        missing = [("vae_model", "vae"), *((self._latents(copy).name, "latents") for copy in self._copies())]
        for name, phase in (*missing, ("text.pt", "text")):
            if not (self.work / name).exists():
                raise FileNotFoundError(f"no {self.work / name}: run the phase '{phase}' first")
        vae = AutoencoderKL.from_pretrained(self.work / "vae_model").eval()
        renders = self.renders("train")
        latents = [torch.load(self._latents(copy), weights_only=True) for copy in self._copies()]
        captions = text.Captions(renders, config)
        model, tokenizer = self._denoiser(captions)
        words = torch.load(self.work / "text.pt", map_location="cpu", weights_only=True)["ema"]
        reader = self._reader(model)  # shares its modules with the model
        reader.load_state_dict(words)
        if self._start is None:
            some = text.tokenise(tokenizer, captions.texts[:2_000], config, step_generator(self.seed, "pooled", 0))
            text.standardise_pooled(reader, some)
        else:
            few = torch.arange(min(400, len(renders)))
            pictures = renders.pictures(few, step_generator(self.seed, "bridge", 0))
            bridge_latents(model.unet, vae, pictures, self._start)
        reader.requires_grad_(False)
        weights = diffusion.item_weights(renders, self.world, config)
        del renders  # pictures are many times the size of latents
        trainer = self._trainer("unet", model, config.optim)
        step = diffusion.denoiser_step(
            trainer.model, tokenizer, latents, captions, weights, config, self.preset.data.group, self.device,
            self.preset.bf16,
        )  # fmt: skip

        def export() -> None:
            save_pipeline(
                self.teacher, vae, trainer.ema.unet, trainer.ema.text_encoder, tokenizer, diffusion.build_scheduler()
            )

        trainer.train(step, on_save=export)
        export()

    # ---- several views at once ---------------------------------------------------------------------------------

    def orbits(self) -> None:
        """Render groups of views around one object each, and encode them; nothing where the preset has none."""
        config, many = self.preset.multi_view, self.preset.data
        if not config.groups:
            return
        data.generate(
            self.work / "orbits", config.groups * config.views, size=many.size, split="train",
            seed=many.seed + self.seed + 800_000, group=config.views, shard=many.shard // config.views * config.views,
            style="orbit" if self._foreign_world is None else many.style, world=self._foreign_world,
            workers=self.workers,
        )  # fmt: skip
        if not (self.work / "vae_model").exists():
            raise FileNotFoundError(f"no {self.work / 'vae_model'}: run the phase 'vae' first")
        model = AutoencoderKL.from_pretrained(self.work / "vae_model").to(self.device).eval()
        renders = self._orbit_renders()
        for copy in range(config.copies):
            path = self._orbit_latents(copy)
            if not path.exists():
                latents = vae_module.encode_means(
                    model, renders, self.device, bf16=self.preset.bf16, seed=1_000 + copy, group=config.views
                )
                atomic_save(latents, path)

    def _orbit_renders(self) -> data.Renders:
        config, cutout = self.preset.multi_view, self._foreign_world is None or self.preset.data.style == "cutout"
        return data.load(self.work / "orbits", config.groups * config.views, cutout=cutout)

    def _orbit_latents(self, copy: int) -> Path:
        return self.work / f"orbit_latents_{copy}.pt"

    def multi_view(self) -> None:
        """Train the multi-view U-Net on from the single-view one; nothing where the preset has none."""
        config, words = self.preset.multi_view, self.preset.unet
        if not config.groups:
            return
        if config.optim.batch % config.views:
            raise ValueError(f"multi_view.optim.batch={config.optim.batch} must be a multiple of {config.views}")
        latents = [self._orbit_latents(copy) for copy in range(config.copies)]
        for path, phase in ((self.teacher / "unet", "unet"), *((path, "orbits") for path in latents)):
            if not path.exists():
                raise FileNotFoundError(f"no {path}: run the phase '{phase}' first")
        torch.manual_seed(self.seed)
        pipeline = load_pipeline(self.teacher)
        unet = make_multi_view(pipeline.unet.float().requires_grad_(True), config.views)
        model = diffusion.Denoiser(unet, pipeline.text_encoder.requires_grad_(False))
        trainer = self._trainer("multi_view", model, config.optim)
        views = []
        for renders, paths, group in (
            (self._orbit_renders(), latents, config.views),
            (self.renders("train"), [self._latents(copy) for copy in self._copies()], self.preset.data.group),
        ):
            encoded = [torch.load(path, weights_only=True) for path in paths]
            weights = diffusion.item_weights(renders, self.world, words)
            views.append(multi_view.Views(encoded, renders, words, weights, config, group))
            del renders  # pictures are many times the size of latents
        step = multi_view.multi_view_step(
            trainer.model, pipeline.tokenizer, *views, config, words, self.device, self.preset.bf16
        )

        def export() -> None:
            save_pipeline(
                self.multi_view_teacher, pipeline.vae, trainer.ema.unet, pipeline.text_encoder, pipeline.tokenizer,
                diffusion.build_scheduler(),
            )  # fmt: skip
            write_mark(self.multi_view_teacher / "unet", Mark(config.views, config.camera))

        trainer.train(step, on_save=export)
        export()

    # ---- CLIP and judge ----------------------------------------------------------------------------------------

    def train_clip(self) -> None:
        """Train the open-clip model and say how often the right caption comes first."""
        torch.manual_seed(self.seed)
        config, renders = self.preset.clip, self.renders("train")
        model = clip_module.build_clip(self.clip, config, renders.caption, config.size or self.preset.data.size)
        trainer = self._trainer("clip", model, config.optim)
        tokenizer = clip_module.open_clip.get_tokenizer(f"local-dir:{self.clip}")
        step = clip_module.clip_step(
            trainer.model, tokenizer, renders, self.world, config, self.preset.data.group, self.device
        )
        trainer.train(step, on_save=lambda: clip_module.save_clip(trainer.ema, self.clip))
        clip_module.save_clip(trainer.ema, self.clip)
        model, _, tokenizer = clip_module.load_clip(self.clip)
        found = {
            name: float(clip_module.retrieval(model, tokenizer, self.renders(name), self.world).mean())
            for name in ("check", "held_out")
        }
        self._write("clip.json", found)

    def train_judge(self) -> None:
        """Train the judge and say how well it reads renders it never saw."""
        torch.manual_seed(self.seed)
        config = self.preset.judge
        renders = self.renders(config.renders, config.images)
        model = judge_module.build_judge(config, self.world, self.preset.data.size)
        if self._start is not None:
            start_judge(model, JUDGES / f"{self.preset.start_from}.safetensors")
        trainer = self._trainer("judge", model, config.optim)
        step = judge_module.judge_step(trainer.model, renders, config, self.device)
        trainer.train(step, on_save=lambda: judge_module.save_judge(trainer.ema, self.judge))
        judge_module.save_judge(trainer.ema, self.judge)
        shipped = judge_module.load_judge(self.judge)
        facts = {name: judge_module.accuracy(shipped, self.renders(name)) for name in ("check", "held_out")}
        if config.azimuth:
            off = judge_module.azimuth_errors(shipped, self.renders("check"))
            facts["azimuth"] = {"median": float(np.median(off)), "within 15": float((off <= 15.0).mean())}
        self._write("judge.json", facts)

    def _write(self, name: str, facts: dict) -> None:
        (self.work / name).write_text(json.dumps(facts, indent=2) + "\n")
        tqdm.write(f"{name}: {json.dumps(facts)}")

    # ---- report ------------------------------------------------------------------------------------------------

    def report(self) -> None:
        """Draw everything and let the judge look; the table and the grids go to ``work/report``."""
        pipeline = load_pipeline(self.teacher).to(self.device)
        judge = judge_module.load_judge(self.judge)
        result = report.make_report(
            pipeline, judge, self.world, self.preset.report, self.work / "report", self.seed
        )
        tqdm.write(report.table(result))


PHASES: dict[str, Callable[[Factory], None]] = {
    "data": Factory.data,
    "vae": Factory.vae,
    "latents": Factory.latents,
    "text": Factory.text,
    "unet": Factory.unet,
    "orbits": Factory.orbits,
    "multi_view": Factory.multi_view,
    "clip": Factory.train_clip,
    "judge": Factory.train_judge,
    "report": Factory.report,
}
