"""What there is to run: columns (methods), prompts, seeds; and when two runs are the same run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import OmegaConf

from .. import ROOT
from ..pipeline.stages import CONFIG_SETS, STAGES, Stage, config_files, methods, slug
from .rungs import DEFAULT, RUNGS

CONFIGS = ROOT / "configs"
PRESETS = CONFIGS / "presets"

#: A column that trains nothing: the built-in world's own objects, scored like results.
GROUND_TRUTH = "ground_truth"
#: A column whose NeRF and texture are fitted to pictures of that object instead of being distilled.
FITTED = "fitted"

#: Columns with stages of their own: baselines that are no overlay of the three stages. Fantasia3D has no NeRF.
RECIPES = {
    "fantasia3d": (
        Stage("geometry", "{set}-fantasia3d.yaml"),
        Stage("texture", "{set}-fantasia3d-texture.yaml", after="geometry"),
    ),
}

#: Short for several columns: the rows of the paper's Table 7, each as NeRF and as mesh.
COLUMN_SETS = {"table7": ("sds", "fantasia3d", "vsd", "uni_instruct_fkl", "uni_instruct_rkl")}

#: Names of the overlays in tables; others go by what was written.
TITLES = {
    "sds": "SDS (DreamFusion)",
    "vsd": "VSD (ProlificDreamer)",
    "fantasia3d": "Fantasia3D",
    "uni_instruct_fkl": "Uni-Instruct FKL",
    "uni_instruct_rkl": "Uni-Instruct RKL",
    "uni_instruct_jkl": "Uni-Instruct JKL",
    GROUND_TRUTH: "Ground truth",
    FITTED: "Fitted to ground truth",
}

#: Blocks of a configuration; an override whose key begins with none of them belongs to system.guidance.
BLOCKS = ("data", "system", "trainer", "checkpoint")


@dataclass(frozen=True)
class Column:
    """A method of the table: an overlay of configs/methods and overrides on top of it.

    label: as written on the command line. overrides: ``key=value`` with full keys. config_set: of this column alone, so
    that teachers can be compared (None: the comparison's).
    """

    label: str
    method: str
    overrides: tuple[str, ...] = ()
    config_set: str | None = None

    @property
    def title(self) -> str:
        """For tables."""
        settings = self.label.partition(":")[2]
        parts = (TITLES.get(self.method, self.method), self.config_set, settings)
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Cell:
    """One run of the matrix."""

    column: Column
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.column.label} · {self.prompt} · seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Relative to the comparison's folder."""
        return Path("cells") / folder_name(self.prompt) / f"seed{self.seed}" / folder_name(self.column.label)


def folder_name(text: str) -> str:
    """Readable, and different for texts that differ in nothing but signs (kappa=1 and kappa=-1)."""
    return f"{slug(text, limit=40)}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Plan:
    """What all cells share.

    Args:
        out: the comparison's folder.
        config_set: key of text_to_3d.CONFIG_SETS. preset: folder of configs/presets, laid over it and the methods.
        backbones: keys of rungs.RUNGS.
        overrides: ``key=value`` for every stage of every cell.
        clip, clip_pretrained: model of the 3D-CLIP score, see scoring.ClipScorer. aesthetic: weights file or None.
        protocol: camera protocol of CLIP and aesthetic score.
        threads: per cell. cpu: leave accelerators alone. keep: keep checkpoints and logs of finished cells.
    """

    out: Path
    config_set: str = "shapes"
    preset: str | None = None
    backbones: tuple[str, ...] = DEFAULT
    overrides: tuple[str, ...] = ()
    clip: str = "local-dir:load/clip/shapes"
    clip_pretrained: str | None = None
    aesthetic: str | None = None
    protocol: str = "shapes-8"
    threads: int = 1
    cpu: bool = False
    keep: bool = False

    @property
    def stages(self) -> list[Stage]:
        """Stages of text_to_3d that the backbones need."""
        return self._up_to_last_rung(STAGES)

    def stages_of(self, column: Column) -> list[Stage]:
        """Stages of one column; none where it has nothing for the backbones."""
        if column.method == GROUND_TRUTH:
            return []
        if column.method in RECIPES:
            return self._up_to_last_rung(RECIPES[column.method])
        return self.stages

    def set_of(self, column: Column) -> str:
        """Key of text_to_3d.CONFIG_SETS for a column: its own, or the comparison's."""
        return column.config_set or self.config_set

    def _up_to_last_rung(self, stages: Sequence[Stage]) -> list[Stage]:
        asked = {RUNGS[name].stage for name in self.backbones}
        last = max((index for index, stage in enumerate(stages) if stage.name in asked), default=-1)
        return list(stages[: last + 1])

    def configs(self, stage: Stage, column: Column) -> list[Path]:
        """YAML files of a stage, later ones over earlier ones: stage, method, preset.

        The preset goes last: what it says holds for every method, so that no column trains longer than another.
        Geometry is refined with SDS whatever the method, as in the paper. A recipe of its own has its own preset; so
        may have a config set, whose batches of views cannot be cut as single views can.
        """
        recipe = column.method in RECIPES
        fitted = column.method == FITTED
        files = config_files(stage, self.set_of(column), None if recipe or fitted else column.method)
        if fitted and stage.name != "geometry":
            files.append(CONFIGS / "ladder" / "fitted.yaml")
        own = f"{column.method if recipe else self.set_of(column)}-{stage.name}.yaml"
        names = [own] if recipe else [own, f"{stage.name}.yaml"]
        found = [PRESETS / self.preset / name for name in names] if self.preset else []
        return files + [path for path in found if path.is_file()][:1]

    def stage_overrides(self, stage: Stage, column: Column) -> list[str]:
        """``key=value`` on top of the files."""
        return [*self.overrides, *(column.overrides if stage.name != "geometry" else ())]

    def key(self, cell: Cell, teacher: str) -> str:
        """Digest of everything that decides a cell's result: settings as they stand in the files, teacher's weights."""
        settings = {
            stage.name: [
                [OmegaConf.to_container(OmegaConf.load(path)) for path in self.configs(stage, cell.column)],
                self.stage_overrides(stage, cell.column),
            ]
            for stage in self.stages_of(cell.column)
        }
        scoring = [self.clip, self.clip_pretrained, self.aesthetic, self.protocol]
        asked = asdict(cell)
        del asked["column"]["config_set"]  # the settings and the label say it
        identity = [settings, scoring, teacher, asked]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def cells(columns: list[Column], prompts: list[str], seeds: list[int]) -> list[Cell]:
    """The matrix in the order in which partial results are comparable: every column of a prompt and seed, then the
    next prompt, then the next seed."""
    return [Cell(column, prompt, seed) for seed in seeds for prompt in prompts for column in columns]


def parse_column(text: str) -> Column:
    """``overlay``, ``overlay:key=value,key=value`` or, with a config set of its own, ``overlay@set`` and
    ``overlay@set:key=value``; ``gradient=exact`` is short for system.guidance.gradient.
    ``ground_truth`` stands for the objects of the built-in world, ``fitted`` for a NeRF fitted to their pictures.

    Raises:
        ValueError: no such overlay or config set, or an override that is none.
    """
    named, _, rest = text.partition(":")
    method, at, config_set = named.partition("@")
    if method not in (choices := [*methods(), *RECIPES, GROUND_TRUTH, FITTED]):
        choices += COLUMN_SETS
        raise ValueError(f"--methods {method!r} is no overlay of configs/methods; choices: {', '.join(choices)}")
    if at and config_set not in CONFIG_SETS:
        raise ValueError(f"--methods {text!r}: no config set {config_set!r}; choices: {', '.join(CONFIG_SETS)}")
    if method == GROUND_TRUTH and (rest or at):
        raise ValueError(f"--methods {text!r}: {GROUND_TRUTH} trains nothing, so that it has no settings")
    overrides = []
    for item in re.split(r",(?![^\[{]*[\]}])", rest) if rest else ():
        key, equals, value = item.strip().partition("=")
        if not (key and equals):
            raise ValueError(f"--methods {text!r}: {item!r} is not of the form key=value")
        full = key if key.partition(".")[0] in BLOCKS else f"system.guidance.{key}"
        overrides.append(f"{full}={value}")
    return Column(text, method, tuple(overrides), config_set or None)


def parse_columns(texts: list[str]) -> list[Column]:
    """See `parse_column`; a key of `COLUMN_SETS` stands for its columns. Raises ValueError for a column given twice."""
    columns = [parse_column(text) for given in texts for text in COLUMN_SETS.get(given, (given,))]
    _refuse_twice("--methods", [column.label for column in columns])
    return columns


def _refuse_twice(option: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{option}: {', '.join(map(repr, twice))} given twice")


def presets() -> list[str]:
    """Names of --preset."""
    return sorted(path.name for path in PRESETS.iterdir() if path.is_dir())
