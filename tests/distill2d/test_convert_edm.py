"""Published pickles become weight files that give the same pictures; malicious ones run nothing and are named."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import re
import subprocess
from pathlib import Path

import edm_pickles as pk
import pytest
import torch
from convert_edm import main

from uni_instruct_guidance.teachers.edm import CheckpointError, build_network, load_edm, read_header, safe_pickle
from uni_instruct_guidance.teachers.edm.convert import convert_edm
from uni_instruct_guidance.teachers.edm.safe_pickle import UnsafePickleError, read_edm_pickle

SMALL = {
    "ddpmpp": dict(preset="tiny", label_dim=3, augment_dim=9, dropout=0.13),
    "ncsnpp": dict(
        preset="tiny", encoder_type="residual", embedding_type="fourier", channel_mult_noise=2,
        resample_filter=(1, 3, 3, 1),
    ),
    "adm": dict(
        model_type="DhariwalUNet", img_resolution=8, img_channels=1, label_dim=3, model_channels=8,
        channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,),
    ),
}  # fmt: skip


def random_network(config) -> torch.nn.Module:
    network = build_network(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network


def pictures(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    labels = torch.eye(3) if network.label_dim else None
    with torch.no_grad():
        return network.eval()(x, torch.tensor([0.1, 1.0, 10.0]), labels)


@pytest.fixture
def trap(tmp_path):
    """A file that must never appear, and the code that would make it."""
    return tmp_path / "ran"


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("protocol", [3, 4])
def test_round_trip_gives_the_same_pictures(tmp_path, trap, name, protocol):
    network = random_network(SMALL[name])
    source = f"open({str(trap)!r}, 'w')"  # the files carry source code; a reader that ran it would leave a trace
    recorded = {**network.config, "decoder_type": "standard"} if name != "adm" else network.config
    path = pk.write(tmp_path / "net.pkl", pk.published_content(network, recorded, source), protocol)

    result = convert_edm(path, tmp_path / "net.safetensors")

    loaded = load_edm(tmp_path / "net.safetensors")
    assert torch.equal(pictures(loaded), pictures(network))
    assert loaded.config == network.config == result.config
    assert result.tensors == len(network.state_dict())
    assert result.parameters == sum(p.numel() for p in network.parameters())
    assert not trap.exists()


def test_a_preset_is_recognised(tmp_path):
    network = random_network("tiny")
    path = pk.write(tmp_path / "net.pkl", pk.published_content(network))
    assert convert_edm(path, tmp_path / "a.safetensors").preset == "tiny"
    assert read_header(tmp_path / "a.safetensors")["preset"] == "tiny"
    # Without recorded arguments the shapes alone must do.
    bare = pk.published_content(network, {})
    assert convert_edm(pk.write(tmp_path / "bare.pkl", bare), tmp_path / "b.safetensors").preset == "tiny"
    assert torch.equal(pictures(load_edm(tmp_path / "b.safetensors")), pictures(network))


def test_the_same_layers_around_another_sigma_data_are_no_preset(tmp_path):
    network = random_network(dict(preset="tiny", sigma_data=0.7))
    path = pk.write(tmp_path / "net.pkl", pk.published_content(network))
    assert convert_edm(path, tmp_path / "a.safetensors").preset is None
    assert load_edm(tmp_path / "a.safetensors").sigma_data == 0.7


def test_shared_and_sliced_storages(tmp_path):
    """Tensors may be views into one storage, with an offset and with strides."""
    both = torch.arange(24.0)
    views = {"a": both[:6].view(2, 3), "b": both[6:18].view(3, 4).t(), "c": both[20:20]}
    content = read_edm_pickle(pk.write(tmp_path / "views.pkl", views))
    for name, view in views.items():
        assert torch.equal(content[name].tensor(), view)


OTHER_NETWORKS = {
    "another preconditioning": (dict(class_name="VPPrecond"), "holds a VPPrecond; only EDMPrecond"),
    "another decoder": (dict(decoder_type="skip"), "decoder_type='skip' is not supported, only 'standard'"),
    "unknown argument": (dict(attention_type="linear"), "no option 'attention_type'"),
    "other shapes": (dict(model_channels=12), "not the weights of this network; shape: model"),
    "more blocks": (dict(num_blocks=2), "missing: model.enc.8x8_block1.norm0.weight"),
    "fewer blocks": (dict(attn_resolutions=()), "unexpected: model.enc.4x4_block0.norm2.weight"),
    "code for an argument": (dict(dropout=pk.Persistent("Dropout", {})), "are not plain numbers and names"),
}


@pytest.mark.parametrize("case", OTHER_NETWORKS)
def test_other_networks_are_refused(tmp_path, case):
    changes, message = OTHER_NETWORKS[case]
    changes = dict(changes)
    network = build_network("tiny")
    class_name = changes.pop("class_name", "EDMPrecond")
    content = pk.published_content(network, {**network.config, **changes})
    content["ema"].meta["class_name"] = class_name
    with pytest.raises(CheckpointError, match=re.escape(message)):
        convert_edm(pk.write(tmp_path / "net.pkl", content), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content", [{"net": 1}, [1, 2], {"ema": {"weight": 3}}, None], ids=str)
def test_a_pickle_without_a_network_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="holds no network under 'ema'"):
        convert_edm(pk.write(tmp_path / "net.pkl", content), tmp_path / "out.safetensors")


def attacks(trap: Path) -> dict[str, tuple[object, str]]:
    """Contents (bytes: a finished pickle) and the name under which each must be refused."""
    touch = f"touch {trap}"
    code = f"open({str(trap)!r}, 'w')"
    loader = torch.storage._load_from_bytes
    return {
        "os.system": (pk.Call(os.system, touch), "posix.system|nt.system"),
        "subprocess": (pk.Call(subprocess.call, ["touch", str(trap)]), "subprocess.call"),
        "eval": (pk.Call(builtins.eval, code), "builtins.eval"),
        "exec": (pk.Call(builtins.exec, code), "builtins.exec"),
        "getattr": (pk.Call(getattr, [], "append"), "builtins.getattr"),
        "import": (pk.Call(importlib.import_module, "antigravity"), "importlib.import_module"),
        "old protocol": (f"cposix\nsystem\n(S'{touch}'\ntR.".encode(), "posix.system"),
        "instance opcode": (f"(S'{touch}'\niposix\nsystem\n.".encode(), "posix.system"),
        "attribute of an allowed module": (pk.by_name("torch.storage", "os.abort"), "torch.storage.os.abort"),
        "neighbour of an allowed name": (pk.by_name("torch.storage", "UntypedStorage"), "torch.storage.UntypedStorage"),
        "path through an allowed name": (
            pk.by_name("collections", "OrderedDict.__init__.__globals__"),
            "collections.OrderedDict.__init__.__globals__",
        ),
        "in a stored object": ({"ema": pk.Persistent("EDMPrecond", {"x": pk.Call(os.system, touch)})}, "posix.system"),
        "code in the place of a storage": (pk.Call(loader, pk.Persistent("x", {})), "in the place of the content"),
        "another module class": (torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1)}), "torch.nn.modules.linear.Linear"),
        "numbers that are objects": (pk.by_name("numpy", "dtype")[:-3] + b"\x8c\x02O8\x85R.", "NumPy numbers of type"),
        "changed class": (
            b"\x80\x04\x8c\x08builtins\x8c\x03set\x93N}\x8c\x01aK\x01s\x86b.",
            "tries to change",
        ),
        "reference outside": (b"\x80\x04\x8c\x01aQ.", "a reference to something outside the file"),
    }


@pytest.mark.parametrize("case", attacks(Path("unused")))
def test_malicious_pickles_are_named_and_run_nothing(tmp_path, trap, case, capsys):
    content, name = attacks(trap)[case]
    path = tmp_path / "evil.pkl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pk.write(path, content)
    with pytest.raises(UnsafePickleError, match=f"refused, not part of an EDM network: .*({name})"):
        read_edm_pickle(path)
    assert main([str(path), str(tmp_path / "out.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and re.search(name, error)
    assert not trap.exists() and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_malicious_storage_inside_is_named_and_runs_nothing(tmp_path, trap, zipped):
    network = build_network("tiny")
    content = pk.published_content(network)
    blob = pk.storage_blob(pk.Call(os.system, f"touch {trap}"), zipped)
    evil = pk.Call(
        torch._utils._rebuild_tensor_v2, pk.Call(torch.storage._load_from_bytes, blob), 0, (1,), (1,), False, {}
    )
    content["ema"].meta["state"]["_buffers"]["extra"] = evil
    with pytest.raises(UnsafePickleError, match="net.pkl: refused.*posix.system.*inside a tensor's storage"):
        convert_edm(pk.write(tmp_path / "net.pkl", content), tmp_path / "out.safetensors")
    assert not trap.exists() and not (tmp_path / "out.safetensors").exists()


def test_the_attacks_are_real(tmp_path, trap):
    """With the ordinary reader the first attack does leave its trace: the traps above can spring."""
    path = pk.write(tmp_path / "evil.pkl", attacks(trap)["os.system"][0])
    pickle.loads(path.read_bytes())
    assert trap.exists()


def test_every_allowed_name_is_inert():
    """The table holds classes of this module only: nothing of pickle's, torch's or numpy's own can be called."""
    for name, stand_in in safe_pickle.ALLOWED.items():
        assert isinstance(stand_in, type) and stand_in.__module__ == safe_pickle.__name__, name
        with pytest.raises(UnsafePickleError):
            stand_in.changed = 1


