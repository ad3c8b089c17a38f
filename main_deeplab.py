"""Train a face parser and validate it.

    python main_deeplab.py                               # the recommended recipe; all flags: --help
    torchrun --nproc_per_node 4 main_deeplab.py ...      # several GPUs; on CPUs too
    python main_deeplab.py ... --resume                  # continue a stopped run
    python main_deeplab.py ... --self_distill_epoch 30   # self-distillation in one run
    python main_deeplab.py ... --self_distill_epoch 30 --unlabelled_dir dataset/test_image   # also without masks

Writes under checkpoints/<save_prefix>/: Deeplab_checkpoint_epoch_<N>.pt, best.pt (by validation mIoU), last.pt (all
that resuming needs), previous.pt (the last.pt before it), log.jsonl (a line an epoch) and training_loss_plot.png;
merged_labels/ and visualizations/ if the flags ask for them.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from dataset_utils import TrainingSet, epoch_seed, find_pairs, find_unlabelled
from faceparse.data.augmentation import augment
from faceparse.data.classes import find_class_set, read_extra_classes
from faceparse.data.drawing import save_overlay
from faceparse.data.images import orientation, read_mask_of, resize
from faceparse.data.layout import is_within, require_classes_of
from faceparse.errors import InputError, counted, run_script
from faceparse.files import atomic_folder, only_writer
from faceparse.inference import checkpoints
from faceparse.inference.device import is_launched, keep_freed_memory, say_device, select_device
from faceparse.inference.image_size import fitted_size, round_to_stride
from faceparse.inference.metrics import Scores, confusion_matrix, format_table
from faceparse.inference.networks import TorchNetwork
from faceparse.inference.prediction import label_map, predict
from faceparse.parallel import in_threads
from faceparse.training import distributed, optimisation
from faceparse.training.log import draw_runs, read_log, write_log
from faceparse.training.self_distillation import format_changes, write_labels
from faceparse.training.state import STATES, TrainingState, read_newest
from loss import loss_at_epoch
from models import build_model
from models.cost import count_parameters
from models.layers import multiply_pointwise
from options import train_parser


def train_one_epoch(state, epoch, model, training_set, device):
    """Train an epoch of a TrainingState, `model` its network or what wraps it; return the entries for the log.

    train_loss and images_per_second are over all processes; data_wait is this process's share of time spent waiting for
    data, peak_gib the most memory of the GPU that PyTorch held. Only the progress bar waits for it, every 20 steps.
    """
    args, steps = state.args, training_set.steps(state.args.batch_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    optimisation.set_learning_rate(state.optimizer, optimisation.learning_rate(args, epoch))
    loss_function = loss_at_epoch(args, epoch, sets=state.targets.sets)
    augmentation = args.augment if epoch >= args.augment_from_epoch else "none"
    loss_sum, images, wait_seconds = torch.zeros((), device=device), 0, 0.0
    model.train()
    batches = training_set.batches(epoch, args.batch_size)
    progress = tqdm(batches, f"epoch {epoch}", steps, leave=False, disable=distributed.rank() > 0 or None)
    start = asked = time.perf_counter()
    for step, (photos, masks) in enumerate(progress, start=1):
        wait_seconds += time.perf_counter() - asked
        # A seed for every step, so that its random numbers are the same whatever came before it.
        seed = epoch_seed(args.seed, epoch, "augmentation", distributed.rank(), step)
        torch.manual_seed(seed)  # for dropout
        generator = torch.Generator().manual_seed(seed)
        images += len(photos) * distributed.world_size()
        photos, masks = augment(photos, masks, augmentation, generator, state.targets)
        with state.precision.autocast():
            logits = model(photos)
        loss = loss_function(logits, masks)
        state.precision.step(loss, state.optimizer)
        loss_sum += loss.detach()
        if state.ema is not None:
            state.ema.update()
        if not progress.disable and step % 20 == 1:
            seconds, steps_left = time.perf_counter() - start, (args.epochs - epoch + 1) * steps - step
            progress.set_postfix_str(
                f"loss {loss_sum.item() / step:.4f}, {images / seconds:.1f} images/s, "
                f"{tqdm.format_interval(seconds / step * steps_left)} left for all epochs"
            )
        asked = time.perf_counter()
    mean_loss = distributed.sum_over_processes(loss_sum).item() / (steps * distributed.world_size())
    require_finite(state, mean_loss, epoch)
    seconds = time.perf_counter() - start
    speed = {"images_per_second": round(images / seconds, 2), "data_wait": wait_seconds / seconds}
    if device.type == "cuda":
        speed["peak_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return {"learning_rate": optimisation.learning_rate(args, epoch), "train_loss": mean_loss, **speed}


def require_finite(state, loss, epoch):
    """Raise InputError if the loss or a weight is not finite, before a state without use is saved."""
    weights = (each for each in state.model.state_dict().values() if each.is_floating_point())
    if not (math.isfinite(loss) and all(each.isfinite().all() for each in weights)):
        kept = "; last.pt holds the state before" if epoch > 1 else ""
        raise InputError(f"epoch {epoch}: the training diverged; lower --learning_rate{kept}")


def try_largest_step(state, model, pairs, device):
    """Go forward and backward on a full batch with every loss term, so that too little memory shows before epoch 1.

    `pairs` is their number. Weights, BatchNorm statistics and random numbers stay as they are. `choose_cache` leaves
    the memory free that the step took, by PyTorch's statistics.
    """
    args, side = state.args, round_to_stride(state.args.image_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    images = -(-min(args.batch_size, pairs) // distributed.world_size())
    masks = torch.zeros((images, side, side), dtype=torch.uint8, device=device)
    photos = masks[:, None].expand(-1, 3, -1, -1)
    model.train()
    with optimisation.unchanged_buffers(state.model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        photos, masks = augment(photos, masks, args.augment, torch.Generator(), state.model.class_set)
        with state.precision.autocast():
            logits = model(photos)
        loss_at_epoch(args, args.dice_from_epoch)(logits, masks).backward()
    model.zero_grad(set_to_none=True)


def validate_epoch(args, epoch, model, pairs, device, visualization_dir=None):
    """Validate on (stem, photograph, mask) at each mask's own size; return loss and Scores of the whole set.

    Every process takes its share, and all get the same result. The loss is a mean over the photographs that have any
    labels, with Dice over the classes of each; what is larger than the network's input counts at that size.
    """
    mine = pairs[distributed.rank() :: distributed.world_size()]
    loss_function = loss_at_epoch(args, epoch, single_photographs=True)
    class_set = model.class_set
    matrix = np.zeros((len(class_set),) * 2, dtype=np.int64)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # of the losses, and of the photographs that have one
    network, options = TorchNetwork(model.eval(), device), prediction_options(args, "validating")

    def score(prediction):
        index, logits, size = prediction
        stem, photo_path, mask_path = mine[index]
        mask = read_mask_of(mask_path, size, class_set, photo_turn=orientation(photo_path))
        labels = label_map(logits, size)
        if visualization_dir:
            save_overlay(visualization_dir / f"{stem}.png", photo_path, labels, class_set)
        return logits, mask, confusion_matrix(mask, labels, len(class_set))

    predictions = predict(network, [photo for _, photo, _ in mine], **options)
    for logits, mask, counts in in_threads(score, predictions, threads=2):  # else a GPU would wait for this
        matrix += counts
        if not counts.any():  # all of the mask is ignored
            continue
        if max(mask.shape) > args.image_size:
            mask = resize(mask, *fitted_size(mask.shape, args.image_size))
        logits = F.interpolate(torch.from_numpy(logits)[None].to(device), size=mask.shape, mode="bilinear")
        sums[0] += loss_function(logits, torch.from_numpy(mask)[None].to(device))
        sums[1] += 1
    matrix = distributed.sum_of_counts(matrix, device)
    loss_sum, photographs = distributed.sum_over_processes(sums).tolist()
    return loss_sum / max(1, photographs), Scores(matrix)


def prediction_options(args, progress):
    batch_size, progress = args.batch_size // distributed.world_size(), progress if distributed.rank() == 0 else None
    return {"image_size": args.image_size, "batch_size": batch_size, "workers": args.workers, "progress": progress}


def self_distil(state, epoch, run_dir, pairs, device):
    """Merge confident predictions of a TrainingState into the training masks; return the pairs with the merged masks.

    Photographs whose mask is None get the predictions alone. This is done once, before the `epoch` that first trains on
    them. The folder appears whole: if it exists it was made by this model, so a resumed run uses it.
    """
    args, model, merged_dir = state.args, state.evaluated, run_dir / "merged_labels"
    if not merged_dir.is_dir():
        if epoch > args.self_distill_epoch + 1:
            raise InputError(f"{merged_dir}: missing, and the model that made it is gone; restore it to --resume")
        with atomic_folder(merged_dir, durable=True) if distributed.rank() == 0 else nullcontext() as unfinished:
            changes = write_labels(
                TorchNetwork(model.eval(), device),
                pairs[distributed.rank() :: distributed.world_size()],
                distributed.from_first(unfinished),
                threshold=args.distill_threshold,
                unlabelled_threshold=args.unlabelled_threshold,
                made_by=f"self-distillation after epoch {args.self_distill_epoch}",
                **prediction_options(args, "relabelling"),
            )
            changes = distributed.sum_of_counts(changes, device)  # it waits for all, so the folder is complete
        if distributed.rank() == 0:
            print(format_changes(changes, model.class_set))
    distributed.barrier()
    return [(stem, photo, merged_dir / f"{stem}.png") for stem, photo, _ in pairs]


def build_training(args, device, class_set):
    """Return the TrainingState of a new run."""
    torch.manual_seed(args.seed)
    model = build_model(args.model_type, num_classes=len(class_set))
    model.class_set, model.image_size = class_set, args.image_size
    model.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        multiply_pointwise(model)
    if args.pretrained and not args.resume:
        checkpoints.load_imagenet(model, args.model_type)
    if args.load_model_path and not args.resume:
        left_out = checkpoints.load_start(model, args.load_model_path, strict=not args.load_not_strict)
        if distributed.rank() == 0:
            print(*left_out, sep="\n", end="\n" * bool(left_out))
    if args.freeze_early:
        if not hasattr(model, "freeze_early"):
            raise InputError(f"--freeze_early: {args.model_type} cannot do that; leave it out")
        model.freeze_early()
    ema = optimisation.AveragedModel(model, args.ema) if args.ema else None
    optimizer = optimisation.build_optimizer(args, model)
    return TrainingState(args, model, ema, optimizer, optimisation.Precision(device, args.float32))


def read_training_set(args, pairs, class_set, device, targets=None):
    options = {name: getattr(args, name) for name in ("image_size", "cache", "repeat_rare", "workers", "seed")}
    extra = [(find_pairs(folder, "train"), read_extra_classes(folder)) for folder in args.extra_dir]
    options |= {"extra": extra, "extra_share": args.extra_share, "targets": targets}
    return TrainingSet(pairs, class_set=class_set, device=device, **options)


def holds_a_run(run_dir, states):
    """Tell whether a folder holds what a new run would overwrite; `states` are those that it can be resumed from."""
    log = run_dir / "log.jsonl"
    epochs = len(log.read_bytes().splitlines()) if log.exists() else 0
    if epochs == 1 and not states:  # killed before its first state, it can only start again
        return False
    return epochs > 0 or any(run_dir.glob("[!.]*.pt")) or (run_dir / "merged_labels").exists()


def check_start(args, run_dir, train_pairs, class_set, device):
    """Raise InputError for flags that would lose an earlier run or fail later."""
    if args.out_channels not in (None, len(class_set)):
        raise InputError(f"--out_channels {args.out_channels}: --classes {args.classes} has {len(class_set)} classes")
    states = [run_dir / name for name in STATES if (run_dir / name).exists()]
    if args.resume and not states:
        raise InputError(f"{run_dir / STATES[0]}: nothing to resume; start without --resume")
    if not args.resume and holds_a_run(run_dir, states):
        way_on = "--resume continues it, another" if states else "another"
        raise InputError(f"{run_dir}: holds a run; {way_on} --save_prefix starts a new run")
    if args.cuda_graphs and (device.type != "cuda" or is_launched()):
        raise InputError("--cuda_graphs: for one process on a GPU; leave it out on the CPU and under torchrun")
    if args.self_distill_epoch >= args.epochs:
        raise InputError(f"--self_distill_epoch {args.self_distill_epoch}: leaves no epoch of --epochs {args.epochs}")
    if min(args.batch_size, len(train_pairs)) < 2 * distributed.world_size():
        pairs = counted(len(train_pairs), "training pair")
        raise InputError(f"--batch_size {args.batch_size} and {pairs}: BatchNorm needs 2 of each for every process")


def main(args):
    keep_freed_memory()
    device = select_device(args.gpu_id)
    say_device(device)
    run_dir = Path("checkpoints") / args.save_prefix
    with distributed.process_group(device):
        alone = only_writer(run_dir, "wait for its end, or give another --save_prefix")
        with alone if distributed.rank() == 0 else nullcontext():
            train(args, device, run_dir)


def find_data(args, class_set):
    """Return the training pairs, [(stem, photograph, None)] of those that self-distillation adds, and validation pairs.

    Without self-distillation, the label folder holds masks for the unlabelled photographs too, by generate_labels.py.
    """
    if any(is_within(folder, args.dataset_dir) for folder in (args.label_dir, args.truth_dir)):
        require_classes_of(args.dataset_dir, class_set)
    if args.unlabelled_dir and not (args.self_distill_epoch or args.label_dir):
        raise InputError("--unlabelled_dir: needs --self_distill_epoch, or a --label_dir that generate_labels.py made")
    have_labels = [] if args.self_distill_epoch else args.unlabelled_dir
    train_pairs = find_pairs(args.dataset_dir, "train", args.label_dir, have_labels)
    unlabelled = find_unlabelled(args.unlabelled_dir, train_pairs) if args.self_distill_epoch else []
    return train_pairs, unlabelled, find_pairs(args.dataset_dir, "val", args.truth_dir)


def train(args, device, run_dir):
    class_set = find_class_set(args.classes)
    data = train_pairs, _, val_pairs = find_data(args, class_set)
    check_start(args, run_dir, train_pairs, class_set, device)
    state = build_training(args, device, class_set)
    first_epoch, log = resume(state, run_dir) if args.resume else (1, [])
    distributed.barrier()  # all have checked before the first one writes
    is_first = distributed.rank() == 0
    if is_first:
        for unfinished in (*run_dir.glob(".*.tmp.*"), *run_dir.glob("visualizations/.*.tmp.*")):
            unfinished.unlink()  # of a killed run
        print(
            f"{args.model_type}: {count_parameters(state.model):,} parameters; "
            f"{len(train_pairs)} training and {counted(len(val_pairs), 'validation pair')}; "
            f"epochs {first_epoch} to {args.epochs}"
        )
    if args.cuda_graphs:
        side = round_to_stride(args.image_size)
        optimisation.use_cuda_graphs(state.model, state.precision, (args.batch_size, 3, side, side))
    model, table = distributed.data_parallel(state.model, device), None  # the table of the last validation
    for line, scores in run_epochs(state, model, data, run_dir, first_epoch):
        log.append(line)
        table = format_table(scores, class_set) if scores else table
        if is_first:
            save_epoch(state, run_dir, log)  # a logger gets `line` here
        # Early stopping is a `break` here; losses and scores are the same in all processes.
    if is_first and table:
        print(table)


def resume(state, run_dir):
    """Continue from the newest whole state of a run; return the next epoch and the log of those before it."""
    path, saved = read_newest(state.args, run_dir, state.model.class_set)
    state.load(path, saved)
    log = read_log(run_dir / "log.jsonl", saved["epoch"])
    distributed.barrier()  # all have read it
    if distributed.rank() == 0 and path.name != STATES[0]:
        path.replace(run_dir / STATES[0])  # it takes the place of the damaged one
    return saved["epoch"] + 1, log


def run_epochs(state, model, data, run_dir, first_epoch):
    """Train epoch by epoch on the `data` of `find_data`; yield the line of the log, and the Scores if it validates."""
    args, device, training_set = state.args, state.precision.device, None
    train_pairs, unlabelled, val_pairs = data
    for epoch in range(first_epoch, args.epochs + 1):
        start, scores = time.perf_counter(), None
        if epoch in (first_epoch, args.self_distill_epoch + 1):
            training_set = None  # frees its memory before the next one is read
            if 0 < args.self_distill_epoch < epoch:
                train_pairs = self_distil(state, epoch, run_dir, train_pairs + unlabelled, device)
            if device.type == "cuda":
                try_largest_step(state, model, len(train_pairs), device)
            training_set = read_training_set(args, train_pairs, state.model.class_set, device, state.targets)
        # Trying algorithms pays if all batches have one size. Photographs are validated and labelled at their own.
        torch.backends.cudnn.benchmark = True
        line = {"epoch": epoch, **train_one_epoch(state, epoch, model, training_set, device)}
        torch.backends.cudnn.benchmark = False
        for network in dict.fromkeys((state.model, state.evaluated)):  # one without --ema
            distributed.average_buffers(network)
        if epoch % args.save_every == 0 or epoch == args.epochs:
            visualization_dir = run_dir / "visualizations" if args.save_visualizations else None
            val_loss, scores = validate_epoch(args, epoch, state.evaluated, val_pairs, device, visualization_dir)
            line |= {"val_loss": val_loss, "mIoU": scores.miou, "macro_F1": scores.macro_f1, "IoU": scores.iou.tolist()}
        yield line | {"seconds": round(time.perf_counter() - start, 2)}, scores


def save_epoch(state, run_dir, log):
    """Write the files of an epoch. last.pt comes last, so that a run killed before it repeats the epoch."""
    line = log[-1]
    print("  ".join(f"{key} {value:.4g}" for key, value in line.items() if key != "IoU"))
    write_log(run_dir / "log.jsonl", log)
    content = state.content(line["epoch"])
    if "mIoU" in line:
        draw_runs(run_dir / "training_loss_plot.png", {run_dir.name: log})
        checkpoints.save(run_dir / f"Deeplab_checkpoint_epoch_{line['epoch']}.pt", content)
        if line["mIoU"] > state.best_miou:
            state.best_miou = line["mIoU"]
            checkpoints.save(run_dir / "best.pt", content | {"mIoU": line["mIoU"]})
    state.save(run_dir, line["epoch"])


if __name__ == "__main__":
    run_script(lambda: main(train_parser(__doc__).parse_args()))
