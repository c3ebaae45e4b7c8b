"""Look at a teacher before anything else starts: is everything there, and is every file whole?"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ...core.files import found

# Parts a Stable-Diffusion-format folder must have; what we read of each.
TEACHER_PARTS = ("unet", "vae", "scheduler", "text_encoder", "tokenizer")
WEIGHTLESS_PARTS = ("scheduler", "tokenizer")


def check_safetensors(path: Path) -> None:
    """Refuse a truncated or garbled safetensors file by reading its header only.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError(f"corrupt weights {path}: {size} bytes, shorter than a safetensors header")
        header_size = struct.unpack("<Q", prefix)[0]
        if header_size > size - 8:
            raise ValueError(f"corrupt weights {path}: header of {header_size} bytes in a file of {size}")
        try:
            header = json.loads(file.read(header_size))
        except ValueError as error:
            raise ValueError(f"corrupt weights {path}: header is not JSON ({error})") from None
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + header_size + max(ends, default=0)
    if size != expected:
        raise ValueError(f"corrupt weights {path}: {size} bytes, its header promises {expected}")


def check_teacher_folder(folder: Path) -> None:
    """Refuse a folder that is not a complete diffusers Stable-Diffusion folder.

    Raises:
        FileNotFoundError: a part or its weights are missing (named).
        ValueError: a configuration or weight file is damaged (named).
    """
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f"teacher {str(folder)!r} has no model_index.json: not a diffusers pipeline folder")
    missing = [part for part in TEACHER_PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(f"teacher {str(folder)!r} lacks {missing}; needed: {list(TEACHER_PARTS)}")
    for part in TEACHER_PARTS:
        for config in (folder / part).glob("*.json"):
            try:
                json.loads(config.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"corrupt configuration {config}: {error}") from None
        if part in WEIGHTLESS_PARTS:
            continue
        weights = sorted((folder / part).glob("*.safetensors"))
        if not weights:
            raise FileNotFoundError(
                f"teacher {str(folder)!r}: no .safetensors weights in {part}/ (pickled .bin weights are not loaded; "
                f"convert them with diffusers' save_pretrained(safe_serialization=True))"
            )
        for path in weights:
            check_safetensors(path)


def forget_origin(folder: Path) -> None:
    """Take out of every config.json below `folder` where its part was loaded from: diffusers writes that path along."""
    for config in folder.glob("**/config.json"):
        values = json.loads(config.read_text(encoding="utf-8"))
        if values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_teacher(name_or_path: str, cache_dir: str | None = None) -> str:
    """Check a teacher given as folder (of the working folder or the project) or hub id. Returns the name to load.

    A hub id is accepted when its files are in the local cache or the hub answers.

    Raises:
        FileNotFoundError, ValueError: one line naming the teacher and what to do.
    """
    path = found(name_or_path)
    if path.is_dir():
        check_teacher_folder(path)
        return str(path)
    if path.exists():
        raise ValueError(f"teacher {name_or_path!r} is a file; give a diffusers pipeline folder or a hub id")
    parts = name_or_path.split("/")
    if len(parts) != 2 or not all(parts) or name_or_path.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"teacher {name_or_path!r} is neither an existing folder nor a hub id of the form owner/name "
            f"(the built-in teacher is load/teachers/shapes)"
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    # the cache first: asking an unreachable hub takes half a minute of retries
    if isinstance(try_to_load_from_cache(name_or_path, "model_index.json", cache_dir=cache_dir), str):
        return name_or_path
    try:
        hf_hub_download(name_or_path, "model_index.json", cache_dir=cache_dir)
    except (LocalEntryNotFoundError, OSError, HfHubHTTPError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise FileNotFoundError(f"teacher {name_or_path!r}: the hub has no model_index.json for it") from None
        raise FileNotFoundError(
            f"teacher {name_or_path!r} is not in the local cache and the hub cannot be reached or refuses it "
            f"({type(error).__name__}); give a local folder, e.g. load/teachers/shapes"
        ) from None
    return name_or_path


def local_folder(name_or_path: str, cache_dir: str | None = None) -> Path:
    """Where a checked teacher's files lie: its own folder, or the snapshot of a hub id in the local cache."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name_or_path, "model_index.json", cache_dir=cache_dir)).parent
