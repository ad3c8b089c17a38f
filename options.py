"""A parser of flags for each script; those of parse_faces.py are in faceparse/flags.py. Most parsers need no torch."""

import argparse

from faceparse import SHIPPED_CHECKPOINT
from faceparse.flags import (
    TOO_LARGE,
    add_classes,
    add_classes_of_checkpoint,
    add_gpu,
    add_ids,
    fraction,
    network_input_size,
    new_parser,
    non_negative_int,
    number,
    positive_int,
    whole_number,
)
from faceparse.inference.image_size import MAX_SIDE

worker_count = whole_number(0, 256, "more read no faster")  # and thousands stop the machine
port_number = whole_number(0, 65535, "there is no such port")
picture_side = whole_number(1, MAX_SIDE, TOO_LARGE)


def non_negative_float(text):
    value = number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def folder_name(text):
    if not text.strip("./"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder name")
    return text


def split_counts(text):
    """Turn "train=5000,val=1000,test=100" into a dict of counts."""
    try:
        counts = {name: positive_int(count) for name, count in (entry.split("=") for entry in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like train=5000,val=1000,test=100") from None
    if not {"train", "val"} <= counts.keys() <= {"train", "val", "test"}:
        raise argparse.ArgumentTypeError(f"{text!r} must name train and val, and may name test")
    return counts


def _add_hardware(parser):
    group = parser.add_argument_group("hardware")
    add_gpu(group)
    group.add_argument("--workers", type=worker_count, default=2, help="processes or threads that read files; 0: none")
    return group


def _add_unlabelled(parser):
    add = parser.add_argument
    add("--unlabelled_dir", nargs="+", default=[], metavar="DIR", help="photographs that train on predictions as masks")
    add("--unlabelled_threshold", type=fraction, default=0.6, help="their pixels below this probability are ignored")


def train_parser(description):
    # Imported here because they load torch, which most scripts do not need.
    from faceparse.data.augmentation import MODES as AUGMENTATIONS
    from models import MODELS

    parser, _ = new_parser(description)
    caches, schedules = ("auto", "ram", "gpu", "off"), ("cosine", "warm_restarts", "constant")

    add = parser.add_argument_group("data").add_argument
    add("--dataset_dir", default="dataset", help="holds train/ and val/")
    add("--label_dir", help="masks to train on; default DATASET_DIR/train/train_mask")
    add("--truth_dir", help="masks to validate on; default DATASET_DIR/val/val_mask")
    add_classes(add)
    add("--extra_dir", nargs="+", default=[], metavar="DIR", help="more data sets: train/ and classes.json in each")
    add("--extra_share", type=fraction, default=0.25, help="share of each batch that is theirs")
    add("--image_size", type=network_input_size, default=512, help="side of the network's input, px")
    add("--cache", choices=caches, default="auto", help="where the decoded training set is kept; off: read each epoch")
    add("--repeat_rare", type=fraction, default=0.1, metavar="SHARE", help="repeat classes rarer than this; 0 is off")
    add(
        "--augment",
        choices=tuple(AUGMENTATIONS),
        default="full",
        help="full adds flip, geometry, blur, noise; wide adds faces off-centre, tilted, half and twice as large, and "
        "people before other photographs and drawn things",
    )
    add("--augment_from_epoch", type=positive_int, default=1, help="first epoch that is augmented")

    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--model_type", choices=tuple(MODELS), default=next(iter(MODELS)), help="network")
    add("--out_channels", type=positive_int, help="number of classes; must agree with --classes")
    start = group.add_mutually_exclusive_group()
    start.add_argument("--load_model_path", help="checkpoint to start from, ours or a bare state_dict")
    start.add_argument("--pretrained", action="store_true", help="start the encoder from its ImageNet weights")
    add("--freeze_early", action="store_true", help="keep layers up to stride 4 as they start; saves a sixth on CPUs")
    add("--load_not_strict", action="store_true", help="load what fits and list what was left out")

    add = parser.add_argument_group("optimisation").add_argument
    add("--batch_size", type=positive_int, default=16, help="images a step, all processes together")
    add("--epochs", type=positive_int, default=60, help="epochs in all")
    add("--learning_rate", type=non_negative_float, default=0.001, help="peak learning rate")
    add("--optimizer", choices=("adamw", "adam"), default="adamw", help="adamw decays neither BatchNorm nor biases")
    add("--weight_decay", type=non_negative_float, default=0.01, help="decay; with adam an L2 penalty on all weights")
    add("--schedule", choices=schedules, default="cosine", help="per epoch; restarts after 10, 30, 70, 150, ... epochs")
    add("--warmup_epochs", type=non_negative_int, default=1, help="epochs of linear warm-up")
    add("--ema", type=fraction, default=0.998, metavar="DECAY", help="average the weights; 0 is off")
    add("--seed", type=non_negative_int, default=0, help="seed of weights, order and augmentation")

    add = parser.add_argument_group("loss").add_argument
    add("--focal_weight", type=fraction, default=0.0, help="focal share of the pixel loss, CE the rest")
    add("--focal_gamma", type=non_negative_float, default=2.0, help="focusing exponent")
    add("--dice_weight", type=fraction, default=0.5, help="Dice share of the loss")
    add("--dice_from_epoch", type=positive_int, default=1, help="first epoch with Dice")
    add("--dice_all_classes", action="store_true", help="Dice over all classes, not those of the batch alone")

    group = parser.add_argument_group("self-distillation")
    add = group.add_argument
    add("--self_distill_epoch", type=non_negative_int, default=0, help="relabel the training set after it; 0 is off")
    add("--distill_threshold", type=fraction, default=0.95, help="relabel pixels above this probability")
    _add_unlabelled(group)

    add = parser.add_argument_group("output").add_argument
    add("--save_prefix", type=folder_name, default="deeplab", help="the run's folder under checkpoints/")
    add("--save_every", type=positive_int, default=5, help="epochs between validations and checkpoints")
    add("--save_visualizations", action="store_true", help="colour the last validation's predictions")
    add("--resume", action="store_true", help="continue from checkpoints/SAVE_PREFIX/last.pt")

    add = _add_hardware(parser).add_argument
    add("--float32", action="store_true", help="no bf16 or fp16 autocast on CUDA; TF32 stays")
    add("--cuda_graphs", action="store_true", help="start all of a GPU's forward or backward pass at once; one process")
    return parser


def _prediction_parser(description, checkpoint):
    parser, add = new_parser(description)
    add("--checkpoint", default=checkpoint, help="ours, a bare state_dict, or a file of export_onnx.py")
    add("--image_size", type=network_input_size, help="longer side at the network, px; default: that of its training")
    add("--batch_size", type=positive_int, help="photographs at a time; default: 8 on a GPU, else 1")
    add("--tta", action="store_true", help="average flip and scales 0.75, 1, 1.25")
    add_classes_of_checkpoint(add)
    _add_hardware(parser)
    return parser


def validate_parser(description):
    parser = _prediction_parser(description, SHIPPED_CHECKPOINT)
    add = parser.add_argument
    add("--image_dir", default="dataset/val/val_image", help="folder of photographs, or one file")
    add("--output_dir", default="predictions", help="receives <stem>.png, class ids")
    add_ids(add)
    add("--save_visualizations", action="store_true", help="overlays in OUTPUT_DIR/overlays too")
    return parser


def generate_labels_parser(description):
    parser = _prediction_parser(description, "checkpoints/deeplab/Deeplab_checkpoint_epoch_30.pt")
    add = parser.add_argument
    add("--image_dir", default="dataset/train/train_image", help="folder of photographs")
    add("--label_dir", default="dataset/train/train_mask", help="masks to start from")
    add("--output_dir", default="dataset/train/merged_labels", help="receives the merged masks")
    add("--colored_dir", default="dataset/train/merged_labels_colored", help="the same, coloured")
    add("--threshold", type=fraction, default=0.95, help="relabel pixels above this probability")
    _add_unlabelled(parser)
    return parser


def score_parser(description):
    parser, add = new_parser(description)
    add("--submit_dir", default="predictions", help="predicted label maps")
    add("--truth_dir", default="dataset/val/val_mask", help="true masks of the same stems")
    add("--output_dir", default=".", help="receives the score file")
    add_classes(add)
    return parser


def f1score_parser(description):
    parser = score_parser(description)
    parser.add_argument("--per_image", action="store_true", help="also print the later edition's per-image mean F1")
    return parser


def average_checkpoints_parser(description):
    parser, add = new_parser(description)
    add("before", metavar="BEFORE", help="checkpoint")
    add("after", metavar="AFTER", help="another one, whose description the mean keeps")
    add("--output", required=True, metavar="FILE", help="receives the mean")
    return parser


def compare_scores_parser(description):
    parser, add = new_parser(description)
    add("before", metavar="BEFORE", help="folder of predicted label maps")
    add("after", metavar="AFTER", help="folder of another network's")
    add("--truth_dir", default="dataset/val/val_mask", help="true masks of the same stems")
    add_classes(add)
    return parser


def color_parser(description):
    parser, add = new_parser(description)
    add("--label_dir", default="predictions", help="label maps: a folder, or one file")
    add("--image_dir", help="photographs of the same stems to blend over")
    add("--output_dir", default="colored_predictions", help="receives <stem>.png")
    add("--alpha", type=fraction, default=0.5, help="opacity of the colours over a photograph")
    add("--sheet", metavar="FILE", help="write a contact sheet of the first 12 with a legend instead")
    add_classes(add)
    return parser


def class_imbalance_parser(description):
    parser, add = new_parser(description)
    add("--label_dir", default="dataset/train/train_mask", help="masks to count")
    add("--output_dir", default=".", help="receives proportions_given_data.pdf and .png")
    add("--log", action="store_true", help="logarithmic axis, which shows the rare classes")
    add_classes(add)
    return parser


def sample_dataset_parser(description):
    parser, add = new_parser(description)
    add("--output_dir", default="dataset_sample", help="receives train/, val/ and test_image/")
    add("--train", type=positive_int, default=48, help="training pairs")
    add("--val", type=positive_int, default=13, help="validation pairs")
    add("--test", type=positive_int, default=4, help="photographs without masks")
    add("--image_size", type=picture_side, default=512, help="side of the pictures, px")
    add("--seed", type=non_negative_int, default=0, help="seed of everything drawn")
    return parser


def preparation_parser(description, source="CelebAMask-HQ"):
    parser, add = new_parser(description)
    add("--source", default=source, help="folder of the official download")
    add("--output_dir", default="dataset", help="receives train/, val/, test_image/ and test_mask/")
    add("--image_size", type=picture_side, default=512, help="side of photographs and masks, px")
    add("--split", type=split_counts, metavar="COUNTS", help="draw so many of each, train=5000,val=1000; default: all")
    add("--seed", type=non_negative_int, default=0, help="of what --split draws")
    return parser


def plot_runs_parser(description):
    parser, add = new_parser(description)
    add("runs", nargs="+", metavar="RUN", help="folder of a run, or its log.jsonl")
    add("--output", default="runs.png", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    return parser


def check_dataset_parser(description):
    parser, add = new_parser(description)
    add("--dataset_dir", default="dataset", help="holds train/ and val/")
    add("--sheet", metavar="FILE", help="write a contact sheet of suspected left/right swaps, at most 60")
    add("--fix_left_right", metavar="OUT", help="write corrected copies of all masks under OUT")
    add_classes(add)
    return parser


def export_parser(description):
    parser, add = new_parser(description)
    add("--checkpoint", default=SHIPPED_CHECKPOINT, help="ours or a bare state_dict")
    add("--output", default="face_parser.onnx", help="file to write")
    add(
        "--image_size",
        type=network_input_size,
        help="side of the photographs, px; default: that of its training, or of LAYOUT",
    )
    add_classes_of_checkpoint(add)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--layout", choices=("bisenet",), help="inputs, outputs and class order of another network")
    add("--fixed", action="store_true", help="batches of one photograph of --image_size; for other converters")
    add("--float16", action="store_true", help="store the weights as 16-bit floats: half the file")
    add("--int8", metavar="IMAGE_DIR", help="8-bit integers, calibrated on these photographs; for CPUs with VNNI")
    return parser


def serve_parser(description):
    parser, add = new_parser(description)
    add("--port", type=port_number, default=8000, help="of 127.0.0.1; 0 takes a free one")
    return parser
