"""The number format that a network trains in: bf16 or, on GPUs without it, fp16 with scaled losses; float32 on CPUs."""

import torch


def autocast_dtype(device, float32=False):
    """Return the type of autocast on the device, None for none; `float32` asks for none.

    CPUs get none, because oneDNN returns wrong bf16 weight gradients for dilated convolutions.
    """
    if device.type != "cuda" or float32:
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Precision:
    """Runs the forward pass under autocast, and steps with a loss that is scaled where fp16 needs it.

    Small gradients round to 0 in fp16, so the loss is multiplied by a scale and the gradients are divided by it. A step
    whose gradients overflow is left out, and the scale is halved (https://arxiv.org/abs/1710.03740).
    """

    def __init__(self, device, float32=False):
        self.device, self.dtype = device, autocast_dtype(device, float32)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)

    def autocast(self, cache_enabled=None):
        return torch.autocast(self.device.type, self.dtype, self.dtype is not None, cache_enabled)

    def step(self, loss, optimizer):
        """Go backward from the loss and let the optimiser step."""
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self):
        return self.scaler.state_dict()  # {} where no loss is scaled

    def load_state_dict(self, state):
        if state:  # a run that began on another GPU has none
            self.scaler.load_state_dict(state)
