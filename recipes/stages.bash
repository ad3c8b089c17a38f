# Sourced by the recipes that train in stages, on masks with left and right corrected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -d dataset/corrected ] || python -m tools.check_dataset --fix_left_right dataset/corrected
before="" # the last checkpoint of the stage before

stage() { # stage NAME EPOCHS FLAGS...: from the weights of the stage before; what is complete is left as it is
    local folder=checkpoints/$1 flags=(--save_prefix "$1" --epochs "$2" "${@:3}")
    [ -z "$before" ] || flags+=(--load_model_path "$before")
    before=$folder/Deeplab_checkpoint_epoch_$2.pt
    [ ! -e "$before" ] || return 0
    [ ! -e "$folder/last.pt" ] && [ ! -e "$folder/previous.pt" ] || flags+=(--resume)
    python main_deeplab.py --label_dir dataset/corrected/train_mask --truth_dir dataset/corrected/val_mask "${flags[@]}"
}
