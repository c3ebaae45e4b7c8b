"""What happens beside training: snapshots of configuration and code, progress on the terminal and in a file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from tqdm.auto import tqdm

from threestudio.utils.config import dump_config
from threestudio.utils.files import atomic_path


class VersionedCallback(Callback):
    """Writes into ``save_root``, or with ``use_version`` into a new numbered folder of it."""

    def __init__(self, save_root: str, version: int | None = None, use_version: bool = True) -> None:
        self.save_root, self.use_version = save_root, use_version
        self._version = version

    @property
    def version(self) -> int:
        """Given number, or the first free one."""
        if self._version is None:
            taken = [p.name.removeprefix("version_") for p in Path(self.save_root).glob("version_*")]
            self._version = max((int(n) for n in taken if n.isdigit()), default=-1) + 1
        return self._version

    @property
    def savedir(self) -> str:
        """Folder to write to."""
        return os.path.join(self.save_root, f"version_{self.version}") if self.use_version else self.save_root


class CodeSnapshotCallback(VersionedCallback):
    """Copies the code that the run can be repeated with: the loaded files of its extensions, and its configurations.

    What is copied is what was imported, so no repository is needed, and no output can be among it.

    Args:
        extensions: names of the extensions' packages.
        config_paths: YAML files that were given.
    """

    def __init__(
        self,
        save_root: str,
        version: int | None = None,
        use_version: bool = True,
        extensions: Iterable[str] = (),
        config_paths: Iterable[str] = (),
    ) -> None:
        super().__init__(save_root, version, use_version)
        self.extensions, self.config_paths = tuple(extensions), tuple(config_paths)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy once."""
        self._save()

    @rank_zero_only
    def _save(self) -> None:
        for source, target in self._files().items():
            copy = Path(self.savedir) / target
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def _files(self) -> dict[Path, Path]:
        """File -> its place in the snapshot."""
        files = {}
        for name in self.extensions:
            package = sys.modules[name].__file__
            if package is None:
                continue
            root = Path(package).parent.parent
            loaded = [m for key, m in list(sys.modules.items()) if key == name or key.startswith(f"{name}.")]
            sources = [Path(m.__file__) for m in loaded if getattr(m, "__file__", None)]
            files.update({path: path.relative_to(root) for path in sources if path.is_file()})
        own = Path(self.save_root).resolve().parent  # a run that goes on is given its own trial's configuration
        given = [Path(path) for path in self.config_paths if own not in Path(path).resolve().parents]
        # numbered in the order of the command line: two overlays may have one name
        files.update({path: Path("configs") / f"{index}-{path.name}" for index, path in enumerate(given)})
        return files


class ConfigSnapshotCallback(VersionedCallback):
    """``parsed.yaml`` (resolved, complete), ``raw.yaml`` (as given) and the command line.

    Args:
        config_path: the YAML file, or several that were merged.
        save_root: folder of the two files; ``cmd.txt`` goes beside it.
        command: command line; None: that of this process.
    """

    def __init__(
        self,
        config_path: str | list[str],
        config: Any,
        save_root: str,
        version: int | None = None,
        use_version: bool = True,
        command: str | None = None,
    ) -> None:
        super().__init__(save_root, version, use_version)
        self.config_paths = [config_path] if isinstance(config_path, str) else list(config_path)
        self.config = config
        self.command = " ".join(["python", *sys.argv]) if command is None else command

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the file that was given, before a run that continues in place replaces it."""
        if stage == "fit":
            texts = [Path(path).read_text() for path in self.config_paths]
            merged = OmegaConf.merge(*map(OmegaConf.create, texts)) if len(texts) > 1 else None
            self._raw = texts[0] if merged is None else OmegaConf.to_yaml(merged)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write, now that everything could be built."""
        self._save()

    @rank_zero_only
    def _save(self) -> None:
        folder = Path(self.savedir)
        dump_config(str(folder / "parsed.yaml"), self.config)
        resuming_in_place = (folder / "parsed.yaml").resolve() in [Path(path).resolve() for path in self.config_paths]
        if not resuming_in_place:
            with atomic_path(folder / "raw.yaml") as temporary:
                temporary.write_text(self._raw)
        with open(folder.parent / "cmd.txt", "a") as file:
            file.write(f"{self.command}\n")


class StepProgressBar(ProgressBar):
    """One bar over all training steps with losses and time left, one over the views of a test or export.

    Lightning's own bar counts batches of an epoch, which never ends here, so it knows no time left.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled, self._timed = True, False

    def disable(self) -> None:
        """Lightning calls this on all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def _open(self, total: int | None, initial: int, description: str) -> None:
        self._close()
        # on a terminal redrawn in place; in a log file one line every ten seconds
        interval = 0.5 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=description,
            disable=not self._enabled,
            mininterval=interval,
            dynamic_ncols=True,
            smoothing=0.3,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._timed = False
        self._open(trainer.max_steps if trainer.max_steps > 0 else None, trainer.global_step, "training")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        assert self._bar is not None
        if self._timed:
            self._bar.update(trainer.global_step - self._bar.n)
        else:  # the first step fills caches and banks: the time left is told from the steps after it
            self._timed = True
            self._bar.unpause()
            self._bar.update(trainer.global_step - self._bar.n)
            self._bar.initial = self._bar.last_print_n = self._bar.n
        # reading a metric waits for the device, so only when the bar was redrawn
        if self._bar.last_print_n == self._bar.n:
            self._bar.set_postfix(self._losses(trainer), refresh=False)

    @staticmethod
    def _losses(trainer: pl.Trainer) -> dict[str, str]:
        prefix = "train/loss_"
        metrics = trainer.callback_metrics.items()
        losses = {
            name.removeprefix(prefix): f"{float(value):.3g}" for name, value in metrics if name.startswith(prefix)
        }
        for name in ("skipped", "rejected"):
            count = int(trainer.callback_metrics.get(f"train/{name}_steps", 0))
            losses |= {name: f"{count}"} if count else {}
        return losses

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_postfix(self._losses(trainer))
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open(sum(trainer.num_test_batches), 0, "turntable")

    def on_test_batch_end(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()


class ProgressCallback(Callback):
    """Writes the share that is done to a file, for programs that watch the run."""

    def __init__(self, save_path: str) -> None:
        super().__init__()
        self._path = Path(save_path)
        self._shown = -1

    @rank_zero_only
    def _write(self, text: str) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(text)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        percent = 100 * trainer.global_step // max(trainer.max_steps, 1)
        if percent != self._shown:
            self._shown = percent
            self._write(f"{percent} % of training ({trainer.global_step} of {trainer.max_steps} steps)\n")
