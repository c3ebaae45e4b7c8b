"""Hostile inputs, drawn at random from a seed: command lines that cannot be meant, and damaged files.

A case is a call, what it may end in, and the words that repeat it. Command lines are wrong by construction: the value
is one that its row of the tables does not allow, the key is misspelt, the choice does not exist. A damaged file may
still be readable, so such a case may also succeed; it never ends in anything but one sentence.
"""

from __future__ import annotations

import io
import random
import string
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from uni_instruct_3d import ROOT
from uni_instruct_guidance.core.methods import RANGES as METHOD
from uni_instruct_guidance.core.ranges import Allowed, Table
from uni_instruct_guidance.distill2d.config import RANGES as TRAINER_2D
from uni_instruct_guidance.systems.ranges import CONFIG

VALUES = (
    *("nan", ".nan", ".inf", "-.inf", "-1", "-0.5", "0", "1.5", "1e30", "99999999999999999999", "abc", "true", "null"),
    *("[]", "[1]", "[1,2,3]", "[[1,2],3]", "[a,b]", "[.nan,1]", "[3,2]", "{a: 1}", "{}", "'5'", "2026-01-01", "0x"),
    *("${oc.env:HOME}x", "é☃", "a/../b", "!!python/object/apply:os.getcwd []", "-", "~", "[", "{", '"', "&a *a", "%"),
)
# files that are no file of any kind
OTHERS = (b"[" * 600, b"{a: " * 400, bytes(64), b'{"a": [1, 2', b"null", b"- 1\n- 2\n", b"\xff\xfe\xfa")
DIGITS = str(ROOT / "configs" / "distill2d" / "digits-cond.yaml")
TEACHER = ROOT / "configs" / "distill2d" / "teacher-digits-cond.yaml"
STAGE_ONE = ("shapes-nerf.yaml", "dreamfusion.yaml", "uni-instruct-nerf.yaml")


@dataclass(frozen=True)
class Case:
    """words: how to see it again. call: ends in a status, or raises. must_fail: success would be a fault."""

    words: str
    call: Callable[[], int | None]
    must_fail: bool = True


@dataclass(frozen=True)
class Entries:
    """What the cases call: an entry point by name, with the work behind the checks left out."""

    launch: Callable[[list[str]], int]
    distill: Callable[[list[str]], int]
    train_edm: Callable[[list[str]], int]
    scripts: dict[str, Callable[[list[str]], int]]
    report: Callable[[list[str]], int]
    readers: dict[str, Callable[[Path], object]]


def rows(table: Table, prefix: str = "") -> Iterator[tuple[str, Allowed]]:
    """Every row of a table with its dotted key; patterns as one key that they match."""
    for key, row in table.items():
        name = f"{prefix}{key.replace('*', 'sparsity' if 'lambda' in key else 'geometry')}"
        if isinstance(row, Allowed):
            yield name, row
        else:
            yield from rows(row, f"{name}.")


