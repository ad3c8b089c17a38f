"""Average the weights of two checkpoints, one of which was trained on from the other, into a network between them.

python -m tools.average_checkpoints BEFORE AFTER --output mean.pt

It can keep most of what each is better at (Wortsman et al., Robust fine-tuning of zero-shot models, 2022).
"""

from pathlib import Path

from faceparse.errors import InputError, run_script
from faceparse.inference import checkpoints
from options import average_checkpoints_parser


def main(args):
    if Path(args.output).exists():
        raise InputError(f"--output {args.output}: exists already; choose another name")
    content = checkpoints.read_checkpoint(args.after)
    class_set, after = content.pop("class_set"), content["state_dict"]
    before = checkpoints.read_checkpoint(args.before, class_set)["state_dict"]
    if {name: each.shape for name, each in before.items()} != {name: each.shape for name, each in after.items()}:
        raise InputError(f"{args.before}: its weights are not those of {args.after}; give two states of one network")
    means = {name: ((before[name].double() + each) / 2).to(each.dtype) for name, each in after.items()}
    checkpoints.save(Path(args.output), content | {"state_dict": means})


if __name__ == "__main__":
    run_script(lambda: main(average_checkpoints_parser(__doc__).parse_args()))
