"""What threestudio (0.2.3, 2024) needs on today's libraries and without CUDA, done while it is imported.

Nothing of the checkout is changed: each repair is a function of a module, called when that module has been executed.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

import torch

from .lora import LoRAAttnProcessor, pass_scale_to_processors


def device() -> torch.device:
    """Where threestudio runs: its GPU, else what there is."""
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device_of_this_machine(module: ModuleType) -> None:
    """``get_device`` says cuda on every machine."""
    if not torch.cuda.is_available():
        module.get_device = device


def _no_cuda_context(module: ModuleType) -> None:
    """Encodings are made inside ``torch.cuda.device(rank)`` and masks on device ``rank``."""
    if not torch.cuda.is_available():
        module.get_rank = lambda: str(device())


def _prompts_in_this_process(module: ModuleType) -> None:
    """The process that embeds prompts would start without the stand-ins."""
    prepare = module.PromptProcessor.prepare_text_embeddings

    def in_this_process(self):
        self.cfg.spawn = False
        return prepare(self)

    module.PromptProcessor.prepare_text_embeddings = in_this_process


def _lora_of_then(module: ModuleType) -> None:
    """diffusers' LoRA processor is an empty class today; the camera's width is written for Stable Diffusion only."""
    from diffusers import UNet2DConditionModel

    module.LoRAAttnProcessor = LoRAAttnProcessor
    if not getattr(UNet2DConditionModel, "_scale_reaches_processors", False):
        pass_scale_to_processors(UNet2DConditionModel)
        UNet2DConditionModel._scale_reaches_processors = True
    embedding, pipeline = module.TimestepEmbedding, module.StableDiffusionPipeline
    width = [1280]

    class Pipeline(pipeline):
        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            loaded = pipeline.from_pretrained(*args, **kwargs)
            width[0] = loaded.unet.time_embedding.linear_2.out_features
            return loaded

    module.StableDiffusionPipeline = Pipeline
    module.TimestepEmbedding = lambda in_channels, time_embed_dim: embedding(
        in_channels, width[0] if time_embed_dim == 1280 else time_embed_dim
    )


#: module -> repairs, in order.
REPAIRS = {
    "threestudio.utils.misc": (_device_of_this_machine,),
    "threestudio.models.networks": (_no_cuda_context,),
    "threestudio.models.prompt_processors.base": (_prompts_in_this_process,),
    "threestudio.models.guidance.stable_diffusion_vsd_guidance": (_lora_of_then,),
    "threestudio.models.guidance.stable_diffusion_unified_guidance": (_lora_of_then,),
}


class RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of :data:`REPAIRS` where everybody finds them, and repairs them once executed."""

    def find_spec(self, name, path=None, target=None):
        if name not in REPAIRS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def then_repair(module: ModuleType) -> None:
            execute(module)
            for repair in REPAIRS[name]:
                repair(module)

        spec.loader.exec_module = then_repair
        return spec


def repair_torch() -> None:
    """``torch.cuda.device(…)`` as a context does nothing on machines without CUDA."""
    if not torch.cuda.is_available():
        torch.cuda.device = lambda *_: contextlib.nullcontext()


def repair_lightning() -> list[str]:
    """threestudio's launcher asks for all GPUs; and Lightning no longer calls ``train()`` after a validation.

    Returns:
        what is different from what a configuration says, filled in when the trainer is built.
    """
    import pytorch_lightning as pl

    notes: list[str] = []

    class StayRandomised(pl.Callback):
        """Renderers draw their samples at random while they are trained, also after the first validation."""

        def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
            renderer = getattr(module, "renderer", None)
            if renderer is not None and getattr(renderer, "randomized", True) is False:
                renderer.train()

    class Trainer(pl.Trainer):
        def __init__(self, *args, callbacks=None, **kwargs) -> None:
            if not torch.cuda.is_available():
                kwargs |= {"accelerator": "mps" if device().type == "mps" else "cpu", "devices": 1}
                if str(kwargs.get("precision", "32")) in ("16", "16-mixed"):
                    kwargs["precision"] = 32
                    notes.append("precision 32 in place of 16-mixed, which needs a GPU")
                    print(f"repair: {notes[-1]}", file=sys.stderr)
            super().__init__(*args, callbacks=[*(callbacks or []), StayRandomised()], **kwargs)

    pl.Trainer = Trainer
    return notes


def install() -> None:
    """Everything that has to happen before threestudio is imported."""
    sys.meta_path.insert(0, RepairingFinder())
    repair_torch()
    repair_lightning()
