"""Runs a test's function in two processes of one group, as torchrun would start them."""

import os
import socket

import torch

from faceparse.training import distributed


def in_two_processes(function, *arguments):
    """Call `function(rank, *arguments)` in two processes on the CPU; an error in either is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_process, (port, function, arguments), nprocs=2)


def run_process(rank, port, function, arguments):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "test"}
    with distributed.process_group(torch.device("cpu")):
        function(rank, *arguments)