def parsed(text: str) -> object:
    """What a command line makes of a value; the text itself where it is no YAML."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"key={text}"]))["key"]
    except (yaml.YAMLError, OmegaConfBaseException):
        return text


def misspelt(word: str, rng: random.Random) -> str:
    """One letter more, one less, or two swapped."""
    at = rng.randrange(len(word))
    kinds = (
        word[:at] + rng.choice(string.ascii_lowercase) + word[at:],
        word[:at] + word[at + 1 :] or "x",
        word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        word.upper(),
    )
    return rng.choice(kinds)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Truncated, with bytes flipped, with a stretch cut out or doubled, or something else altogether."""
    content = bytearray(content)
    at = rng.randrange(max(1, len(content)))
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(content[:at])
    if kind == 1:
        for _ in range(rng.choice((1, 3, 20))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(content)
    if kind == 2:
        return bytes(content[:at] + content[at + rng.randrange(1, 50) :])
    if kind == 3:
        return bytes(content[:at] + content[at : at + 200] * 3 + content[at:])
    if kind == 4:
        return rng.randbytes(rng.choice((0, 1, 7, 500)))
    return rng.choice(OTHERS)


# --- kinds of cases ---------------------------------------------------------------------------------------------------


def refused_values(rng: random.Random, table: Table) -> str:
    """key=value that the key's row does not allow."""
    choices = list(rows(table))
    while True:
        key, row = rng.choice(choices)
        value = rng.choice(VALUES)
        meant = parsed(value)
        # null, and what cannot be read as YAML, may mean "as it was" or a text; a typed field reads '5' as the number
        readings = (value, meant, parsed(meant) if isinstance(meant, str) else meant)
        if meant is not None and "${" not in value and not any(row.holds(reading) for reading in readings):
            return f"{key}={value}"


def launch_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """threestudio's command line with one thing wrong."""
    config = ROOT / "configs" / rng.choice(STAGE_ONE)
    words = ["--gpu", "cpu", "--config", str(config), "--train", "system.prompt_processor.prompt=a mug",
             f"exp_root_dir={place / 'out'}"]  # fmt: skip
    kind, must_fail = rng.randrange(7), True
    if kind <= 1:
        words.append(refused_values(rng, CONFIG))
    elif kind == 2:
        key = rng.choice([key for key, _ in rows(CONFIG) if "." in key and "loss." not in key and "params." not in key])
        block, _, last = key.rpartition(".")
        words.append(f"{block}.{misspelt(last, rng)}={rng.choice(VALUES[:8])}")
        must_fail = False  # a misspelt word may be another key, and blocks such as auxiliary take any
    elif kind == 3:
        block = rng.choice(["data", "system", "trainer", "checkpoint", "system.guidance", "system.geometry",
                            "system.exporter", "system.optimizer", "system.loss"])  # fmt: skip
        words.append(f"{block}={rng.choice(['3', 'abc', '[1]', '.nan', 'true'])}")
    elif kind == 4:
        slot = rng.choice(["system.geometry", "system.guidance", "system.exporter", "data", "system"])
        words.append(f"{slot}_type={rng.choice(['nothing', '3', '[a]', '{a: 1}', 'é', 'a:b,c', 'Config'])}")
    elif kind == 5:
        words = damaged_words(rng, words)
    else:
        file = place / "damaged.yaml"
        file.write_bytes(damaged(config.read_bytes(), rng))
        words[3], must_fail = str(file), False
    return Case(f"launch.py {' '.join(words)}", lambda: entries.launch(words), must_fail)


def damaged_words(rng: random.Random, words: list[str]) -> list[str]:
    """The options themselves."""
    return rng.choice(
        [
            ["--gpu", rng.choice(["abc", "-1", "0,x", "1.5", ""]), *words[2:]],
            [*words[:3], "no/such/file.yaml", *words[4:]],
            [*words[:3], str(ROOT), *words[4:]],
            [*words, "--test"],
            [*words, "--no-such-option"],
            [*words, "word"],
            [*words, "--host", "nowhere"],
            words[:4],
            [*words, "=3"],
            [*words, "resume=no/such.ckpt"],
        ]
    )


def distill_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """The one-step trainer's command line with one thing wrong."""
    config = ROOT / "configs" / "distill2d" / "digits-cond.yaml"
    words, must_fail = ["--config", str(config), f"out={place / 'out'}"], True
    kind = rng.randrange(5)
    if kind <= 1:
        words.append(refused_values(rng, TRAINER_2D))
    elif kind == 2:
        words.append("method." + refused_values(rng, METHOD))
    elif kind == 3:
        key, _ = rng.choice(list(rows(TRAINER_2D)))
        words.append(f"{misspelt(key, rng)}={rng.choice(VALUES)}")
        must_fail = False
    else:
        file = place / "damaged.yaml"
        file.write_bytes(damaged(config.read_bytes(), rng))
        words[1], must_fail = str(file), False
    return Case(f"distill_2d.py {' '.join(words)}", lambda: entries.distill(words), must_fail)


NETWORKS = (
    *("nothing", "3", "null", "[1]", "digits", "{preset: none}", "{preset: tiny, widht: 3}"),
    *("{preset: tiny, sigma_data: .nan}", "{preset: digits-cond, sigma_data: -1}"),
    *("{preset: digits-cond, label_dim: -1}", "{preset: digits-cond, img_resolution: 0}"),
    *("{preset: digits-cond, img_channels: 3}", "{preset: digits-cond, model_channels: abc}"),
    *("{preset: digits-cond, model_channels: 0}", "{preset: digits-cond, img_resolution: 16}"),
)


def edm_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """The training of an EDM teacher with one thing wrong."""
    words, must_fail = ["--config", str(TEACHER), f"out={place / 'out'}"], True
    kind = rng.randrange(5)
    if kind <= 1:  # keys that only the distillation has are refused as well
        words.append(refused_values(rng, TRAINER_2D))
    elif kind == 2:
        words.append(f"network={rng.choice(NETWORKS)}")
    elif kind == 3:
        words.append(f"{misspelt(rng.choice(('network', 'noise.sampler', 'data.name', 'ema.rampup')), rng)}=3")
    else:
        file = place / "damaged.yaml"
        file.write_bytes(damaged(TEACHER.read_bytes(), rng))
        words[1], must_fail = str(file), False
    return Case(f"train_edm.py {' '.join(words)}", lambda: entries.train_edm(words), must_fail)


#: script -> (words that would do, option -> values that cannot be meant). TMP is a folder.
COUNTS = ("0", "-1", "abc", "1.5", "nan", "", "[1]", "1e3")
SCRIPTS: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
    "score": (["TMP/none.obj", "--prompt", "a mug", "--out", "TMP/out", "--device", "cpu"],
              {"--views": COUNTS, "--size": (*COUNTS, "99999999"), "--device": ("wrong", "cuda:99", "", "cpu:x"),
               "--prompt": ("", "  "), "--protocol": ("orbit", "shapes-8@9", ""), "--light": ("sun", ""),
               "--up": ("x", ""), "--prompts-file": ("no/such.txt", "TMP"), "--preference": ("hpsv9", ""),
               "--clip": ("ViT-X", "local-dir:no/where", "", "hf-hub:"), "--aesthetic": ("none.pth", "TMP")}),
    "compare": (["--methods", "sds", "--prompts", "TMP/prompts.txt", "--out", "TMP/out", "--table-only"],
                {"--jobs": COUNTS, "--threads": COUNTS, "--seeds": COUNTS[1:], "--methods": ("dream", "sds:a", ""),
                 "--baseline": ("dream",), "--engine": ("slurm",), "--backbones": ("cube",), "--preset": ("none",),
                 "--config-set": ("none",), "--prompts": ("no/such.txt", "TMP"),
                 "--": ("system.prompt_processor.pretrained_model_name_or_path=3", "a=[1", "a=*b", "=3", "word")}),
    "benchmark": (["ranking"], {"--objects": COUNTS, "--size": COUNTS, "--views": COUNTS, "--resolution": COUNTS,
                                "--protocols": ("orbit", ""), "--lights": ("sun",), "--clip": ("ViT-X",)}),
    "benchmark core": (["core"], {"--batch": COUNTS, "--size": COUNTS, "--repeats": COUNTS, "--device": ("wrong",),
                                  "--divergence": ("kl",), "--out": ("TMP",)}),
    "evaluate_2d": (["teacher", "--config", DIGITS, "--out", "TMP/out"],
                    {"--samples": COUNTS, "--steps": COUNTS, "--batch": COUNTS, "--device": ("wrong",),
                     "--judge": ("nobody",), "--judge-weights": ("no/such",), "--config": ("no/such.yaml", "TMP"),
                     "--reference-moments": ("no/such.npz",), "--seed": COUNTS[1:]}),
    "ablation": (["--out", "TMP/out"], {"--jobs": COUNTS, "--samples": COUNTS, "--cells": ("none",),
                                        "--seeds": COUNTS[1:], "--config": ("no/such.yaml", "TMP")}),
    "lab": (["--out", "TMP/out"], {"--steps": COUNTS, "--batch": COUNTS, "--workers": COUNTS, "--seeds": COUNTS,
                                   "--methods": ("nothing",), "--targets": ("ring9",), "--weighting": ("none",)}),
    "look_at_world": (["TMP/sheet.png"], {"--size": COUNTS, "--batch": COUNTS, "--seed": COUNTS[1:],
                                          "--classes": ("dragon",), "--color": ("infrared",)}),
    "train_digit_classifier": (["--out", "TMP/d.safetensors"], {"--steps": COUNTS, "--seed": COUNTS[1:]}),
    "text_to_3d": (["a mug", "--out", "TMP/out"],
                   {"--seed": COUNTS[1:], "--gpu": ("abc", "-1", "0,x", ""), "--method": ("dream",),
                    "--stages": ("x", ""), "--config-set": ("none",), "--quality": ("none",)}),
    "report": (["TMP/none"], {"--out": ("TMP",)}),
    "convert_edm": (["TMP/none.pkl", "TMP/out.safetensors"], {}),
    "teacher_report": (["--out", "TMP/out"], {"--steps": COUNTS, "--per-view": COUNTS, "--batch": COUNTS,
                                              "--guidance": ("-1", "nan", "abc", "inf"), "--device": ("wrong",),
                                              "--teacher": ("no/such",)}),
    "studio": (["--out", "TMP/out", "--no-browser"],
               {"--jobs": COUNTS, "--port": (*COUNTS, "65536", "99999999999"), "--config-set": ("none", ""),
                "--out": ("TMP/prompts.txt", "TMP/prompts.txt/out", "/proc/nowhere", "a\0b")}),
    "text_table": (["--out", "TMP/out"],
                   {"--rows": ("none", ""), "--seeds": COUNTS[1:], "--jobs": COUNTS, "--images": COUNTS,
                    "--config": ("no/such.yaml", "TMP"), "--assess": ("no/such", "TMP", "TMP/prompts.txt"),
                    "--": ("steps=0", "stepz=3", "word", "lr=nan", "text.rank=-1")}),
    "train_teacher": (["--work", "TMP/w", "--out", "TMP/t", "--clip-out", "TMP/c", "--judge-out", "TMP/j.safetensors"],
                      {"--preset": ("none",), "--phases": ("none",), "--workers": COUNTS, "--device": ("wrong",),
                       "--vae-steps": COUNTS, "--threads": COUNTS, "--seed": COUNTS[1:]}),
}  # fmt: skip


