"""The studio with runs of a few steps, for tests that need real runs and not what comes out of them."""

import dataclasses
import sys

import uni_instruct_3d  # noqa: F401
from uni_instruct_3d.studio import choices, cli

STEPS = {"trainer.max_steps": 40, "trainer.val_check_interval": 20, "checkpoint.every_n_train_steps": 20}
SMALL = {
    "data.width": 16, "data.height": 16, "data.eval_width": 64, "data.eval_height": 64, "data.n_val_views": 1,
    "data.n_test_views": 4, "system.guidance.bank.size": 1, "system.guidance.bank.steps": 1,
}  # fmt: skip
asked = choices.settings_of


def settings_of(*given, **more):
    overrides = tuple(f"{key}={value}" for key, value in (STEPS | SMALL).items())
    return [dataclasses.replace(one, overrides=overrides) for one in asked(*given, **more)]


choices.settings_of = settings_of
if __name__ == "__main__":
    sys.exit(cli.main())
