"""Train a face parser and validate it.

    python main_deeplab.py --batch_size 32 --epochs 400 --learning_rate 0.001
    torchrun --nproc_per_node 4 main_deeplab.py ...      # several GPUs; on CPUs too
    python main_deeplab.py ... --resume                  # continue a stopped run
    python main_deeplab.py ... --self_distill_epoch 30   # self-distillation in one run
    python main_deeplab.py ... --self_distill_epoch 30 --unlabelled_dir dataset/test_image   # also without masks

Writes under checkpoints/<save_prefix>/: Deeplab_checkpoint_epoch_<N>.pt, best.pt (by validation mIoU), last.pt (all
that resuming needs), previous.pt (the last.pt before it), log.jsonl (a line an epoch) and training_loss_plot.png;
merged_labels/, visualizations/ and tensorboard/ where the flags ask for them.
"""

import math
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from dataset_utils import TrainingSet, epoch_seed, find_pairs, find_unlabelled
from faceparse.data.augmentation import augment
from faceparse.data.classes import find_class_set
from faceparse.data.drawing import save_overlay
from faceparse.data.images import read_mask_of, resize_mask
from faceparse.data.layout import is_within, require_classes_of
from faceparse.errors import InputError, counted, run_script, unbroken
from faceparse.files import atomic_folder, only_writer, rename
from faceparse.inference import checkpoints
from faceparse.inference.device import is_launched, keep_freed_memory, select_device
from faceparse.inference.image_size import fitted_size, round_to_stride
from faceparse.inference.metrics import Scores, confusion_matrix, format_table
from faceparse.inference.prediction import predict
from faceparse.inference.torch_network import TorchNetwork
from faceparse.inference.upsampling import label_map
from faceparse.parallel import in_threads
from faceparse.training import distributed
from faceparse.training.acceleration import compile_if_possible, use_cuda_graphs
from faceparse.training.log import draw_runs, import_logger, open_logger, read_log, write_log
from faceparse.training.optimisation import AveragedModel, Precision, build_optimizer, learning_rate
from faceparse.training.self_distillation import (
    PartialMasks,
    doubtful_classes,
    format_changes,
    require_unlabelled,
    write_labels,
)
from faceparse.training.state import STATES, TrainingState, read_newest, unchanged_buffers
from faceparse.training.teachers import Teachers
from loss import loss_at_epoch
from models import build_model
from models.cost import count_parameters
from options import train_parser


class TimedBatches:
    """Yields the batches and sums, in `waited`, the seconds spent on waiting for them."""

    def __init__(self, batches):
        self.batches, self.waited = batches, 0.0

    def __iter__(self):
        start = time.perf_counter()
        for batch in self.batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


