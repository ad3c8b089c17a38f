"""Parameters and FLOPs of a network, FLOPs being twice the multiply-adds.

python -m models.cost    # of each network
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS, build_model


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model_type, image_size=512):
    """Return twice the multiply-adds for one square photograph, counted on the meta device without computing."""
    with torch.device("meta"):
        model, photo = build_model(model_type).eval(), torch.empty(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter:
        model(photo)
    return counter.get_total_flops()


def main():
    print(f"{'--model_type':<30} {'parameters':>10} {'GFLOPs at 256 px':>17} {'at 512 px':>10}")
    for model_type in MODELS:
        small, large = (count_flops(model_type, size) / 1e9 for size in (256, 512))
        print(f"{model_type:<30} {count_parameters(build_model(model_type)):>10,} {small:>17.2f} {large:>10.2f}")


if __name__ == "__main__":
    main()
