"""Two ways to spend less of the host's time on a training step: torch.compile and CUDA graphs."""

import warnings

import torch

from faceparse.errors import InputError, first_line, too_little_memory
from faceparse.training import distributed
from faceparse.training.state import unchanged_buffers


def compile_if_possible(model, device):
    """Compile the model's forward pass in place; without the tools for it, say so and leave the model as it is."""
    try:
        # Try a small function first, which needs the same tools.
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(1, device=device))
    except Exception as error:  # whatever the C++ compiler, Triton or the driver raise
        if distributed.rank() == 0:
            print(f"--compile: does not work here, continuing without it ({first_line(error.__cause__ or error)})")
        return
    model.compile()


def use_cuda_graphs(model, precision, shape):
    """Let the model replay CUDA graphs of its forward and backward pass, in training and for batches of one shape.

    Python takes longer to start a small network's kernels than a GPU to compute them; a graph starts all of them at
    once. `shape` is that of the photographs, (N, 3, H, W). The model is left in training mode, and its weights and
    BatchNorm statistics stay as they are. Raises InputError where a graph cannot be made.
    """
    forward = model.forward
    photos = torch.zeros(shape, device=precision.device).contiguous(memory_format=torch.channels_last)
    # PyTorch 2.11 warns that the graphs use another stream than the optimiser. Autograd lets one wait for the other.
    warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
    torch.backends.cudnn.benchmark = True  # as in training; the graphs keep the algorithms that are chosen now
    try:
        # Weights are cast within the graph, because they change between its replays.
        with (
            unchanged_buffers(model),
            torch.random.fork_rng([precision.device]),
            precision.autocast(cache_enabled=False),
        ):
            torch.cuda.make_graphed_callables(model.train(), (photos,))
    except RuntimeError as error:
        if too_little_memory(error):
            raise
        raise InputError(f"--cuda_graphs: does not work here ({first_line(error)}); leave it out") from None
    torch.backends.cudnn.benchmark = False
    replay = model.forward
    model.forward = lambda batch: (replay if batch.shape == shape else forward)(batch)