def script_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """Another script with one option that cannot be meant, or with a path that is not there."""
    name = rng.choice(list(SCRIPTS))
    words, options = SCRIPTS[name]
    if options and rng.random() < 0.9:
        option = rng.choice(list(options))
        words = [*words, option, rng.choice(options[option])]
    elif name not in ("score", "report", "convert_edm"):
        words = [*words, rng.choice(("--no-such-option", "--out"))]
    words = [word.replace("TMP", str(place)) for word in words]
    return Case(f"{name} {' '.join(words)}", lambda: entries.scripts[name](words))


def report_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """A trial folder with one damaged file."""
    trial = place / "trial"
    files = {
        "configs/parsed.yaml": b"name: mug\nsystem:\n  prompt_processor:\n    prompt: a red mug\n",
        "csv_logs/version_0/metrics.csv": b"epoch,step,train/loss\n0,1,0.5\n0,2,0.25\n",
        "scores.json": b'{"clip": 0.5, "name": "x"}',
        "done": b"12 s\n",
        "save/it30-0.png": picture(),
        "save/it30-export/model.glb": small_glb(),
    }
    hurt = rng.choice(list(files))
    for name, content in files.items():
        (trial / name).parent.mkdir(parents=True, exist_ok=True)
        (trial / name).write_bytes(damaged(content, rng) if name == hurt else content)
    words = [str(trial), "--out", str(place / "report.html")]
    return Case(f"report.py with a damaged {hurt}", lambda: entries.report(words), must_fail=False)


