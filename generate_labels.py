"""Self-distillation: relabel training pixels where the model is confident, and label photographs without masks.

    python main_deeplab.py --epochs 30
    python generate_labels.py --checkpoint checkpoints/deeplab/Deeplab_checkpoint_epoch_30.pt
    python main_deeplab.py --save_prefix merged --label_dir dataset/train/merged_labels

If the largest softmax probability of a pixel exceeds the threshold, the prediction replaces the label; else the label
stays. `python main_deeplab.py --self_distill_epoch 30` does it in one run. Photographs of --unlabelled_dir, which the
training takes too, have no masks: they get the predictions, and 255 (ignored) if the model is unsure.
"""

from pathlib import Path

from dataset_utils import find_unlabelled
from faceparse.data.classes import find_class_set
from faceparse.data.images import match_pairs
from faceparse.data.layout import require_classes_of
from faceparse.data.provenance import check_outputs, provenance
from faceparse.errors import counted, run_script
from faceparse.files import atomic_folder
from faceparse.inference.networks import load_network, say_device
from faceparse.training.self_distillation import format_changes, write_labels
from options import generate_labels_parser


def main(args):
    pairs = match_pairs(args.image_dir, args.label_dir)
    pairs += find_unlabelled(args.unlabelled_dir, pairs)
    read_dirs = [args.image_dir, args.label_dir, *args.unlabelled_dir]
    names = [f"{stem}.png" for stem, _, _ in pairs]
    check_outputs("--output_dir", args.output_dir, read_dirs, names)
    check_outputs("--colored_dir", args.colored_dir, [*read_dirs, args.output_dir], names)
    network = load_network(args.checkpoint, args.gpu_id, args.classes and find_class_set(args.classes))
    say_device(network)
    for root in Path(args.label_dir).resolve().parents[:2]:  # the data set of train/train_mask or corrected/train_mask
        require_classes_of(root, network.class_set)
    image_size = args.image_size or network.image_size
    rules = {"relabelling": f"{args.label_dir} above {args.threshold:g}"}
    if args.unlabelled_dir:
        rules["unlabelled"] = f"above {args.unlabelled_threshold:g}"
    with atomic_folder(args.output_dir) as labels_dir, atomic_folder(args.colored_dir) as colored_dir:
        changes = write_labels(
            network,
            pairs,
            labels_dir,
            threshold=args.threshold,
            unlabelled_threshold=args.unlabelled_threshold,
            colored_dir=colored_dir,
            made_by=provenance(args.checkpoint, image_size, args.tta, network.class_set, **rules),
            image_size=image_size,
            batch_size=args.batch_size or network.batch_size,
            workers=args.workers,
            tta=args.tta,
        )
    print(format_changes(changes, network.class_set))
    print(f"{counted(len(pairs), 'merged mask')} in {args.output_dir}, coloured in {args.colored_dir}")


if __name__ == "__main__":
    run_script(lambda: main(generate_labels_parser(__doc__).parse_args()))