def train_one_epoch(state, epoch, trained, training_set, device, *, first_step=0, loss_sum=0.0, run_dir=None):
    """Train one epoch of a TrainingState, `trained` its network or what wraps it; return the entries for the log.

    train_loss is the mean over steps and processes, with the teachers' share where there are any; images_per_second
    counts all processes; data_wait is this process's share of time spent waiting for data, and peak_gib the most memory
    of the GPU that PyTorch held. Only the progress bar waits for the GPU, every 20 steps. An interrupted epoch
    continues after `first_step` steps, whose losses had the sum `loss_sum`; the states of --save_steps go to `run_dir`.
    """
    args = state.args
    start, images = time.perf_counter(), 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(args, epoch)
    loss_function = loss_at_epoch(args, epoch)
    augmentation = args.augment if epoch >= args.augment_from_epoch else "none"
    steps = training_set.steps(args.batch_size)
    total = torch.tensor(loss_sum, device=device)
    trained.train()
    batches = TimedBatches(islice(training_set.batches(epoch, args.batch_size), first_step, None))
    hidden = distributed.rank() > 0 or None
    progress = tqdm(batches, f"epoch {epoch}", steps, initial=first_step, leave=False, disable=hidden)
    for step, (photos, masks) in enumerate(progress, first_step + 1):
        # Every step has a seed of its own, so that a run can be resumed at any of them.
        seed = epoch_seed(args.seed, epoch, "augmentation", distributed.rank(), step)
        torch.manual_seed(seed)  # for dropout
        generator = torch.Generator().manual_seed(seed)
        images += len(photos) * distributed.world_size()
        photos, masks = augment(photos, masks, augmentation, generator, state.model.class_set)
        loss = training_loss(state, trained, photos, masks, loss_function)
        state.precision.step(loss, state.optimizer)
        total += loss.detach()
        if state.ema is not None:
            state.ema.update()
        if not progress.disable and (step - first_step) % 20 == 1:
            elapsed, steps_left = time.perf_counter() - start, (args.epochs - epoch + 1) * steps - step
            progress.set_postfix_str(
                f"loss {total.item() / step:.4f}, {images / elapsed:.1f} images/s, "
                f"{tqdm.format_interval(elapsed / (step - first_step) * steps_left)} left for all epochs"
            )
        if args.save_steps and step % args.save_steps == 0:
            require_finite(state, total, epoch, step)
            state.save_within_epoch(run_dir, epoch, step, total.item())
    mean_loss = distributed.sum_over_processes(total).item() / (steps * distributed.world_size())
    require_finite(state, mean_loss, epoch, steps)
    seconds = time.perf_counter() - start
    speed = {"images_per_second": round(images / seconds, 2), "data_wait": batches.waited / seconds}
    if device.type == "cuda":
        speed["peak_gib"] = torch.cuda.max_memory_reserved(device) / 2**30
    return {"learning_rate": state.optimizer.param_groups[0]["lr"], "train_loss": mean_loss, **speed}


def training_loss(state, trained, photos, masks, loss_function):
    """Return the loss of a batch, the teachers' share included."""
    with state.precision.autocast():
        taught = state.teachers and state.teachers.probabilities(photos)  # first, while no activations are kept
        logits = trained(photos)
    return loss_function(logits, masks, taught)


def require_finite(state, loss, epoch, step):
    """Raise InputError where the loss or a weight is not finite, before a state without use is saved."""
    weights = (each for each in state.model.state_dict().values() if each.is_floating_point())
    if not (math.isfinite(loss) and all(each.isfinite().all() for each in weights)):
        kept = "; last.pt holds the state before" if epoch > 1 or 0 < state.args.save_steps < step else ""
        raise InputError(f"epoch {epoch}: the training diverged; lower --learning_rate{kept}")


