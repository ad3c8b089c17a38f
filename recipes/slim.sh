#!/usr/bin/env bash
# The recipe of the default network, from random weights, in five stages. The photographs without masks are labelled by
# the network so far. Hours are those of one CPU core, with 700 photographs with masks and 1,157 without.
#
#   slim_256         60 epochs at 256 px on photographs with masks    1.1 h
#   slim_256_all     28 epochs at 256 px on all                       1.3 h
#   slim_512          5 epochs at 512 px on photographs with masks    0.6 h
#   slim_512_all      5 epochs at 512 px on all                       1.2 h and 0.3 h for the labels
#   slim_512_more    18 epochs at 512 px on all, labelled again       4.3 h and 0.3 h for the labels
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
    [ -e "checkpoints/$name/last.pt" ] || [ -e "checkpoints/$name/previous.pt" ] && resume=(--resume)
    python main_deeplab.py --save_prefix "$name" --epochs "$epochs" --optimizer adamw --weight_decay 0.01 \
        --schedule cosine --ema 0.998 --augment full --augment_from_epoch 1 --focal_weight 0 --dice_weight 0.5 \
        --dice_present_only --repeat_rare 0.25 --truth_dir dataset/corrected/val_mask "$@" ${resume:+"${resume[@]}"}
}

label() { # label CHECKPOINT FOLDER: the corrected masks as they are, and labels for the photographs without masks
    [ -d "$2" ] || python generate_labels.py --tta --threshold 1 --checkpoint "$1" \
        --label_dir dataset/corrected/train_mask --unlabelled_dir "${unlabelled[@]}" \
        ${partial:+--partial_masks "${partial[@]}"} --output_dir "$2" --colored_dir "$2_colored"
}

together=(--unlabelled_dir "${unlabelled[@]}" --dice_from_epoch 1 --warmup_epochs 1)
large=(--image_size 512 --batch_size 8 --learning_rate 0.0015)
first=checkpoints/slim_256/Deeplab_checkpoint_epoch_60.pt
second=checkpoints/slim_256_all/Deeplab_checkpoint_epoch_28.pt
third=checkpoints/slim_512/Deeplab_checkpoint_epoch_5.pt
fourth=checkpoints/slim_512_all/Deeplab_checkpoint_epoch_5.pt

if [ ! -e "$fourth" ]; then
    if [ ! -e "$second" ]; then
        train slim_256 60 --label_dir dataset/corrected/train_mask --image_size 256 --batch_size 16 \
            --learning_rate 0.002 --warmup_epochs 2 --dice_from_epoch 6 "$@"
        label "$first" dataset/train/slim_labels
        train slim_256_all 28 "${together[@]}" --label_dir dataset/train/slim_labels --load_model_path "$first" \
            --image_size 256 --batch_size 16 --learning_rate 0.002 "$@"
    fi
    train slim_512 5 "${large[@]}" --label_dir dataset/corrected/train_mask --load_model_path "$second" \
        --warmup_epochs 1 --dice_from_epoch 1 "$@"
    label "$third" dataset/train/slim_labels_2
    train slim_512_all 5 "${together[@]}" "${large[@]}" --label_dir dataset/train/slim_labels_2 \
        --load_model_path "$third" "$@"
fi
label "$fourth" dataset/train/slim_labels_3
train slim_512_more 18 "${together[@]}" "${large[@]}" --label_dir dataset/train/slim_labels_3 \
    --load_model_path "$fourth" "$@"
