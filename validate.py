"""Parse photographs: write a label map per photograph, and overlays on demand.

    python validate.py                                         # shipped checkpoint, dataset/val/val_image
    python validate.py --image_dir me.jpg --save_visualizations
    python validate.py --checkpoint checkpoints/deeplab/best.pt --tta

Each prediction is a single-channel PNG of class ids at the photograph's own size, named by its stem.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faceparse.atomic_files import atomic_folder, refuse_overwriting
from faceparse.classes import find_class_set
from faceparse.drawing import save_overlay
from faceparse.errors import run_script
from faceparse.images import list_images, refuse_overwriting_masks, write_label_map
from faceparse.prediction import load_network, predict
from faceparse.upsampling import label_map
from options import validate_parser


def write_predictions(model, photos, output_dir, *, save_visualizations=False, **prediction_options):
    """Predict on {stem: path} and write OUTPUT_DIR/<stem>.png, all or none; `prediction_options` go to `predict`."""
    stems, paths = list(photos), list(photos.values())
    # Writing overlaps with the network; PNG compression releases the interpreter lock.
    with atomic_folder(output_dir) as unfinished, ThreadPoolExecutor(max_workers=2) as pool:
        writing = deque()
        for index, logits, size in predict(model, paths, **prediction_options):
            labels = label_map(logits, size)
            writing.append(pool.submit(write_label_map, unfinished / f"{stems[index]}.png", labels))
            if save_visualizations:
                overlay_path = unfinished / "overlays" / f"{stems[index]}.png"
                writing.append(pool.submit(save_overlay, overlay_path, paths[index], labels, model.class_set))
            while len(writing) > 32:  # a bound on what waits in memory
                writing.popleft().result()
        for each in writing:
            each.result()


def main(args):
    photos = list_images(args.image_dir)
    refuse_overwriting("--output_dir", args.output_dir, args.image_dir)
    refuse_overwriting_masks("--output_dir", args.output_dir, photos)
    model, device = load_network(args.checkpoint, args.gpu_id, args.classes and find_class_set(args.classes))
    write_predictions(
        model,
        photos,
        Path(args.output_dir),
        save_visualizations=args.save_visualizations,
        device=device,
        image_size=args.image_size or model.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        tta=args.tta,
    )
    print(f"{len(photos)} label maps in {args.output_dir}")


if __name__ == "__main__":
    run_script(lambda: main(validate_parser(__doc__).parse_args()))
