#!/usr/bin/env bash
# The recipe of the shipped weights, from random ones, in six stages. Photographs without masks get their labels from
# the network of the stage before. Hours are those of one CPU core, with 700 photographs with masks and 1,157 without.
# On an NVIDIA H100 the first stage takes about 3 minutes; the others were not timed there, nor --cuda_graphs, which makes
# single steps faster on a GPU (docs/BENCHMARKS.md).
#
#   slim_256         60 epochs at 256 px on photographs with masks    1.1 h
#   slim_256_all     28 epochs at 256 px on all                       1.3 h
#   slim_512          5 epochs at 512 px on photographs with masks    0.6 h
#   slim_512_all      5 epochs at 512 px on all                       1.2 h and 0.3 h for the labels
#   slim_512_more    18 epochs at 512 px on all, labelled again       4.3 h and 0.3 h for the labels
#   slim_512_strong  12 epochs at 512 px on all, labelled again,      3.0 h and 0.3 h for the labels
#                    with CutMix and stronger changes of colour
#
#   bash recipes/slim.sh [--workers 4 ...]     # further flags go to every training; called again, it continues
#
# Photographs without masks are taken from the folders in UNLABELLED, else from dataset/test_image. Where that is
# missing, or has masks in dataset/test_mask to test on, the stages train on photographs with masks alone. PARTIAL_MASKS
# names folders of true masks of one class for some of them, as in
#   UNLABELLED="dataset/test_image more" PARTIAL_MASKS=hair=more_hair bash recipes/slim.sh
# The shipped weights had 957 photographs besides those of dataset/test_image. To repeat a stage, delete its folder and
# those of all later stages in checkpoints/, and their labels in dataset/train/.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${UNLABELLED:-}" ] || { [ -d dataset/test_image ] && [ ! -d dataset/test_mask ]; }; then
    read -ra unlabelled <<< "${UNLABELLED:-dataset/test_image}"
else
    unlabelled=()
    echo "no photographs without masks (dataset/test_image is missing or has masks to test on); UNLABELLED names others"
fi
read -ra partial <<< "${PARTIAL_MASKS:-}"
[ -z "${partial:-}" ] || [ -n "${unlabelled:-}" ] || { echo "error: PARTIAL_MASKS needs UNLABELLED" >&2; exit 2; }

for folder in ${unlabelled:+"${unlabelled[@]}"} ${partial:+"${partial[@]#*=}"}; do # now, and not after an hour
    [ -d "$folder" ] || { echo "error: $folder: no such folder; see UNLABELLED and PARTIAL_MASKS in $0" >&2; exit 2; }
done
[ -d dataset/corrected ] || python -m tools.check_dataset --fix_left_right dataset/corrected

# Place 0 is empty, so that stage 1 is at place 1.
names=(- slim_256 slim_256_all slim_512 slim_512_all slim_512_more slim_512_strong)
epochs=(- 60 28 5 5 18 12)
checkpoint() { echo "checkpoints/${names[$1]}/Deeplab_checkpoint_epoch_${epochs[$1]}.pt"; }

complete=0
for stage in 1 2 3 4 5 6; do
    [ ! -e "$(checkpoint $stage)" ] || complete=$stage
done
[ $complete = 0 ] || echo "continuing after stage $complete, by its $(checkpoint $complete)"

train() { # train STAGE FLAGS...: from the weights of the stage before; what was interrupted continues
    local name=${names[$1]} flags=(--epochs "${epochs[$1]}" "${@:2}")
    [ "$1" -gt "$complete" ] || return 0
    [ "$1" = 1 ] || flags+=(--load_model_path "$(checkpoint $(($1 - 1)))")
    [ ! -e "checkpoints/$name/last.pt" ] && [ ! -e "checkpoints/$name/previous.pt" ] || flags+=(--resume)
    python main_deeplab.py --save_prefix "$name" --optimizer adamw --weight_decay 0.01 --schedule cosine --ema 0.998 \
        --augment full --augment_from_epoch 1 --focal_weight 0 --dice_weight 0.5 --dice_present_only \
        --repeat_rare 0.25 --truth_dir dataset/corrected/val_mask "${flags[@]}"
}

label() { # label STAGE FOLDER FLAGS...: the corrected masks, and for the other photographs labels by the stage before
    [ "$1" -gt "$complete" ] || return 0
    [ ! -d "$2" ] || { echo "$2: used as it is; delete it to label again"; return 0; }
    python generate_labels.py --tta --threshold 1 --checkpoint "$(checkpoint $(($1 - 1)))" \
        --label_dir dataset/corrected/train_mask ${unlabelled:+--unlabelled_dir "${unlabelled[@]}"} \
        ${partial:+--partial_masks "${partial[@]}"} --output_dir "$2" --colored_dir "$2_colored" "${@:3}"
}

small=(--image_size 256 --batch_size 16 --learning_rate 0.002)
large=(--image_size 512 --batch_size 8 --learning_rate 0.0015 --warmup_epochs 1 --dice_from_epoch 1)
together=(${unlabelled:+--unlabelled_dir "${unlabelled[@]}"} --label_dir)
labels=dataset/train/slim_labels

train 1 "${small[@]}" --warmup_epochs 2 --dice_from_epoch 6 --label_dir dataset/corrected/train_mask "$@"
label 2 "$labels"
train 2 "${small[@]}" --warmup_epochs 1 --dice_from_epoch 1 "${together[@]}" "$labels" "$@"
train 3 "${large[@]}" --label_dir dataset/corrected/train_mask "$@"
label 4 "${labels}_2"
train 4 "${large[@]}" "${together[@]}" "${labels}_2" "$@"
label 5 "${labels}_3"
train 5 "${large[@]}" "${together[@]}" "${labels}_3" "$@"
label 6 "${labels}_4" ${unlabelled:+--doubtful ear_r=0.05 neck_l=0.05 eye_g=0.05 hat=0.05 cloth=0.1}
train 6 "${large[@]}" "${together[@]}" "${labels}_4" --augment strong "$@"
