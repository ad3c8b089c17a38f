#!/usr/bin/env bash
# The recipe of the default network, from random weights: two stages at 256 px, the second with photographs that have no
# masks, and one at 512 px. About 6 hours on two CPU cores for 700 photographs with masks and 1,157 without.
#
#   bash recipes/slim.sh [--workers 4 ...]     # further flags go to every training; called again, it continues
#
# Photographs without masks are taken from dataset/test_image, or from the folders in UNLABELLED; PARTIAL_MASKS names
# folders of true masks of one class for some of them, as in UNLABELLED="dataset/test_image more" PARTIAL_MASKS=hair=hair.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra unlabelled <<< "${UNLABELLED:-dataset/test_image}"
read -ra partial <<< "${PARTIAL_MASKS:-}"

[ -d dataset/corrected ] || python check_dataset.py --fix_left_right dataset/corrected

train() { # train NAME EPOCHS FLAGS...: what is complete is skipped, what was interrupted continues
    local name=$1 epochs=$2 resume=()
    shift 2
    [ -e "checkpoints/$name/Deeplab_checkpoint_epoch_$epochs.pt" ] && return
    [ -e "checkpoints/$name/last.pt" ] && resume=(--resume)
    python main_deeplab.py --save_prefix "$name" --epochs "$epochs" --optimizer adamw --weight_decay 0.01 \
        --schedule cosine --ema 0.998 --augment full --augment_from_epoch 1 --focal_weight 0 --dice_weight 0.5 \
        --dice_present_only --repeat_rare 0.25 --truth_dir dataset/corrected/val_mask "$@" "${resume[@]}"
}

train slim_256 60 --label_dir dataset/corrected/train_mask --image_size 256 --batch_size 16 --learning_rate 0.002 \
    --warmup_epochs 2 --dice_from_epoch 6 "$@"

[ -d dataset/train/slim_labels ] || python generate_labels.py --tta --threshold 1 \
    --checkpoint checkpoints/slim_256/Deeplab_checkpoint_epoch_60.pt --label_dir dataset/corrected/train_mask \
    --unlabelled_dir "${unlabelled[@]}" ${partial:+--partial_masks "${partial[@]}"} \
    --output_dir dataset/train/slim_labels --colored_dir dataset/train/slim_labels_colored

all=(--label_dir dataset/train/slim_labels --unlabelled_dir "${unlabelled[@]}" --dice_from_epoch 1 --warmup_epochs 1)
train slim_256_all 28 "${all[@]}" --load_model_path checkpoints/slim_256/Deeplab_checkpoint_epoch_60.pt \
    --image_size 256 --batch_size 16 --learning_rate 0.002 "$@"

train slim_512_all 20 "${all[@]}" --load_model_path checkpoints/slim_256_all/Deeplab_checkpoint_epoch_28.pt \
    --image_size 512 --batch_size 8 --learning_rate 0.0015 "$@"