def reader_case(rng: random.Random, entries: Entries, place: Path) -> Case:
    """A damaged file of each kind that users hand over."""
    contents = {
        ".obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n",
        ".ply": b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
                b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n",
        ".glb": small_glb(),
        ".zip": small_zip(rng),
        ".gif": picture("GIF"),
    }  # fmt: skip
    suffix = rng.choice([suffix for suffix in contents if suffix in entries.readers])
    path = place / f"damaged{suffix}"
    path.write_bytes(damaged(contents[suffix], rng))
    read = entries.readers[suffix]

    def call() -> int:
        read(path)
        return 0

    return Case(f"a damaged {suffix} ({path})", call, must_fail=False)


def picture(kind: str = "PNG", size: int = 8) -> bytes:
    """A small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (200, 20, 20)).save(buffer, kind)
    return buffer.getvalue()


def small_zip(rng: random.Random) -> bytes:
    """Two pictures in a zip, one of them damaged half of the time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/0.png", picture())
        archive.writestr("b/1.png", damaged(picture(), rng) if rng.random() < 0.5 else picture())
    return buffer.getvalue()


def small_glb() -> bytes:
    """A tetrahedron."""
    import trimesh

    return trimesh.creation.icosahedron().export(file_type="glb")


KINDS = (launch_case, distill_case, script_case, report_case, reader_case, edm_case)


def draw(seed: int, kind: Callable, entries: Entries, place: Path) -> Case:
    """The case of a seed."""
    return kind(random.Random(f"{kind.__name__} {seed}"), entries, place)
