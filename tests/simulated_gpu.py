"""A simulated GPU, for tests on machines without one: its tensors lie in RAM, but refuse what CUDA's refuse.

Storages are marked, not tensors: so parameters, views, gradients and optimizer states keep the mark. Two modes of torch
see all calls. The first sees calls from Python: moves between devices, factories with a device, and conversions to
NumPy, which it refuses. The second sees the kernels, also those of a backward pass. It refuses tensors of two devices,
with the exceptions that CUDA makes, and marks what a kernel on the GPU returns.

Not simulated are numbers: kernels are the CPU's. Nor is what a subclass of Tensor, DLPack or a raw pointer could do.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MARK = "is_on_simulated_gpu"
TO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
aten = torch.ops.aten
COPIES = {aten.copy_}  # between devices
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
SCALAR_FRIENDLY = {aten.masked_fill, aten.masked_fill_, aten.fill_, aten.where}  # beside pointwise and _foreach ones
NONDETERMINISTIC = {  # of those that deterministic algorithms refuse on CUDA, the likeliest in nets and agents
    aten.cumsum: torch.Tensor.is_floating_point,
    aten.median: lambda x: True,
    aten.kthvalue: lambda x: True,
    aten.put_: lambda x: True,
    aten.histc: torch.Tensor.is_floating_point,
    aten.nll_loss2d_forward: lambda x: True,
    aten._adaptive_avg_pool2d_backward: lambda x: True,
    aten.adaptive_max_pool2d_backward: lambda x: True,
    aten.replication_pad1d_backward: lambda x: True,
    aten.reflection_pad1d_backward: lambda x: True,
    aten._ctc_loss_backward: lambda x: True,
}
SHARING = {torch.as_tensor, torch.asarray}  # may return their argument's storage
SeenGenerator = torch.Generator


def is_on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor's storage is marked."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), MARK, False)


def place(tensor: Tensor, on_gpu: bool) -> Tensor:
    """Mark the storage of a new tensor, or remove its mark."""
    setattr(tensor.untyped_storage(), MARK, on_gpu)
    return tensor


class Transfer(torch.autograd.Function):
    """A copy on the other device; its gradient is copied back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, to_gpu: bool) -> Tensor:
        ctx.to_gpu = to_gpu
        return place(tensor.detach().clone(), to_gpu)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return place(gradient.clone(), not ctx.to_gpu), None


def move(tensor: Tensor, device: torch.device) -> Tensor:
    to_gpu = device.type == "cuda"
    return tensor if is_on_gpu(tensor) == to_gpu else Transfer.apply(tensor, to_gpu)


class SimulatedGenerator(SeenGenerator):
    """A generator that says which device it is for."""

    def __new__(cls, device: Any = "cpu") -> "SimulatedGenerator":
        made = super().__new__(cls)
        made.claimed = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return GPU if self.claimed.type == "cuda" else CPU


class SimulatedGpu:
    """The state of the simulated GPU: its random numbers, and how many kernels it has run."""

    def __init__(self) -> None:
        self.kernels = 0
        self.rng_state = SeenGenerator().manual_seed(0).get_state()

    def get_rng_state(self, device: Any = "cuda") -> Tensor:
        return self.rng_state.clone()

    def set_rng_state(self, state: Tensor, device: Any = "cuda") -> None:
        if is_on_gpu(state):
            raise TypeError("RNG state must be a torch.ByteTensor on the CPU")
        self.rng_state = state.clone()

    def manual_seed(self, seed: int) -> None:
        self.rng_state = SeenGenerator().manual_seed(seed).get_state()

    @contextmanager
    def use_own_random_numbers(self) -> Iterator[None]:
        before = torch.get_rng_state()
        torch.set_rng_state(self.rng_state)
        try:
            yield
        finally:
            self.rng_state = torch.get_rng_state()
            torch.set_rng_state(before)


# Calls from Python


