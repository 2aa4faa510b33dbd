"""One process does nothing; two agree, and have together the gradient that one would have alone."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import torch

from openjepa import distributed
from openjepa.distributed import World, pick_device
from openjepa.errors import ConfigError


def machine(monkeypatch: pytest.MonkeyPatch, num_cuda: int, has_mps: bool) -> None:
    """As torch would describe another machine."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_cuda > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)


@pytest.mark.parametrize(
    ("num_cuda", "has_mps", "name", "local_rank", "expected"),
    [
        (0, False, "auto", 0, "cpu"),
        (0, False, "auto", 3, "cpu"),
        (0, True, "auto", 0, "mps"),
        (0, True, "cpu", 0, "cpu"),
        (2, False, "auto", 0, "cuda:0"),
        (2, False, "auto", 1, "cuda:1"),
        (2, False, "cuda", 0, "cuda:0"),
        (2, False, "cuda", 1, "cuda:1"),
        (2, False, "cuda:1", 0, "cuda:1"),
        (2, False, "cpu", 1, "cpu"),
    ],
)
def test_pick_device(
    monkeypatch: pytest.MonkeyPatch, num_cuda: int, has_mps: bool, name: str, local_rank: int, expected: str
) -> None:
    machine(monkeypatch, num_cuda, has_mps)
    assert pick_device(name, local_rank) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "local_rank", "message"),
    [
        ("gpu", 0, r"device = 'gpu': unknown\. Use auto, cpu, cuda, cuda:N or mps\."),
        ("", 0, "device = '': unknown"),
        ("cuda:x", 0, "device = 'cuda:x': unknown"),
        ("cuda:-1", 0, "device = 'cuda:-1': unknown"),
        ("cuda:", 0, "device = 'cuda:': unknown"),
        ("meta", 0, "device = 'meta': unknown"),
        ("cuda:2", 0, "device = 'cuda:2': cuda:2 is not there; .* has 2 of them. Use --speed.device cpu"),
        ("cuda", 2, "device = 'cuda': cuda:2 is not there; .* has 2 of them. .* fewer processes"),
        ("auto", 2, "device = 'auto': cuda:2 is not there"),
        ("mps", 0, "device = 'mps': mps:0 is not there; .* has 0 of them. Use --speed.device cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, local_rank: int, message: str
) -> None:
    machine(monkeypatch, num_cuda=2, has_mps=False)
    with pytest.raises(ConfigError, match=message):
        pick_device(name, local_rank)


def test_one_process_is_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start("cpu") == World(0, 1, torch.device("cpu"))
    assert distributed.start("cpu").is_first
    x = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather_rows(x) is x
    assert distributed.agree_max(3) == 3
    assert distributed.agree_sum([1.0, 2.0]) == [1.0, 2.0]
    distributed.barrier()
    distributed.stop()
    assert not torch.distributed.is_initialized()


TWO_PROCESSES = """
import os, sys, traceback
import torch
from torch import nn
from openjepa import distributed

def statistic(rows):
    # of the batch as a whole, as regularisers are: no mean over rows would notice a missing gather
    centred = rows - rows.mean(dim=0)
    covariance = centred.T @ centred / (len(rows) - 1)
    return (covariance**2).sum() + (1 - rows.std(dim=0)).relu().sum()

def gradients(rank, size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 4)).double()
    batch = torch.randn(6, 5, dtype=torch.float64)
    mine = batch.chunk(size)[rank]
    if size > 1:
        out = model(mine)
        rows = distributed.gather_rows(out)
        # a term of each row's own beside the statistic, averaged over rows, as the prediction loss is
        loss = statistic(rows) + (out**4).mean()
    else:
        rows = model(batch)
        loss = statistic(rows) + (rows**4).mean()
    loss.backward()
    if size > 1:  # as DistributedDataParallel does, which takes a second to import
        for parameter in model.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= size
    return rows.detach(), [parameter.grad.clone() for parameter in model.parameters()]

def check(rank):
    expected_rows, expected = gradients(0, 1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    world = distributed.start("cpu")
    assert (world.rank, world.size, world.is_first) == (rank, 2, rank == 0)
    rows, found = gradients(rank, 2)
    assert torch.allclose(rows, expected_rows, rtol=0, atol=1e-14)
    for mine, alone in zip(found, expected):
        assert alone.abs().max() > 1e-3
        assert torch.allclose(mine, alone, rtol=1e-12, atol=1e-13), (mine - alone).abs().max()

    turned = torch.arange(6.0).reshape(3, 2).T + 10 * rank  # rows that do not lie together in memory
    assert distributed.gather_rows(turned).tolist() == [[0, 2, 4], [1, 3, 5], [10, 12, 14], [11, 13, 15]]

    assert distributed.agree_max(rank) == 1
    assert distributed.agree_max(-float(rank)) == 0
    assert distributed.agree_max(2**40 + rank) == 2**40 + 1
    assert distributed.agree_sum([1.0 + rank, 0.1]) == [3.0, 0.2]
    assert distributed.start("cpu") == world
    distributed.barrier()
    distributed.stop()
    assert not torch.distributed.is_initialized()

torch.set_num_threads(1)
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1])
children = []
for rank in range(2):
    child = os.fork()
    if not child:
        try:
            check(rank)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""


def test_two_processes_are_as_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", TWO_PROCESSES, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