def tensor_record(size, stride, offset=0, numbers=4):
    blob = pk.storage_blob(torch.zeros(numbers)._typed_storage(), False)
    return safe_pickle.TensorRecord(safe_pickle.StorageBytes(blob), offset, size, stride)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (9, 1), 0), ((1 << 40,), (0,), 0)],
    ids=["too large", "offset", "stride", "repeated"],
)
def test_tensors_stay_inside_their_storage(size, stride, offset):
    assert tensor_record((4,), (1,)).tensor().tolist() == [0, 0, 0, 0]
    with pytest.raises(CheckpointError, match="storage"):
        tensor_record(size, stride, offset).tensor()


def test_a_network_inside_itself_is_refused(tmp_path):
    content = pk.published_content(build_network("tiny"))
    modules = torch.nn.ModuleDict()
    modules.__dict__["_modules"] = {"again": modules}
    content["ema"].meta["state"]["_modules"]["model"] = modules
    with pytest.raises(UnsafePickleError, match="modules that contain themselves"):
        convert_edm(pk.write(tmp_path / "net.pkl", content), tmp_path / "out.safetensors")


def test_truncated_and_corrupt_files_are_refused(tmp_path, capsys):
    whole = pk.write(tmp_path / "whole.pkl", pk.published_content(build_network("tiny"))).read_bytes()
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"an older result")
    damaged = tmp_path / "damaged.pkl"
    generator = torch.Generator().manual_seed(0)
    for cut in [0, 1, 2, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        damaged.write_bytes(whole[:cut])
        assert main([str(damaged), str(out), "--force"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(damaged) in error
    for _ in range(25):  # one flipped byte may fall on a weight's mantissa and pass; it must never end in a traceback
        at = int(torch.randint(len(whole), (), generator=generator))
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        status = main([str(damaged), str(tmp_path / "flipped.safetensors"), "--force"])
        error = capsys.readouterr().err
        assert status == 0 or (error.count("\n") == 1 and str(damaged) in error)
    assert out.read_bytes() == b"an older result"
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob(".*.partial"))


def test_command_line(tmp_path, capsys):
    network = random_network("tiny")
    path = pk.write(tmp_path / "net.pkl", pk.published_content(network))
    out = tmp_path / "new" / "net.safetensors"
    assert main([str(path), str(out)]) == 0
    parameters = sum(p.numel() for p in network.parameters())
    assert f"tiny: {len(network.state_dict())} tensors, {parameters:,} parameters" in capsys.readouterr().out
    assert torch.equal(pictures(load_edm(out)), pictures(network))

    assert main([str(tmp_path / "absent.pkl"), str(tmp_path / "x.safetensors")]) == 1
    assert "absent.pkl: cannot be read: No such file" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "x.safetensors")]) == 1
    assert "cannot be read: Is a directory" in capsys.readouterr().err
    for arguments, message in [
        ((path, out), "exists; --force"),
        ((path, tmp_path / "x.pt"), "must end in .safetensors"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        assert stop.value.code == 2 and message in capsys.readouterr().err
