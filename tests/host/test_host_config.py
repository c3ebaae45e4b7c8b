"""Schedules, resolvers, configuration errors, the registry and trial folders against the reference's values."""

from __future__ import annotations

import builtins
import re
from dataclasses import dataclass

import omegaconf
import pytest
from contract_values import CONTRACT
from omegaconf import OmegaConf

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.config import ExperimentConfig, dump_config, load_config, parse_structured
from threestudio.utils.errors import UserError
from threestudio.utils.files import MAX_NAME_BYTES, safe_name
from threestudio.utils.misc import C, C_max

SCHEDULE = CONTRACT["schedule"]


def exception(name: str) -> type[BaseException]:
    """Exception class from its name in the contract."""
    short = name.rpartition(".")[2]
    return getattr(omegaconf.errors, short) if "omegaconf" in name else getattr(builtins, short)


def as_config(value):
    """Schedules come from configurations, so lists are OmegaConf lists."""
    return OmegaConf.create(value) if isinstance(value, list) else value


@pytest.mark.parametrize("row", SCHEDULE["C"], ids=lambda r: f"{r['value']}@{r['epoch']},{r['global_step']}")
def test_schedule(row):
    value = C(as_config(row["value"]), row["epoch"], row["global_step"], row["interpolation"])
    assert value == pytest.approx(row["out"], rel=1e-6)


@pytest.mark.parametrize("row", SCHEDULE["C_max"], ids=lambda r: str(r["value"]))
def test_schedule_maximum(row):
    assert C_max(as_config(row["value"])) == row["out"]


MALFORMED = {
    "plain python list (not a config list)": [0, 1.0, 2.0, 10],
    "config list of 5": OmegaConf.create([0, 1.0, 2.0, 10, 3.0]),
    "config list of 2": OmegaConf.create([0, 1.0]),
    "config mapping": OmegaConf.create({"a": 1}),
    "string": "0.5",
    "start step equals end step": OmegaConf.create([5, 1.0, 2.0, 5]),
    "plain python list": [0, 1.0, 2.0, 10],
}


@pytest.mark.parametrize("row", SCHEDULE["C_errors"], ids=lambda r: r["what"])
def test_schedule_errors(row):
    with pytest.raises(exception(row["raises"])):
        if row["what"] == "unknown interpolation":
            C(OmegaConf.create([0, 1.0, 2.0, 10]), 0, 5, interpolation="cubic")
        C(MALFORMED[row["what"]], 0, 5)


@pytest.mark.parametrize("row", SCHEDULE["C_max_errors"], ids=lambda r: r["what"])
def test_schedule_maximum_errors(row):
    with pytest.raises(exception(row["raises"])):
        C_max(MALFORMED[row["what"]])


