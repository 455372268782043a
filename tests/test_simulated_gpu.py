"""The simulated GPU refuses what CUDA refuses, and lets pass what CUDA lets pass."""

import copy
import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.torch_runtime.device import fork_rng, use_one_thread
from tests.simulated_gpu import CPU, GPU, SimulatedGpu, find_device, simulate_gpu


@pytest.fixture
def gpu() -> Iterator[SimulatedGpu]:
    with simulate_gpu() as gpu:
        yield gpu


def ones(*shape: int, device: str = "cuda") -> Tensor:
    return torch.ones(*shape, device=device)


def codes(device: str) -> Tensor:
    return torch.zeros(3, dtype=torch.int64, device=device)


def step_after_moving() -> None:
    """Move a net to the GPU after its optimizer has made its states on the CPU."""
    net = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    for device in ("cpu", "cuda"):
        net.to(device)(ones(3, 4, device=device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def convert_a_loaded_tensor() -> None:
    file = io.BytesIO()
    torch.save({"x": ones(3)}, file)
    file.seek(0)
    torch.load(file)["x"].numpy()


def accumulate_deterministically() -> None:
    with use_one_thread(GPU):
        ones(3).cumsum(0)


TO_NUMPY, TWO_DEVICES, GENERATOR = "can't convert cuda:0", "at least two devices, cuda:0 and cpu", "type for generator"
REFUSED: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "numpy": (TypeError, TO_NUMPY, lambda: ones(3).numpy()),
    "numpy of a view": (TypeError, TO_NUMPY, lambda: ones(3, 4)[1:].T.detach().numpy()),
    "numpy of a result": (TypeError, TO_NUMPY, lambda: (ones(3) * 2).exp().numpy()),
    "numpy of a parameter": (TypeError, TO_NUMPY, lambda: nn.Linear(2, 2).cuda().weight.detach().numpy()),
    "numpy of a buffer": (TypeError, TO_NUMPY, lambda: nn.BatchNorm1d(2).to("cuda").running_mean.numpy()),
    "numpy of a state": (TypeError, TO_NUMPY, lambda: nn.Linear(2, 2).cuda().state_dict()["weight"].numpy()),
    "numpy of a copy": (TypeError, TO_NUMPY, lambda: copy.deepcopy(ones(3)).numpy()),
    "numpy of a loaded tensor": (TypeError, TO_NUMPY, convert_a_loaded_tensor),
    "np.asarray": (TypeError, TO_NUMPY, lambda: np.asarray(ones(3))),
    "np.array of scalars": (TypeError, TO_NUMPY, lambda: np.array([ones(3)[0]])),
    "a NumPy function": (TypeError, TO_NUMPY, lambda: np.sort(ones(3))),
    "a sum": (RuntimeError, TWO_DEVICES, lambda: ones(3) + ones(3, device="cpu")),
    "a sum with a scalar on the GPU": (RuntimeError, TWO_DEVICES, lambda: ones(1)[0] + ones(3, device="cpu")),
    "a sum with NumPy": (RuntimeError, TWO_DEVICES, lambda: ones(3) + torch.from_numpy(np.ones(3, np.float32))),
    "a sum in place": (RuntimeError, TWO_DEVICES, lambda: ones(3, device="cpu").add_(ones(3))),
    "a product": (RuntimeError, TWO_DEVICES, lambda: ones(3, 4) @ ones(4, 3, device="cpu")),
    "cat": (RuntimeError, TWO_DEVICES, lambda: torch.cat([ones(3), ones(3, device="cpu")])),
    "stack": (RuntimeError, TWO_DEVICES, lambda: torch.stack([ones(3), ones(3, device="cpu")])),
    "where": (RuntimeError, TWO_DEVICES, lambda: torch.where(ones(3) > 0, ones(3), ones(3, device="cpu"))),
    "a mask": (RuntimeError, TWO_DEVICES, lambda: ones(3).masked_fill(ones(3, device="cpu") > 0, 0.0)),
    "gather": (RuntimeError, TWO_DEVICES, lambda: ones(3, 3).gather(1, codes("cpu")[:, None])),
    "index_select": (RuntimeError, TWO_DEVICES, lambda: ones(3).index_select(0, codes("cpu"))),
    "an index on the GPU": (RuntimeError, TWO_DEVICES, lambda: ones(3, device="cpu")[codes("cuda")]),
    "a value put": (RuntimeError, TWO_DEVICES, lambda: ones(3).index_put_((codes("cuda"),), ones(3, device="cpu"))),
    "searchsorted": (RuntimeError, TWO_DEVICES, lambda: torch.searchsorted(ones(3), ones(3, device="cpu"))),
    "lerp": (RuntimeError, TWO_DEVICES, lambda: torch._foreach_lerp_([ones(3)], [ones(3, device="cpu")], 0.5)),
    "a net on the GPU": (RuntimeError, TWO_DEVICES, lambda: nn.Linear(4, 2).cuda()(ones(3, 4, device="cpu"))),
    "an input on the GPU": (RuntimeError, TWO_DEVICES, lambda: nn.Conv1d(4, 2, 1)(ones(3, 4, 5))),
    "an LSTM": (RuntimeError, TWO_DEVICES, lambda: nn.LSTM(4, 2).cuda()(ones(3, 4, device="cpu"))),
    "codes of a loss": (RuntimeError, TWO_DEVICES, lambda: F.cross_entropy(ones(3, 2), codes("cpu"))),
    "weights of a loss": (
        *(RuntimeError, TWO_DEVICES),
        lambda: F.cross_entropy(ones(3, 2), codes("cuda"), weight=ones(2, device="cpu")),
    ),
    "states of an optimizer": (RuntimeError, TWO_DEVICES, step_after_moving),
    "a generator of the CPU": (RuntimeError, GENERATOR, lambda: ones(3).normal_(generator=torch.Generator())),
    "a generator of the GPU": (RuntimeError, GENERATOR, lambda: torch.rand(3, generator=torch.Generator("cuda"))),
    "a generator's state": (
        TypeError,
        "ByteTensor",
        lambda: torch.cuda.set_rng_state(torch.cuda.get_rng_state().cuda()),
    ),
    "no deterministic algorithm": (RuntimeError, "deterministic", accumulate_deterministically),
    "an exported net": (
        *(RuntimeError, TWO_DEVICES),
        lambda: torch.onnx.export(nn.Linear(2, 2).cuda(), (torch.ones(1, 2),), io.BytesIO()),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name: str, gpu: SimulatedGpu) -> None:
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


ACCEPTED: dict[str, tuple[torch.device, Callable[[], Tensor]]] = {  # and where the result is
    "cpu": (CPU, lambda: ones(3).cpu()),
    "to cpu": (CPU, lambda: ones(3).to("cpu")),
    "to as another": (CPU, lambda: ones(3).to(ones(1, device="cpu"))),
    "to a type": (GPU, lambda: ones(3).to(torch.float64)),
    "to a device and a type": (GPU, lambda: ones(3, device="cpu").to(torch.device("cuda"), torch.float64)),
    "cuda": (GPU, lambda: ones(3, device="cpu").cuda()),
    "as_tensor": (GPU, lambda: torch.as_tensor(np.ones(3), device="cuda")),
    "a view": (GPU, lambda: ones(3, 4)[1:].T),
    "a copy": (GPU, lambda: copy.deepcopy(nn.Linear(2, 2).cuda()).weight),
    "like another": (GPU, lambda: torch.zeros_like(ones(3))),
    "like another, elsewhere": (CPU, lambda: torch.zeros_like(ones(3), device="cpu")),
    "a number": (GPU, lambda: 2.0 * ones(3)),
    "a scalar on the CPU": (GPU, lambda: ones(3) * torch.tensor(2.0)),
    "an index on the CPU": (GPU, lambda: ones(3)[codes("cpu")]),
    "an index on the GPU": (GPU, lambda: ones(3)[codes("cuda")]),
    "a mask on the CPU": (GPU, lambda: ones(3)[ones(3, device="cpu") > 0]),
    "a copy to the CPU": (CPU, lambda: ones(3, device="cpu").copy_(ones(3))),
    "a copy to the GPU": (GPU, lambda: ones(3).copy_(ones(3, device="cpu"))),
    "a generator of its own": (GPU, lambda: torch.rand(3, device="cuda", generator=torch.Generator("cuda"))),
    "a net": (GPU, lambda: nn.LSTM(4, 2).cuda()(ones(3, 5, 4))[0]),
    "two tensors on the CPU": (CPU, lambda: ones(3, device="cpu") + torch.ones(3)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_cuda_accepts_is_accepted_and_lies_where_it_would(name: str, gpu: SimulatedGpu) -> None:
    device, call = ACCEPTED[name]
    found = call()
    assert (found.device, found.is_cuda, found.is_cpu) == (device, device == GPU, device == CPU)
    assert np.isfinite(found.detach().cpu().numpy()).all()


def test_values_are_read_from_the_gpu_explicitly(gpu: SimulatedGpu) -> None:
    x = ones(2, 2)
    assert (x.tolist(), x.sum().item(), float(x[0, 0]), bool(x.all())) == ([[1.0, 1.0], [1.0, 1.0]], 4.0, 1.0, True)


def test_a_copy_on_the_cpu_does_not_share_memory(gpu: SimulatedGpu) -> None:
    x = ones(3)
    copied = x.cpu()
    x.zero_()
    assert copied.tolist() == [1.0, 1.0, 1.0]


def test_a_net_is_trained_on_the_gpu_and_its_states_lie_there(gpu: SimulatedGpu) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).to("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        net(ones(3, 4)).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    gradients = [each.grad for each in net.parameters()]
    assert {find_device(each) for each in (*states, *gradients, *net.parameters())} == {GPU}
    assert {find_device(each) for each in net.to("cpu").parameters()} == {CPU}


def test_states_are_saved_with_their_device_and_loaded_where_they_are_wanted(gpu: SimulatedGpu) -> None:
    net, file = nn.Linear(2, 2).cuda(), io.BytesIO()
    torch.save(net.state_dict(), file)
    devices = []
    for place in (None, "cpu", "cuda"):
        file.seek(0)
        devices.append(torch.load(file, map_location=place, weights_only=True)["weight"].device)
    assert devices == [GPU, CPU, GPU]
    file.seek(0)
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    assert net.weight.device == GPU


def test_a_gradient_flows_through_a_move(gpu: SimulatedGpu) -> None:
    x = torch.ones(3, requires_grad=True)
    (2 * x.cuda()).cpu().sum().backward()
    assert (x.grad.tolist(), x.grad.device) == ([2.0, 2.0, 2.0], CPU)


def test_the_gpu_draws_its_own_random_numbers(gpu: SimulatedGpu) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    state = torch.cuda.get_rng_state()
    dropped = [F.dropout(ones(50)).tolist() for _ in range(2)]
    assert torch.equal(torch.rand(3), expected)
    assert dropped[0] != dropped[1]
    torch.cuda.set_rng_state(state)
    assert F.dropout(ones(50)).tolist() == dropped[0]


def test_a_forked_generator_of_the_gpu_is_restored(gpu: SimulatedGpu) -> None:
    state = torch.cuda.get_rng_state()
    drawn = []
    for _ in range(2):
        with fork_rng(3, torch.device("cuda")):
            drawn.append(torch.rand(3, device="cuda").tolist())
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_nothing_of_the_simulation_is_left_behind() -> None:
    before = torch.cuda.is_available()
    with simulate_gpu() as gpu:
        assert torch.cuda.is_available()
        ones(3)
        assert gpu.kernels == 0  # a factory reads nothing on the GPU
    assert torch.cuda.is_available() == before
    assert torch.ones(3).numpy().tolist() == [1.0, 1.0, 1.0]
    assert torch.Generator().device == CPU
