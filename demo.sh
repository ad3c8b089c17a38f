#!/usr/bin/env bash
# The whole sequence on drawn faces, in a few minutes on two cores; `make demo` calls it. Everything lands in demo/.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf demo checkpoints/demo

python -m tools.make_sample_dataset --output_dir demo/dataset --train 96 --val 24 --image_size 128

python main_deeplab.py --dataset_dir demo/dataset --image_size 128 --batch_size 8 --epochs 40 --learning_rate 0.003 \
    --ema 0.99 --self_distill_epoch 24 --save_prefix demo

python validate.py --checkpoint checkpoints/demo/best.pt --image_dir demo/dataset/val/val_image --image_size 128 \
    --output_dir demo/predictions

for script in evaluate.py f1score.py iouclass.py; do
    python $script --submit_dir demo/predictions --truth_dir demo/dataset/val/val_mask --output_dir demo
done

python color_visualization.py --label_dir demo/predictions --image_dir demo/dataset/val/val_image --sheet demo/sheet.png
python class_imbalance_fig.py --label_dir demo/dataset/train/train_mask --output_dir demo --log

# A real portrait, with the shipped checkpoint: the demo's own training has seen only drawn faces.
python validate.py --image_dir assets/astronaut.jpg --output_dir demo/portrait
python color_visualization.py --label_dir demo/portrait --image_dir assets/astronaut.jpg --sheet demo/portrait.png

echo "Done. Look at demo/portrait.png (a real portrait, parsed by the shipped checkpoint). Of the demo's own training, look"
echo "at demo/sheet.png (photographs, predictions, overlays), demo/proportions_given_data.png,"
echo "checkpoints/demo/training_loss_plot.png and the scores in demo/*.txt."