def approximately(actual, expected) -> None:
    """Nested containers agree; floats to the contract's 7 digits, and never an int for a float."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            approximately(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected):
            approximately(a, e)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-6)
    else:
        assert actual == expected


@pytest.mark.parametrize("cli", [False, True])
def test_resolvers(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    section = CONTRACT["resolvers"]
    cfg = load_config(section["yaml"], from_string=True, cli_args=section["cli_args"] if cli else [])
    assert type(cfg).__name__ == section["result_type"]
    approximately(OmegaConf.to_container(cfg), section["resolved_with_cli" if cli else "resolved"])


def test_merging_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = CONTRACT["resolvers"]
    cfg = OmegaConf.to_container(load_config(*section["two_yamls"], from_string=True))
    approximately({key: cfg[key] for key in section["resolved_two"]}, section["resolved_two"])


PROMPTS = [
    "",
    "a cow: 4k",
    "a cow # 4k",
    "line\nanother",
    "[open",
    "a/b",
    'say "moo"',
    "café, ünï",
    "- dash",
    "x" * 500,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_on_the_command_line_stay_text(prompt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml = 'tag: "t-${rmspace:${system.p.prompt},_}"\nuse_timestamp: false\nsystem: {p: {prompt: x}}'
    cfg = load_config(yaml, from_string=True, cli_args=[f"system.p.prompt={prompt}"])
    assert cfg.system.p.prompt == prompt
    assert (tmp_path / cfg.trial_dir).is_dir()
    assert (tmp_path / cfg.trial_dir).parent == tmp_path / "outputs" / "default"


def test_structured_overrides_stay_structured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["system.a={x: 1}", "system.b=[1, 2]", "system.c=null", "system.d='text: #'"]
    cfg = load_config("tag: t\nuse_timestamp: false", from_string=True, cli_args=args)
    assert OmegaConf.to_container(cfg.system) == {"a": {"x": 1}, "b": [1, 2], "c": None, "d": "text: #"}


def test_experiment_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config("tag: t\nuse_timestamp: false\nexp_root_dir: outroot", from_string=True)
    approximately(OmegaConf.to_container(cfg), CONTRACT["resolvers"]["experiment_defaults"])


# ---------------------------------------------------------------------------------------------------- trial folders
def expected_name(name: str) -> str:
    """The reference nests folders at slashes of a tag and keeps tabs; here both become ``_`` (documented)."""
    return re.sub(r"[/\t]", "_", name)


@pytest.mark.parametrize("row", CONTRACT["trial_folder"]["direct"], ids=lambda r: str(r["args"]))
def test_trial_folder(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "raises" in row:
        with pytest.raises(exception(row["raises"]), match="tag is empty"):
            ExperimentConfig(**row["args"])
        return
    cfg = ExperimentConfig(**row["args"])
    trial = expected_name(row["trial_name"])
    pattern = re.escape(trial).replace("@<YYYYMMDD\\-HHMMSS>", r"@\d{8}-\d{6}")
    assert re.fullmatch(pattern, cfg.trial_name)
    assert cfg.exp_dir == row["exp_dir"]
    assert cfg.trial_dir == f"{row['exp_dir']}/{cfg.trial_name}"
    assert (tmp_path / cfg.trial_dir).is_dir() == row["folder_created"]


@pytest.mark.parametrize("row", CONTRACT["trial_folder"]["from_prompt"], ids=lambda r: r["prompt"])
def test_trial_folder_from_prompt(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml = OmegaConf.create(
        {
            "name": "nm",
            "tag": row["tag_rule"],
            "exp_root_dir": "outroot",
            "use_timestamp": row["use_timestamp"],
            "system": {"prompt_processor": {"prompt": row["prompt"]}},
        }
    )
    cfg = load_config(OmegaConf.to_yaml(yaml), from_string=True)
    assert cfg.tag == row["tag"]
    assert cfg.trial_name == expected_name(row["trial_name"])
    assert (tmp_path / cfg.trial_dir).is_dir()


def test_derived_paths_are_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = CONTRACT["trial_folder"]["explicit_trial_dir_is_overwritten"]
    cfg = ExperimentConfig(name="nm", tag="t", exp_root_dir="outroot", use_timestamp=False, trial_dir=row["given"])
    assert cfg.trial_dir == row["got"]


@pytest.mark.parametrize("text", ["a" * 500, "é" * 500, "x\ny/z\\w\0", "..", "杯" * 200])
def test_safe_names_fit_any_file_system(text, tmp_path):
    name = safe_name(text)
    assert len(name.encode()) <= MAX_NAME_BYTES
    (tmp_path / name).mkdir()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_safe_names_of_long_texts_stay_distinct():
    assert safe_name("a" * 500) != safe_name("a" * 501)


# ------------------------------------------------------------------------------------------------- errors, registry
class Sample(BaseObject):
    @dataclass
    class Config(BaseObject.Config):
        scale: float = 1.0
        count: int = 1

    cfg: Config


def write_unknown(obj):
    obj.cfg.no_such = 1


CALLS = {
    "module config: unknown key": lambda: Sample({"scal": 2.0}),
    "module config: string for a float field": lambda: Sample({"scale": "wide"}),
    "module config: numeric string for a float field": lambda: Sample({"scale": "2.5"}).cfg.scale,
    "module config: int for a float field": lambda: Sample({"scale": 2}).cfg.scale,
    "module config: float for an int field": lambda: Sample({"count": 1.5}),
    "module config: reading an unknown attribute": lambda: Sample({}).cfg.no_such,
    "module config: writing an unknown attribute": lambda: write_unknown(Sample({})),
    "module config: None": lambda: Sample(None),
    "parse_structured with None": lambda: parse_structured(Sample.Config, None),
    "top-level config: unknown key": lambda: load_config("tag: t\nsytem: {}", from_string=True),
    "top-level config: neither tag nor timestamp": lambda: load_config("use_timestamp: false", from_string=True),
    "top-level config: unknown resolver": lambda: load_config("tag: ${no_such:1}", from_string=True),
    "top-level config: dangling interpolation": lambda: load_config("tag: ${system.gone}", from_string=True),
    "find: unknown module name": lambda: threestudio.find("no-such-module"),
    "find: unknown sub name in composite": lambda: threestudio.find("main-sample:no-such"),
    "register: same name twice": lambda: threestudio.register("main-sample")(Sample),
}


@pytest.fixture
def registry(monkeypatch):
    """A registry that forgets what the test registers."""
    monkeypatch.setattr(threestudio, "__modules__", {"main-sample": Sample})


@pytest.mark.parametrize(
    "row",
    [r for r in CONTRACT["errors"]["cases"] if not r["what"].startswith("random camera")],
    ids=lambda r: r["what"],
)
def test_errors(row, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "returns" in row:
        assert CALLS[row["what"]]() == row["returns"]
        return
    with pytest.raises(exception(row["raises"])) as caught:
        CALLS[row["what"]]()
    for base in row["bases"]:
        if base in ("ArithmeticError", "LookupError", "ValueError", "AttributeError"):
            assert isinstance(caught.value, exception(base))


def test_unknown_key_names_the_key_and_the_choices():
    with pytest.raises(UserError, match=r"Sample has no key scal \(did you mean scale\?\); its keys: scale, count"):
        Sample({"scal": 2.0})


def test_unknown_name_suggests(registry):
    with pytest.raises(UserError, match="unknown name 'main-simple'; did you mean main-sample"):
        threestudio.find("main-simple")


def test_composite_names(registry):
    row = CONTRACT["errors"]["composite"]

    class M:
        who = "M"

    class A:
        who = "A"

    class B:
        who = "B"

    for name, cls in {"main-m": M, "mixin-a": A, "mixin-b": B}.items():
        assert threestudio.register(name)(cls) is cls
    composed = threestudio.find(row["asked"])
    assert composed.__name__ == row["class_name"]
    assert [base.__name__ for base in composed.__bases__] == row["bases"]
    assert composed.who == row["who"]


def test_config_type():
    assert type(Sample({}).cfg).__name__ == CONTRACT["errors"]["cfg_type"]


TAGGED = """
name: n
tag: ${rmspace:${system.prompt_processor.prompt},_}
use_timestamp: false
system: {prompt_processor: {prompt: %s, prompt_front: "${.prompt}, front view"}}
"""
PROMPTS = [
    "${oc.env:HOME}", "{a: b}", "[a, b]", "${", "a ${x} \\${y} \\\\${z}", "${system.gone}", "${rmspace:a b,_}", "123",
    "1e3", "true", "null", "~", "a: b", "- x", "#x", "it's {x", "a=b", "tail\\", "😀 é", "two\nlines", "\x85",
]  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_text_whatever_it_holds(prompt, tmp_path, monkeypatch):
    """On the command line, in what refers to it, and through the file that a run is gone on with."""
    monkeypatch.chdir(tmp_path)
    given = [f"system.prompt_processor.prompt={prompt}"]
    cfg = load_config(TAGGED % "none", cli_args=given, from_string=True)
    dump_config("parsed.yaml", cfg)
    again = load_config("parsed.yaml")
    for read in (cfg, again, OmegaConf.load("parsed.yaml")):
        assert read.system.prompt_processor.prompt == prompt
        assert read.system.prompt_processor.prompt_front == f"{prompt}, front view"
    assert again.trial_dir == cfg.trial_dir and not any(path.name == "HOME" for path in tmp_path.rglob("*"))


def test_a_prompt_in_a_file_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(TAGGED % "'${oc.env:HOME}'", from_string=True)
    assert cfg.system.prompt_processor.prompt == "${oc.env:HOME}"
    parsed = parse_structured(Prompted, cfg.system.prompt_processor)
    assert parsed.prompt == "${oc.env:HOME}" and parsed.prompt_front == "${oc.env:HOME}, front view"


@dataclass
class Prompted:
    prompt: str
    prompt_front: str


def test_nesting_without_end_is_one_line(tmp_path):
    deep = "{a: " * 400 + "1" + "}" * 400
    (tmp_path / "deep.yaml").write_text(f"a: {deep}")
    with pytest.raises(UserError, match="deep.yaml is nested too deep"):
        load_config(str(tmp_path / "deep.yaml"))
    with pytest.raises(UserError, match="nested too deep"):
        load_config("name: n", cli_args=[f"system.x={deep}"], from_string=True)


@pytest.mark.parametrize("content", [b"3", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_file_that_is_no_configuration_is_named(content, tmp_path):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(UserError, match="odd.yaml"):
        load_config(str(tmp_path / "odd.yaml"))
