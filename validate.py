"""Parse photographs: write a label map per photograph, and overlays on demand.

    python validate.py                                         # shipped checkpoint, dataset/val/val_image
    python validate.py --image_dir me.jpg --save_visualizations
    python validate.py --checkpoint checkpoints/deeplab/best.pt --tta
    python validate.py --ids bisenet                           # in the order of other programs

Each prediction is a single-channel PNG of class ids at the photograph's own size, named by its stem.
"""

from pathlib import Path

from faceparse.data.classes import find_class_set, find_ids
from faceparse.data.drawing import save_overlay
from faceparse.data.images import list_images, write_label_map
from faceparse.data.provenance import check_outputs, provenance
from faceparse.errors import counted, run_script
from faceparse.files import atomic_folder
from faceparse.inference.networks import load_network, say_device
from faceparse.inference.prediction import label_map, predict
from faceparse.parallel import in_threads
from options import validate_parser


def write_predictions(network, photos, output_dir, *, made_by="", ids=None, save_visualizations=False, **options):
    """Predict on {stem: path} and write OUTPUT_DIR/<stem>.png; a new folder appears whole or not at all.

    `made_by` and `ids` are those of write_label_map; `options` go to `predict`.
    """
    stems, paths = list(photos), list(photos.values())

    def write(prediction):
        index, logits, size = prediction
        labels = label_map(logits, size)
        write_label_map(unfinished / f"{stems[index]}.png", labels, made_by=made_by, ids=ids)
        if save_visualizations:
            save_overlay(unfinished / f"overlays/{stems[index]}.png", paths[index], labels, network.class_set)

    with atomic_folder(output_dir) as unfinished:
        for _ in in_threads(write, predict(network, paths, **options), threads=2):
            pass  # The work is done by then.


def main(args):
    photos = list_images(args.image_dir)
    names = [f"{stem}.png" for stem in photos]
    check_outputs("--output_dir", args.output_dir, [args.image_dir], names)
    if args.save_visualizations:
        check_outputs("--output_dir", Path(args.output_dir) / "overlays", [args.image_dir], names)
    network = load_network(args.checkpoint, args.gpu_id, args.classes and find_class_set(args.classes))
    class_set, ids = find_ids(args.ids, network.class_set)
    say_device(network)
    image_size = args.image_size or network.image_size
    write_predictions(
        network,
        photos,
        Path(args.output_dir),
        save_visualizations=args.save_visualizations,
        made_by=provenance(args.checkpoint, image_size, args.tta, class_set, ids),
        ids=ids,
        image_size=image_size,
        batch_size=args.batch_size or network.batch_size,
        workers=args.workers,
        tta=args.tta,
    )
    print(f"{counted(len(photos), 'label map')} in {args.output_dir}")


if __name__ == "__main__":
    run_script(lambda: main(validate_parser(__doc__).parse_args()))