def try_largest_step(state, trained, pairs, device):
    """Go forward and backward on a full batch with every loss term, so that too little memory shows before epoch 1.

    `pairs` is their number, without repeats. Weights, BatchNorm statistics and random numbers stay as they are. What
    memory the step took is in PyTorch's statistics, by which `choose_cache` leaves it free.
    """
    args, model = state.args, state.model
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    images = min(args.batch_size, pairs)
    side = round_to_stride(args.image_size)
    shape = (-(-images // distributed.world_size()), side, side)
    masks = torch.zeros(shape, dtype=torch.uint8, device=device)
    photos = masks[:, None].expand(-1, 3, -1, -1)
    trained.train()
    with unchanged_buffers(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        photos, masks = augment(photos, masks, args.augment, torch.Generator(), model.class_set)
        training_loss(state, trained, photos, masks, loss_at_epoch(args, args.dice_from_epoch)).backward()
    trained.zero_grad(set_to_none=True)


def validate_epoch(args, epoch, model, pairs, device, visualization_dir=None):
    """Validate on (stem, photograph, mask) at each mask's own size; return loss and Scores of the whole set.

    Every process takes its share, none twice, and all get the same result. The loss is a mean over photographs, with
    Dice over the classes that occur in each; a photograph larger than the network's input counts at that size, because
    its probabilities would take gigabytes.
    """
    mine = pairs[distributed.rank() :: distributed.world_size()]
    loss_function = loss_at_epoch(args, epoch, single_photographs=True)
    class_set = model.class_set
    matrix = np.zeros((len(class_set), len(class_set)), dtype=np.int64)
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    network, options = TorchNetwork(model.eval(), device), prediction_options(args, "validating")

    def score(prediction):
        index, logits, size = prediction
        stem, photo_path, mask_path = mine[index]
        mask, labels = read_mask_of(mask_path, size, class_set), label_map(logits, size)
        if visualization_dir:
            save_overlay(visualization_dir / f"{stem}.png", photo_path, labels, class_set)
        return logits, mask, confusion_matrix(mask, labels, len(class_set))

    predictions = predict(network, [photo for _, photo, _ in mine], **options)
    for logits, mask, counts in in_threads(score, predictions, threads=2):  # else a GPU would wait for this
        matrix += counts
        if max(mask.shape) > args.image_size:
            mask = resize_mask(mask, *fitted_size(mask.shape, args.image_size))
        logits = F.interpolate(torch.from_numpy(logits)[None].to(device), size=mask.shape, mode="bilinear")
        loss_sum += loss_function(logits, torch.from_numpy(mask)[None].to(device))
    matrix = distributed.sum_over_processes(torch.from_numpy(matrix).to(device)).cpu().numpy()
    return distributed.sum_over_processes(loss_sum).item() / len(pairs), Scores(matrix)


def prediction_options(args, progress):
    return {
        "image_size": args.image_size,
        "batch_size": max(1, args.batch_size // distributed.world_size()),
        "workers": args.workers,
        "progress": progress if distributed.rank() == 0 else None,
    }


def self_distil(state, epoch, run_dir, pairs, doubtful, partial_masks, device):
    """Merge confident predictions of a TrainingState into the training masks; return the pairs with the merged masks.

    Photographs whose mask is None get the predictions alone.

    This is done once, before the `epoch` that first trains on them. The folder appears whole: if it exists it was made
    by this model, so a resumed run uses it.
    """
    args, model = state.args, state.evaluated
    merged_dir = run_dir / "merged_labels"
    if not merged_dir.is_dir():
        if epoch > args.self_distill_epoch + 1:
            raise InputError(f"{merged_dir}: missing, and the model that made it is gone; put it back to --resume")
        mine = pairs[distributed.rank() :: distributed.world_size()]
        with atomic_folder(merged_dir, durable=True) if distributed.rank() == 0 else nullcontext() as unfinished:
            changes = write_labels(
                TorchNetwork(model.eval(), device),
                mine,
                distributed.from_first(unfinished),
                threshold=args.distill_threshold,
                unlabelled_threshold=args.unlabelled_threshold,
                doubtful=doubtful,
                partial_masks=partial_masks,
                made_by=f"self-distillation after epoch {args.self_distill_epoch}",
                **prediction_options(args, "relabelling"),
            )
            # The sum waits for all processes, so the folder is complete.
            changes = distributed.sum_over_processes(torch.from_numpy(changes).to(device)).cpu().numpy()
        if distributed.rank() == 0:
            print(format_changes(changes, model.class_set))
    distributed.barrier()
    return [(stem, photo, merged_dir / f"{stem}.png") for stem, photo, _ in pairs]


def build_training(args, device, class_set):
    """Return the TrainingState of a new run."""
    torch.manual_seed(args.seed)
    model = build_model(args.model_type, num_classes=len(class_set))
    if args.sync_batchnorm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.class_set, model.image_size = class_set, args.image_size
    model.to(device, memory_format=torch.channels_last)
    if args.pretrained and not args.resume:
        checkpoints.load_imagenet(model, args.model_type)
    if args.load_model_path and not args.resume:
        checkpoints.load_start(model, args.load_model_path, strict=not args.load_not_strict)
    ema = AveragedModel(model, args.ema) if args.ema else None
    teachers = Teachers(args.teacher, class_set, args.image_size, device) if args.teacher else None
    return TrainingState(args, model, ema, build_optimizer(args, model), Precision(device, args.float32), teachers)


def read_training_set(args, pairs, class_set, device):
    return TrainingSet(
        pairs,
        image_size=args.image_size,
        class_set=class_set,
        cache=args.cache,
        repeat_rare=args.repeat_rare,
        device=device,
        workers=args.workers,
        seed=args.seed,
    )


def holds_a_run(run_dir):
    """Tell whether a folder holds what a new run would overwrite.

    One that was killed in its first epoch, before its first state, can only start again and does not count.
    """
    if (run_dir / "merged_labels").exists():
        return True
    files, log = {path.name for path in run_dir.glob("[!.]*.pt")}, run_dir / "log.jsonl"
    epochs = len(log.read_bytes().splitlines()) if log.exists() else 0
    if epochs == 1 and files <= {"Deeplab_checkpoint_epoch_1.pt", "best.pt"}:
        return False
    return bool(files or epochs)


def check_start(args, run_dir, train_pairs, class_set, device):
    """Raise InputError for flags that would lose an earlier run or fail later."""
    if args.logger:
        import_logger(args.logger)
    require_unlabelled(args, "unlabelled_dir", "self_distill_epoch")
    if args.out_channels not in (None, len(class_set)):
        raise InputError(
            f"--out_channels {args.out_channels}: the class set has {len(class_set)} classes; --classes names another"
        )
    states = [run_dir / name for name in STATES if (run_dir / name).exists()]
    if args.resume and not states:
        raise InputError(f"{run_dir / STATES[0]}: nothing to resume; start without --resume")
    if not args.resume and holds_a_run(run_dir):
        way_on = "--resume continues it, another" if states else "another"
        raise InputError(f"{run_dir}: holds a run; {way_on} --save_prefix starts a new run")
    if args.sync_batchnorm and device.type != "cuda":
        raise InputError("--sync_batchnorm: PyTorch has this for GPUs alone; leave it out on the CPU")
    if args.cuda_graphs and (device.type != "cuda" or is_launched()):
        raise InputError("--cuda_graphs: for one process on a GPU; leave it out on the CPU and under torchrun")
    if args.self_distill_epoch >= args.epochs:
        raise InputError(
            f"--self_distill_epoch {args.self_distill_epoch}: leaves none of {args.epochs} epochs to train"
        )
    if min(args.batch_size, len(train_pairs)) < 2 * distributed.world_size():
        raise InputError(
            f"--batch_size {args.batch_size} and {counted(len(train_pairs), 'training pair')}: BatchNorm needs 2 of "
            "each for every process"
        )


def remove_temporary_files(run_dir):
    """Remove the unfinished files of a killed run."""
    for unfinished in (*run_dir.glob(".*.tmp.*"), *run_dir.glob("visualizations/.*.tmp.*")):
        unfinished.unlink()


def main(args):
    keep_freed_memory()
    device = select_device(args.gpu_id)
    run_dir = Path("checkpoints") / args.save_prefix
    with distributed.process_group(device):
        alone = only_writer(run_dir, "wait for its end, or give another --save_prefix")
        with alone if distributed.rank() == 0 else nullcontext():
            train(args, device, run_dir)


def find_data(args):
    """Return the training pairs, [(stem, photograph, None)] of those that self-distillation adds, and validation pairs.

    Without self-distillation, the label folder holds masks for the unlabelled photographs too, by generate_labels.py.
    """
    have_labels = [] if args.self_distill_epoch else args.unlabelled_dir
    try:
        train_pairs = find_pairs(args.dataset_dir, "train", args.label_dir, have_labels)
    except InputError as error:
        if not have_labels or args.label_dir:
            raise
        hint = "--unlabelled_dir needs --self_distill_epoch, or the labels of generate_labels.py as --label_dir"
        raise InputError(f"{error}; {hint}") from None
    unlabelled = find_unlabelled(args.unlabelled_dir, train_pairs) if args.self_distill_epoch else []
    return train_pairs, unlabelled, find_pairs(args.dataset_dir, "val", args.truth_dir)


def read_run_log(run_dir, last_epoch):
    """Return the log of a run that is resumed; InputError, which says what to do, where it is damaged."""
    try:
        return read_log(run_dir / "log.jsonl", last_epoch)
    except InputError as error:
        raise InputError(f"{error}; put back the file, or resume without it") from None


def train(args, device, run_dir):
    class_set = find_class_set(args.classes)
    if any(is_within(folder, args.dataset_dir) for folder in (args.label_dir, args.truth_dir)):
        require_classes_of(args.dataset_dir, class_set)
    train_pairs, unlabelled, val_pairs = find_data(args)
    doubtful = doubtful_classes(args.doubtful, class_set)
    partial_masks = [PartialMasks(each, class_set) for each in args.partial_masks]
    check_start(args, run_dir, train_pairs, class_set, device)
    state = build_training(args, device, class_set)

    first_epoch, log, saved = 1, [], {}
    if args.resume:
        state_path, saved = read_newest(args, run_dir, class_set)
        state.load(state_path, saved)
        first_epoch, log = saved["epoch"] + 1, read_run_log(run_dir, saved["epoch"])

    distributed.barrier()  # all have checked before the first one writes
    if distributed.rank() == 0:
        remove_temporary_files(run_dir)
        if args.resume and state_path.name != STATES[0]:
            rename(state_path, run_dir / STATES[0])  # it takes the place of the damaged one
        print(
            f"{args.model_type}: {count_parameters(state.model):,} parameters; "
            f"{len(train_pairs)} training and {counted(len(val_pairs), 'validation pair')}; "
            f"epochs {first_epoch} to {args.epochs}"
        )
        send_to_logger = open_logger(args.logger, run_dir, log, first_epoch, vars(args), class_set)
    if args.compile:
        compile_if_possible(state.model, device)
    if args.cuda_graphs:
        side = round_to_stride(args.image_size)
        use_cuda_graphs(state.model, state.precision, (args.batch_size, 3, side, side))
    trained = distributed.data_parallel(state.model, device)  # BatchNorm statistics are averaged once an epoch

    # After the line above, which may give all processes the statistics of the first.
    resume_at = state.enter_epoch(state_path, saved) if "step" in saved else {}
    training_set = None
    for epoch in range(first_epoch, args.epochs + 1):
        start = time.perf_counter()
        if training_set is None or epoch == args.self_distill_epoch + 1:
            training_set = None  # frees its memory before the next one is read
            if 0 < args.self_distill_epoch < epoch:
                pairs = train_pairs + unlabelled
                train_pairs = self_distil(state, epoch, run_dir, pairs, doubtful, partial_masks, device)
            if device.type == "cuda":
                try_largest_step(state, trained, len(train_pairs), device)
            training_set = read_training_set(args, train_pairs, class_set, device)
            if training_set.cache == "gpu":
                try_largest_step(state, trained, len(train_pairs), device)  # beside the set
        line, scores = run_epoch(state, epoch, trained, training_set, val_pairs, device, run_dir, resume_at)
        resume_at = {}
        log.append(line | {"seconds": round(time.perf_counter() - start, 2)})
        if distributed.rank() == 0:
            with unbroken():
                save_epoch(state, run_dir, log)
            send_to_logger(log[-1])
    if distributed.rank() == 0:
        print(format_table(scores, class_set))


def run_epoch(state, epoch, trained, training_set, val_pairs, device, run_dir, resume_at):
    """Train an epoch and validate where that is due; return the line of the log, and the Scores or None."""
    args, scores = state.args, None
    # Trying algorithms pays where all batches have one size. Photographs are validated and labelled at their own.
    torch.backends.cudnn.benchmark = True
    trained_line = train_one_epoch(state, epoch, trained, training_set, device, run_dir=run_dir, **resume_at)
    torch.backends.cudnn.benchmark = False
    distributed.average_buffers(state.model)
    if state.ema is not None:
        distributed.average_buffers(state.evaluated)
    line = {"epoch": epoch, **trained_line}
    if epoch % args.save_every == 0 or epoch == args.epochs:
        visualization_dir = run_dir / "visualizations" if args.save_visualizations else None
        val_loss, scores = validate_epoch(args, epoch, state.evaluated, val_pairs, device, visualization_dir)
        line |= {"val_loss": val_loss, "mIoU": scores.miou, "macro_F1": scores.macro_f1, "IoU": scores.iou.tolist()}
    return line, scores


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
