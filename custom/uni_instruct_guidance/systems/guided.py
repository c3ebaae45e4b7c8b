"""When a system has a guidance, and what its checkpoints do without one."""

from __future__ import annotations

import threestudio


class GuidanceWhileTraining:
    """Mixin before a system's class: guidance and prompts are built before a checkpoint is read, and only to train.

    What the guidance has learned is then read with the rest, and a finished asset renders and exports without its
    teacher. Some systems of threestudio proper build it later, and then refuse the checkpoint's names for it.
    """

    def setup(self, stage: str) -> None:
        if stage != "fit" or getattr(self, "guidance", None) is not None:
            return
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.prompt_utils = self.prompt_processor()
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        if getattr(self, "guidance", None) is None:
            state = checkpoint["state_dict"]
            for key in [key for key in state if key.startswith("guidance.")]:
                del state[key]
