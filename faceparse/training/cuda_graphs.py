"""CUDA graphs, which spend less of the host's time on a training step."""

import warnings

import torch

from faceparse.errors import InputError, first_line, too_little_memory
from faceparse.training.state import unchanged_buffers


def use_cuda_graphs(model, precision, shape):
    """Let the model replay CUDA graphs of its forward and backward pass, in training and for batches of one shape.

    Python takes longer to start a small network's kernels than a GPU to compute them; a graph starts all of them at
    once. `shape` is that of the photographs, (N, 3, H, W). The model is left in training mode, and its weights and
    BatchNorm statistics stay as they are. Raises InputError if a graph cannot be made.
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