def refuse_numpy(func: Callable, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    if is_on_gpu(tensor):
        raise TypeError(TO_NUMPY)
    return func(tensor, *args, **kwargs)


def convert(func: Callable, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Tensor.to: the device is taken out, the rest is done by torch, and the result is moved."""
    device, rest = kwargs.pop("device", None), []
    kwargs.pop("non_blocking", None)
    for each in args:
        if isinstance(each, str | torch.device | int) and not isinstance(each, bool):
            device = torch.device("cuda", each) if isinstance(each, int) else torch.device(each)
        elif isinstance(each, Tensor):
            device, rest = find_device(each), [each.dtype]
        elif isinstance(each, torch.dtype):
            rest.append(each)
    converted = func(tensor, *rest, **kwargs) if rest or kwargs else tensor
    return converted if device is None else move(converted, torch.device(device))


def find_device(tensor: Tensor) -> torch.device:
    return GPU if is_on_gpu(tensor) else CPU


def copy_deeply(func: Callable, tensor: Tensor, memo: Any) -> Tensor:
    copied = func(tensor, memo)
    place(copied, is_on_gpu(tensor))
    return copied


HANDLERS: dict[Any, Callable] = {
    torch.Tensor.numpy: refuse_numpy,
    torch.Tensor.__array__: refuse_numpy,
    torch.Tensor.to: convert,
    torch.Tensor.cuda: lambda func, tensor, *args, **kwargs: move(tensor, GPU),
    torch.Tensor.cpu: lambda func, tensor, *args, **kwargs: move(tensor, CPU),
    torch.Tensor.device.__get__: lambda func, tensor: find_device(tensor),
    torch.Tensor.is_cuda.__get__: lambda func, tensor: is_on_gpu(tensor),
    torch.Tensor.is_cpu.__get__: lambda func, tensor: not is_on_gpu(tensor),
    torch.Tensor.get_device: lambda func, tensor: 0 if is_on_gpu(tensor) else -1,
    torch.Tensor.__deepcopy__: copy_deeply,
    torch.Tensor.new_tensor: lambda func, tensor, *args, **kwargs: move(
        func(tensor, *args, **kwargs), find_device(tensor)
    ),
}


class Calls(TorchFunctionMode):
    """Sees what Python calls."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in HANDLERS:
            return HANDLERS[func](func, *args, **kwargs)
        wanted = kwargs.get("device")
        device = (
            None
            if wanted is None
            else torch.device("cuda", wanted)
            if isinstance(wanted, int)
            else torch.device(wanted)
        )
        check_generator((*args, *kwargs.values()), device)
        if device is None or device.type not in ("cuda", "cpu"):
            return func(*args, **kwargs)
        kwargs["device"], on_gpu = CPU, device.type == "cuda"
        with self.gpu.use_own_random_numbers() if on_gpu else nullcontext():
            made = func(*args, **kwargs)
        if not isinstance(made, Tensor):
            return made
        return move(made, device) if func in SHARING else place(made, on_gpu)


def check_generator(given: tuple, device: torch.device | None) -> None:
    """Refuse a generator of another device than that of the new tensor, or of the tensor that is filled."""
    generators = [each for each in given if isinstance(each, SeenGenerator)]
    tensors = [each for each in given if isinstance(each, Tensor)]
    own = (device or (find_device(tensors[0]) if tensors else CPU)).type
    for generator in generators:
        if generator.device.type != own:
            raise RuntimeError(f"Expected a '{own}' device type for generator but found '{generator.device.type}'")


# Kernels


class Kernels(TorchDispatchMode):
    """Sees what torch computes, also in a backward pass."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunction():
            kwargs = kwargs or {}
            given = [*iterate_tensors((*args, *kwargs.values()))]
            places = [is_on_gpu(each) for each in given]
            if not any(places):
                return func(*args, **kwargs)
            self.gpu.kernels += 1
            if not all(places):
                check_mixture(func, args, given)
            check_determinism(func, given[0])
            is_random = torch.Tag.nondeterministic_seeded in func.tags
            with self.gpu.use_own_random_numbers() if is_random else nullcontext():
                result = func(*args, **kwargs)
            known = {each.untyped_storage()._cdata for each in given}
            for each in iterate_tensors((result,)):
                if each.untyped_storage()._cdata not in known:
                    place(each, True)
            return result


def iterate_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among values, and those of lists and tuples among them."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from iterate_tensors(each)


def check_mixture(func: Any, args: tuple, given: list[Tensor]) -> None:
    """Refuse tensors of two devices, but for the mixtures that CUDA takes."""
    packet = func.overloadpacket
    if packet in COPIES:
        return
    if packet in INDEXING and is_on_gpu(args[0]):  # a tensor on the GPU may be indexed by those on the CPU
        given = [each for each in (args[0], *args[2:3]) if isinstance(each, Tensor)]
    takes_scalars = (
        torch.Tag.pointwise in func.tags or packet in SCALAR_FRIENDLY | INDEXING or func.__name__.startswith("_foreach")
    )
    if not all(is_on_gpu(each) or (takes_scalars and each.dim() == 0) for each in given):
        raise RuntimeError(f"{TWO_DEVICES} (when checking arguments in {func})")
    if not any(is_on_gpu(each) and each.dim() for each in given) and any(each.dim() for each in given):
        raise RuntimeError(f"{TWO_DEVICES} (when checking arguments in {func})")


def check_determinism(func: Any, first: Tensor) -> None:
    """Refuse a kernel that has no deterministic algorithm on CUDA, where such are required."""
    applies = NONDETERMINISTIC.get(func.overloadpacket)
    if applies and torch.are_deterministic_algorithms_enabled() and applies(first):
        raise RuntimeError(f"{func} does not have a deterministic implementation on CUDA")


def group_tensors(lists: list, with_indices: bool) -> dict:
    """torch's grouping of tensors by device and type, with the simulated device."""
    for each in zip(*(tensors for tensors in lists if tensors), strict=True):
        if len({is_on_gpu(tensor) for tensor in each if tensor is not None and tensor.dim()}) > 1:
            raise RuntimeError(f"{TWO_DEVICES} (when grouping an optimizer's tensors)")
    found = {}
    for (_, dtype), (groups, indices) in GROUP_TENSORS(lists, with_indices).items():
        if len({is_on_gpu(tensor) for tensor in groups[0]}) > 1:
            raise NotImplementedError("the simulated GPU knows no optimizer of tensors on two devices")
        found[find_device(groups[0][0]), dtype] = (groups, indices)
    return found


def export_graph(net: torch.nn.Module, given: tuple[Tensor, ...], *args: Any, **kwargs: Any) -> Any:
    """torch's export without the modes, under which a trace has constants for the sizes of slices."""
    if len({is_on_gpu(each) for each in (*given, *net.state_dict().values())}) > 1:
        raise RuntimeError(f"{TWO_DEVICES} (when tracing a net)")
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        return EXPORT(net, given, *args, **kwargs)


EXPORT = torch.onnx.export
GROUP_TENSORS = torch._C._group_tensors_by_device_and_dtype
AUTOCAST = torch.autocast


def autocast(device_type: str, **kwargs: Any) -> torch.autocast:
    """Autocast of the CPU, whose list of operations in bfloat16 resembles CUDA's."""
    return AUTOCAST("cpu" if device_type == "cuda" else device_type, **kwargs)


def tag_storage(storage: torch.UntypedStorage) -> str | None:
    """The location that torch.save writes."""
    return "cuda:0" if getattr(storage, MARK, False) else None


def restore_storage(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """Put a storage where torch.load wants it."""
    if not location.startswith("cuda"):
        return None
    setattr(storage, MARK, True)
    return storage


@contextmanager
def simulate_gpu() -> Iterator[SimulatedGpu]:
    """Give torch a GPU within the block."""
    gpu, packages = SimulatedGpu(), torch.serialization._package_registry
    entry = (0, tag_storage, restore_storage)
    cuda = {
        "is_available": lambda: True,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: 0,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "is_bf16_supported": lambda *args: True,
        "synchronize": lambda *args: None,
        "get_rng_state": gpu.get_rng_state,
        "set_rng_state": gpu.set_rng_state,
        "manual_seed": gpu.manual_seed,
        "manual_seed_all": gpu.manual_seed,
    }
    with (
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.multiple(torch, Generator=SimulatedGenerator, autocast=autocast),
        mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", group_tensors),
        mock.patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda optimizer: None),
        mock.patch.object(torch.onnx, "export", export_graph),
        mock.patch.object(torch.backends.cudnn, "is_acceptable", lambda tensor: False),
        mock.patch.object(torch.serialization, "_package_registry", [entry, *packages]),
        Kernels(gpu),
        Calls(gpu),
    ):
        yield gpu
