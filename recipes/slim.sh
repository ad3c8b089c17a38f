#!/usr/bin/env bash
# Our slim network from random weights, on the photographs that have masks, in two stages:
#
#   slim_256    30 epochs at 256 px
#   slim_512    20 epochs at 512 px
#
#   bash recipes/slim.sh [--workers 4 ...]     # further flags go to both; called again, it continues
source "$(dirname "$0")/stages.bash"
stage slim_256 30 --image_size 256 --learning_rate 0.002 "$@"
stage slim_512 20 --batch_size 8 "$@"
