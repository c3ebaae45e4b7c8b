"""Passes and ways back side by side: the very numbers of one after the other, and really in two threads."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
import torch
from prompt_stub import StubPrompts, cameras

import threestudio  # noqa: F401  the host first, as launch.py does
from uni_instruct_guidance.guidance.uni_instruct import UniInstructGuidance
from uni_instruct_guidance.teachers import beside
from uni_instruct_guidance.teachers.beside import Beside

CPU = torch.device("cpu")

CASES = {
    "one pass": {"divergence": "rkl", "jacobian": "none", "fake_score": {"shared_pass": "always"}},
    "passes of its own": {"divergence": "rkl", "jacobian": "none"},
    "through the networks, discriminator on the teacher": {
        "divergence": "fkl", "jacobian": "full", "discriminator": {"backbone": "teacher"},
        "fake_score": {"shared_pass": "always"},
    },
    "trains the encoder, full copy": {
        "divergence": "fkl", "jacobian": "none", "discriminator": {"train_backbone": True}, "fake_score_type": "full",
        "fake_score": {"shared_pass": "always"},
    },
}  # fmt: skip


@pytest.fixture
def threads():
    """Sets torch's, as if nobody had shared them out, and puts them back."""
    before, shared_out = torch.get_num_threads(), beside._shared_out

    def set_them(count):
        beside._shared_out = (0, 0)
        torch.set_num_threads(count)

    yield set_them
    torch.set_num_threads(before)
    beside._shared_out = shared_out


@pytest.fixture
def build(tiny_teacher, tmp_path):
    def make(**options):
        torch.manual_seed(0)
        guidance = UniInstructGuidance({
            "pretrained_model_name_or_path": str(tiny_teacher), "half_precision_weights": False,
            "bank": {"size": 2, "steps": 2}, "bank_dir": str(tmp_path / "bank"), **options,
        })  # fmt: skip
        torch.manual_seed(1)
        for parameter in guidance.parameters():  # what starts at zero would hide a path
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
        return guidance

    return make


class InTurn:
    """A pool without threads; each operator has as many as with one."""

    def submit(self, call):
        future = Future()
        future.set_result(call())
        return future


def steps(guidance, count=2):
    """What two steps lead to, everything together: gradients, losses and the learned weights."""
    optimizer = torch.optim.Adam(guidance.parameters(), lr=1e-3)
    torch.manual_seed(2)
    found = []
    for number in range(count):
        guidance.update_step(0, number)
        optimizer.zero_grad(set_to_none=True)
        rgb = torch.rand(2, 16, 16, 3, requires_grad=True)
        out = guidance(rgb, StubPrompts(16), **cameras(2))
        sum((3 + i) * out[key] for i, key in enumerate(k for k in out if k.startswith("loss_"))).backward()
        optimizer.step()
        found += [rgb.grad, *(torch.as_tensor(out[key]).detach() for key in sorted(out))]
    return found + [p.detach() for p in guidance.parameters()] + [p.grad for p in guidance.parameters()]


@pytest.fixture
def watched():
    """Notes the threads in which the teacher is asked, the discriminator about the teacher's samples, and the fake
    score's gradient arrives."""

    def watch(guidance):
        used = {}
        for owner, method in ((guidance.teacher, "predict_x0"), (guidance.networks, "logit")):
            call = getattr(owner, method)

            def seen(*args, method=method, call=call, **kwargs):
                used[method] = threading.current_thread().name
                return call(*args, **kwargs)

            object.__setattr__(owner, method, seen)
        last = list(guidance.networks.fake.parameters())[-1]
        last.register_hook(lambda _: used.update(back=threading.current_thread().name))
        return used

    return watch


@pytest.mark.parametrize("name", CASES)
def test_side_by_side_are_the_same_numbers(name, build, threads, watched, monkeypatch):
    threads(2)  # one for each of both
    guidance = build(**CASES[name])
    used = watched(guidance)
    found = steps(guidance)
    assert torch.get_num_threads() == 1
    second = {label for label, thread in used.items() if thread.startswith("beside")}
    assert second == {"predict_x0", "back"} | ({"logit"} if name != "passes of its own" else set())
    monkeypatch.setattr(beside, "_pool", InTurn)
    in_turn = steps(build(**CASES[name]))
    assert len(found) == len(in_turn) and all(map(torch.equal, found, in_turn))


def test_one_after_the_other_where_there_is_one_thread_or_it_is_not_wanted(build, threads, watched):
    threads(1)
    guidance = build(**CASES["one pass"])
    used = watched(guidance)
    steps(guidance, count=1)
    assert len(used) == 3 and set(used.values()) == {threading.current_thread().name}
    threads(2)
    assert not build(**CASES["one pass"], side_by_side=False).beside.active
    assert not build(method="sds").beside.active  # one network is asked
    assert torch.get_num_threads() == 2


def test_a_failure_beside_is_the_steps(build, threads):
    threads(2)
    guidance = build(**CASES["one pass"])

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    guidance.teacher.predict_x0 = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        steps(guidance, count=1)


def test_a_failure_on_the_way_back_is_the_steps(threads):
    threads(2)

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    x, y = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    losses = Beside(True, CPU).losses({"a": Fails.apply(x)})
    with pytest.raises(RuntimeError, match="no way back"):
        (losses["a"] + y).backward()


def test_torch_s_threads_are_shared_out_once(threads):
    threads(5)
    assert [Beside(True, CPU).threads for _ in range(2)] == [2, 2] and torch.get_num_threads() == 2
    seen = Beside(True, CPU).start(lambda: (threading.get_ident(), torch.get_num_threads()))()
    assert seen[0] != threading.get_ident() and seen[1] == 2
    torch.set_num_threads(4)  # whoever sets them anew is heard
    assert Beside(True, CPU).threads == 2 and torch.get_num_threads() == 2
    threads(1)
    alone = Beside(True, CPU)
    assert not alone.active and alone.start(threading.get_ident)() == threading.get_ident()
    threads(2)
    assert not Beside(True, torch.device("cuda")).active and not Beside(False, CPU).active
    assert torch.get_num_threads() == 2
