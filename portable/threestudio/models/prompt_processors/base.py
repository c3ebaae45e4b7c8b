"""Prompts: their text for each view, their embeddings, and the cache of these."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

import threestudio
from threestudio.models.prompt_processors.directions import DirectionConfig, shift_azimuth_deg, view_directions
from threestudio.utils.base import BaseObject
from threestudio.utils.errors import SpecificationError, UserError
from threestudio.utils.files import atomic_path
from threestudio.utils.misc import barrier, cleanup, get_rank
from threestudio.utils.ops import shifted_expotional_decay

CACHE_DIR = Path(".threestudio_cache/text_embeddings")

#: Searched in this order for ``lib:`` prompts: the working folder, then the project.
PROMPT_LIBRARIES = (Path("load/prompt_library.json"), Path(__file__).parents[4] / "load" / "prompt_library.json")


def hash_prompt(model: str, prompt: str) -> str:
    """Name of the cache entry."""
    return hashlib.md5(f"{model}-{prompt}".encode(), usedforsecurity=False).hexdigest()


@dataclass
class PromptProcessorOutput:
    """Embeddings of one prompt, and of it for each direction (``_vd``); "uncond" means the negative prompt."""

    text_embeddings: Float[Tensor, "1 L D"]
    uncond_text_embeddings: Float[Tensor, "1 L D"]
    text_embeddings_vd: Float[Tensor, "Nv L D"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv L D"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: tuple[float, float, float]
    perp_neg_f_fsb: tuple[float, float, float]
    perp_neg_f_fs: tuple[float, float, float]
    perp_neg_f_sf: tuple[float, float, float]
    prompt: str = ""
    prompts_vd: tuple[str, ...] = ()

    def direction_index(
        self, elevation: Float[Tensor, "B"], azimuth: Float[Tensor, "B"], camera_distances: Float[Tensor, "B"]
    ) -> Int[Tensor, "B"]:
        """Direction of each view. Angles in degrees."""
        index = torch.zeros_like(elevation, dtype=torch.long)
        for direction in self.directions:
            applies = direction.condition(elevation, azimuth, camera_distances)
            index[applies] = self.direction2idx[direction.name]
        return index

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "2B L D"]:
        """Embeddings for a batch of views, the conditional half first. Angles in degrees."""
        if view_dependent_prompting:
            index = self.direction_index(elevation, azimuth, camera_distances).to(self.text_embeddings_vd.device)
            return torch.cat([self.text_embeddings_vd[index], self.uncond_text_embeddings_vd[index]])
        batch = len(elevation)
        return torch.cat(
            [self.text_embeddings.expand(batch, -1, -1), self.uncond_text_embeddings.expand(batch, -1, -1)]
        )

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "4B L D"], Float[Tensor, "B 2"]]:
        """Embeddings and weights for perpendicular negative prompts (arXiv 2304.04968). Angles in degrees.

        Between two neighbouring directions the positive embedding is interpolated, and both a neighbour and the
        opposite side are pushed away with weights that decay with the angle.

        Returns:
            Rows: B positive, B unconditional, then two negatives per view; and the (never positive) weights of these.

        Raises:
            AssertionError: without view-dependent prompting there are no neighbours.
        """
        if not view_dependent_prompting:
            raise SpecificationError("use_perp_neg needs guidance.view_dependent_prompting=true")
        index = self.direction_index(elevation, azimuth, camera_distances)
        side, front, back, overhead = (
            self.text_embeddings_vd[self.direction2idx[name]] for name in ("side", "front", "back", "overhead")
        )
        unconditional = self.uncond_text_embeddings_vd[index.to(self.uncond_text_embeddings_vd.device)]
        positive, negative, weights = [], [], []
        for i, angle in enumerate(shift_azimuth_deg(azimuth).abs()):
            if index[i] == self.direction2idx["overhead"]:
                positive.append(overhead)
                negative += [unconditional[i], unconditional[i]]
                weights.append(torch.zeros(2, device=angle.device))
                continue
            if angle < 90:  # share of the front, the rest is side
                share = 1 - angle / 90
                positive.append(share * front + (1 - share) * side)
                negative += [front, side]
                decays = (self.perp_neg_f_fs, share), (self.perp_neg_f_sf, 1 - share)
            else:  # share of the side, the rest is back
                share = 2 - angle / 90
                positive.append(share * side + (1 - share) * back)
                negative += [side, front]
                decays = (self.perp_neg_f_sb, share), (self.perp_neg_f_fsb, share)
            weights.append(torch.stack([-shifted_expotional_decay(*curve, r) for curve, r in decays]))
        embeddings = torch.cat([torch.stack(positive), unconditional, torch.stack(negative)])
        return embeddings, torch.stack(weights).to(embeddings.device)


class PromptProcessor(BaseObject, ABC):
    """Turns one prompt into embeddings of it and of its view-dependent forms. Subclasses give :meth:`encode`."""

    @dataclass
    class Config(BaseObject.Config):
        """Angles in degrees."""

        # what to make; lib:word_word takes the one prompt of load/prompt_library.json with these words
        prompt: str = "a hamburger"
        # other texts for single directions
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None
        negative_prompt: str = ""
        # folder or hub id with text_encoder/ and tokenizer/ (the reference's default left the hub in 2024)
        pretrained_model_name_or_path: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        # "front view of X" instead of "X, front view"
        view_dependent_prompt_front: bool = False
        use_cache: bool = True
        # the reference encodes in a process of its own to free memory; here the encoder is freed in place
        spawn: bool = True
        # perpendicular negative prompts, with the decay (a, b, c) of a exp(-b r) + c for each pair of directions
        use_perp_neg: bool = False
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)
        # needs a language model from the hub: refused by this host
        use_prompt_debiasing: bool = False
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        prompt_debiasing_mask_ids: list[int] | None = None

    cfg: Config

    def configure(self) -> None:
        cfg = self.cfg
        if cfg.use_prompt_debiasing:
            raise UserError(
                "system.prompt_processor.use_prompt_debiasing=true needs a language model and runs on threestudio "
                "itself only; choices here: false"
            )
        if not cfg.prompt.strip():
            raise UserError("system.prompt_processor.prompt is empty: say what to make, for example 'a red mug'")
        self.prompt = self.preprocess_prompt(cfg.prompt)
        self.negative_prompt = cfg.negative_prompt
        self.directions = view_directions(cfg)
        self.direction2idx = {direction.name: i for i, direction in enumerate(self.directions)}
        self.prompts_vd = [cfg.get(f"prompt_{d.name}") or d.prompt(self.prompt) for d in self.directions]
        self.negative_prompts_vd = [d.negative_prompt(self.negative_prompt) for d in self.directions]
        threestudio.info(f"prompt: {self.prompt!r}, negative prompt: {self.negative_prompt!r}")
        threestudio.info(f"view-dependent: {', '.join(map(repr, self.prompts_vd))}")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def preprocess_prompt(self, prompt: str) -> str:
        """The prompt itself, or of ``lib:word_word`` the one library prompt that contains all the words.

        Raises:
            ValueError: none or several contain them.
        """
        if not prompt.startswith("lib:"):
            return prompt
        words = prompt.removeprefix("lib:").lower().split("_")
        path = next((path for path in PROMPT_LIBRARIES if path.is_file()), PROMPT_LIBRARIES[0])
        if not path.is_file():
            raise UserError(f"prompt={prompt} needs the library {path}, which is missing")
        library = [text for texts in json.loads(path.read_text()).values() for text in texts]
        found = [text for text in library if all(word in text.lower() for word in words)]
        if len(found) != 1:
            several = f"several do: {'; '.join(found[:3])}" if found else "none does"
            raise UserError(f"prompt={prompt}: exactly one prompt of {path} must contain {', '.join(words)}; {several}")
        return found[0]

    # ------------------------------------------------------------------------------------------------- embeddings
    @abstractmethod
    def encode(self, prompts: list[str]) -> Float[Tensor, "N L D"]:
        """Embeddings of the prompts, on any device and of any float type."""

    def fingerprint(self) -> str:
        """For subclasses: changes whenever the model behind the name does, so that stale entries are not used."""
        return ""

    def _cache_path(self, prompt: str) -> Path:
        return CACHE_DIR / f"{hash_prompt(self.cfg.pretrained_model_name_or_path, prompt)}.pt"

    def _all_prompts(self) -> Iterable[str]:
        every = [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
        return dict.fromkeys(every)

    def prepare_text_embeddings(self) -> None:
        """Encode what the cache lacks. Entries are complete or absent."""
        if get_rank() != 0:
            return
        wanted = [p for p in self._all_prompts() if not self.cfg.use_cache or self._cached(p) is None]
        if not wanted:
            return
        # Building an encoder draws random numbers. Whatever is built next must not depend on what the cache held.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            embeddings = self.encode(wanted)
        cleanup()
        os.makedirs(CACHE_DIR, exist_ok=True)
        for prompt, embedding in zip(wanted, embeddings):
            entry = {"fingerprint": self.fingerprint(), "embedding": embedding.detach().float().cpu().clone()}
            with atomic_path(self._cache_path(prompt)) as temporary:
                torch.save(entry, temporary)

    def _cached(self, prompt: str) -> Float[Tensor, "L D"] | None:
        path = self._cache_path(prompt)
        if not path.is_file():
            return None
        try:
            entry = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever is wrong with a cache entry, it can be made again
            threestudio.warn(f"cache entry {path} is unreadable and is made again ({type(error).__name__})")
            return None
        known = isinstance(entry, dict) and entry.get("fingerprint") == self.fingerprint()
        return entry["embedding"] if known else None

    def load_text_embeddings(self) -> None:
        """Read all embeddings back from the cache onto the device."""
        barrier()

        def load(prompts: list[str]) -> Tensor:
            return torch.stack([self._cached(prompt) for prompt in prompts]).to(self.device)

        self.text_embeddings = load([self.prompt])
        self.uncond_text_embeddings = load([self.negative_prompt])
        self.text_embeddings_vd = load(self.prompts_vd)
        self.uncond_text_embeddings_vd = load(self.negative_prompts_vd)

    def __call__(self) -> PromptProcessorOutput:
        """Everything guidance needs to know about the prompt."""
        curves = {f"perp_neg_f_{pair}": tuple(self.cfg[f"perp_neg_f_{pair}"]) for pair in ("sb", "fsb", "fs", "sf")}
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=self.cfg.use_perp_neg,
            prompt=self.prompt,
            prompts_vd=tuple(self.prompts_vd),
            **curves,
        )
